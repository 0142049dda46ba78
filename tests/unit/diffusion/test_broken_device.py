import subprocess
import sys

import pytest
import torch

from diffusion.devices import broken

FAULT = """
import torch
from diffusion.devices import broken
device = torch.device("cuda")
assert not broken(device)
try:
    torch.zeros(4, device=device)[torch.tensor([10**6], device=device)].sum().item()
except RuntimeError:
    print("broken" if broken(device) else "whole")
"""
FULL = """
import torch
from diffusion.devices import broken
device = torch.device("cuda")
try:
    torch.empty(2**50, device=device)
except torch.cuda.OutOfMemoryError:
    print("broken" if broken(device) else "whole")
"""


def test_a_processor_is_never_broken() -> None:
    assert broken(torch.device("cpu")) is False


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("program", "verdict"), [(FAULT, "broken"), (FULL, "whole")])
def test_a_fault_breaks_the_process_and_a_lack_of_memory_does_not(program: str, verdict: str) -> None:
    ran = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip() == verdict, ran.stderr[-2000:]

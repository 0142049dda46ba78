"""Accelerate with several processes, on the CPU: gloo between them in place of NCCL."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.trainer import two_processes
from tests.tiny import build_tiny_flux
from trainer.checkpoints import CheckpointFolder

ACCELERATE = ["--num_processes=2", "--num_machines=1", "--main_process_port=0", "--dynamo_backend=no"]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    # --multi_gpu: without it accelerate starts a single process where it finds no second GPU. bf16, which its own configuration file may
    # say too, is not how this base is held, and must not count
    "accelerate launch": ["accelerate.commands.launch", "--multi_gpu", *ACCELERATE, "--mixed_precision=bf16"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_fit_the_same_adapter_as_one(tmp_path: Path, launcher: str) -> None:
    """They share each batch; only the order of additions differs."""
    base = build_tiny_flux(tmp_path / "flux")
    two_processes.main(base, tmp_path / "one")
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", two_processes.__name__]
    subprocess.run([*command, str(base), str(tmp_path / "two")], check=True, capture_output=True, timeout=120)
    assert {path.name for path in (tmp_path / "two").glob("process-*")} == {"process-0-of-2", "process-1-of-2"}
    one, two = (load_file(CheckpointFolder(tmp_path / name, {}).candidates()[4]) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5)

"""Whether cuDNN's attention may be used for the backward pass here: it is almost twice as fast as flash on Hopper, and has been broken.

Versions of cuDNN gave NaN, or read where they must not, depending on what lay in memory before and on the number of tokens. So it is tried
in a process of its own, on memory that is full of NaN, at every token count that training meets. The answer is kept on disk for this GPU,
torch and cuDNN. Run as ``python -m diffusion.attention_probe HEADS HEAD_DIM TOKENS…``: exit status 0 means sound.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.errors import UserError
from core.logs import get_logger
from diffusion.attention import check_gradients

log = get_logger("diffusion")

TIMEOUT_S = 180
REPEATS = 3  # what lies in memory differs from time to time
MIB = 2**20


def cudnn_is_sound(device: torch.device, heads: int, head_dim: int, tokens: Sequence[int], answers: Path | None = None) -> bool:
    """Asks the file ``answers`` or, once, a child process."""
    if device.type != "cuda" or not torch.backends.cudnn.is_available():
        return False
    key = " ".join(
        map(str, (torch.cuda.get_device_name(device), torch.__version__, torch.backends.cudnn.version(), heads, head_dim, *tokens))
    )
    known: dict[str, bool] = json.loads(answers.read_text()) if answers is not None and answers.is_file() else {}
    if key not in known:
        known[key] = _try(heads, head_dim, tokens)
        if answers is not None:
            answers.parent.mkdir(parents=True, exist_ok=True)
            answers.write_text(json.dumps(known, indent=1))
    return known[key]


def _try(heads: int, head_dim: int, tokens: Sequence[int]) -> bool:
    command = [sys.executable, "-m", "diffusion.attention_probe", *map(str, (heads, head_dim, *tokens))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    reason = (done.stderr.strip().splitlines() or [""])[-1][:300]
    log.info("cuDNN attention tried", sound=done.returncode == 0, **({"reason": reason} if done.returncode else {}))
    return done.returncode == 0


def spoil_memory(device: torch.device) -> None:
    """Leaves blocks full of NaN in the allocator's cache, of many sizes: what is handed out next is as dirty as after hours of work."""
    budget, blocks = torch.cuda.mem_get_info(device)[0] // 4, []
    for size in [MIB * 2**power for power in range(10)] * 4:
        if (budget := budget - size) > 0:
            blocks.append(torch.full((size // 4,), float("nan"), device=device))
    del blocks


def main(arguments: Sequence[str]) -> int:
    device, (heads, head_dim, *tokens) = torch.device("cuda"), map(int, arguments)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        for count in tokens:
            for _ in range(REPEATS):
                spoil_memory(device)
                try:
                    check_gradients(device, torch.bfloat16, heads=heads, head_dim=head_dim, tokens=count)
                except UserError as error:
                    print(f"{count} tokens: {error.detail}", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

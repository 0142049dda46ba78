"""Attention kernels, forward and backward, at the shapes of training: speed, error, and whether the gradients are numbers.

Each kernel runs in a process of its own, since a broken one can take its process with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.floor import synchronise
from benchmarks.record import Record

Result = TypeVar("Result")

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
HEADS, WIDTH = 24, 128
TOKENS = (1152, 1536, 2432, 4608)
LAYOUTS = ("heads-first", "tokens-first")  # memory order of q, k, v; the transformer's is tokens-first


def attention_table(record: Record, device: torch.device) -> None:
    if device.type != "cuda":
        record.add(section="attention", what="math", **measure("math", 64, "tokens-first", device))
        return
    for name in BACKENDS:
        for layout in LAYOUTS:
            command = [sys.executable, "-m", "benchmarks.attention", name, layout]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            for row in rows:
                record.add(section="attention", what=name, layout=layout, **row)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["?"])[-1]
                record.add(section="attention", what=name, layout=layout, failed=reason[:200])


def measure(name: str, tokens: int, layout: str, device: torch.device) -> dict[str, object]:
    """One shape: seconds forward and backward, and the error of the gradients against float32."""
    backends = [BACKENDS.get(name, SDPBackend.MATH)]
    q, k, v, g = (_input(tokens, layout, seed, device) for seed in range(4))
    forward, backward = [], []
    for _ in range(8 if device.type == "cuda" else 1):
        for tensor in (q, k, v):
            tensor.grad = None
        with sdpa_kernel(backends):
            forward.append(_timed(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v), device))
            out = forward[-1][1]
            backward.append(_timed(partial(out.backward, g), device))
    flops = 4 * tokens**2 * HEADS * WIDTH
    seconds = [min(taken for taken, _ in runs) for runs in (forward, backward)]
    rates = [round(work / taken / 1e12, 1) for work, taken in zip((flops, 2.5 * flops), seconds, strict=True)]
    finite = all(bool(torch.isfinite(tensor.grad).all()) for tensor in (q, k, v))  # type: ignore[arg-type]
    error = _error(q, k, v, g) if finite else None
    return {"tokens": tokens, "forward_tflops": rates[0], "backward_tflops": rates[1], "finite": finite, "gradient_error": error}


def _input(tokens: int, layout: str, seed: int, device: torch.device) -> torch.Tensor:
    shape = (1, HEADS, tokens, WIDTH) if layout == "heads-first" else (1, tokens, HEADS, WIDTH)
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.randn(shape, device=device, dtype=torch.bfloat16, generator=generator)
    return (drawn if layout == "heads-first" else drawn.transpose(1, 2)).requires_grad_(seed < 3)


def _timed(work: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    synchronise(device)
    start = time.perf_counter()
    result = work()
    synchronise(device)
    return time.perf_counter() - start, result


def _error(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor) -> float:
    """Relative, over all three gradients; four heads are enough to tell."""
    few_q, few_k, few_v = exact = [tensor.detach()[:, :4].float().requires_grad_() for tensor in (q, k, v)]
    with sdpa_kernel([SDPBackend.MATH]):
        torch.nn.functional.scaled_dot_product_attention(few_q, few_k, few_v).backward(g[:, :4].float())
    ours, theirs = [_gradient(tensor)[:, :4].float() for tensor in (q, k, v)], [_gradient(tensor) for tensor in exact]
    off = sum(float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True))
    return round((off / sum(float(b.square().sum()) for b in theirs)) ** 0.5, 5)


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad


if __name__ == "__main__":
    for count in TOKENS:
        print(json.dumps(measure(sys.argv[1], count, sys.argv[2], torch.device("cuda"))), flush=True)

"""Rows of a benchmark: printed and saved as they come, so that a run that is cut short keeps what it found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diffusion.devices import describe
from diffusion.loading import BaseModel

GIB = 2**30


@dataclass
class Book:
    """``common`` is in every row: model, weights, hardware."""

    path: Path | None
    common: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, **figures: Any) -> dict[str, Any]:
        row = {"what": what, **self.common, **figures, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
        return row


def takes(work: Callable[[], object], device: torch.device, count: int = 3) -> dict[str, Any]:
    """Seconds of ``count`` calls, each until the device is done: median, least, most."""
    seconds = [seconds_of(work, device) for _ in range(count)]
    return {"s": round(median(seconds), 6), "least_s": round(min(seconds), 4), "most_s": round(max(seconds), 4), "takes": count}


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    return round(torch.cuda.max_memory_allocated(device) / GIB, 2) if device.type == "cuda" else None


def held_gib(device: torch.device) -> float | None:
    return round(torch.cuda.memory_allocated(device) / GIB, 3) if device.type == "cuda" else None


def surroundings(base: BaseModel, model: str) -> dict[str, Any]:
    return {"model": model, "weights": base.facts.get("notes", "taught"), "hardware": describe(base.device), "torch": torch.__version__}


def matmul_rate(device: torch.device, side: int = 8192) -> float:
    """FLOP/s of a large bf16 matrix product on this device now."""
    side = side if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * side**3 / takes(lambda: a @ b, device, 20)["s"]


def forward_flops(base: BaseModel, side: int) -> float:
    """Of one forward of a picture: linear layers of the blocks and attention. The arithmetic floor is this over :func:`matmul_rate`."""
    blocks = [*base.transformer.transformer_blocks, *base.transformer.single_transformer_blocks]
    width = base.transformer.config.num_attention_heads * base.transformer.config.attention_head_dim
    tokens = (side // 16) ** 2 + base.max_text_tokens
    return 24.0 * len(blocks) * width**2 * tokens + 4.0 * len(blocks) * tokens**2 * width

"""The arithmetic floor of a LoRA training step: its multiplications at the rate that large matrices reach on this device."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from diffusion.frozen import FrozenLinear
from diffusion.slot_linear import SlotLinear

TEXT_SIDE = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context")


def step_flops(transformer: Any, picture_tokens: int, text_tokens: int, batch: int = 1) -> float:
    """Forward and backward of the frozen base: linear layers 2 FLOP a weight and token forward and as many again for the gradient of their
    input (weights have none); attention 4 T² width a block forward, 2.5 times that backward. Adapters, norms and modulations count nothing.
    """
    linear = sum(2 * weights * _tokens(name, picture_tokens, text_tokens) for name, weights in _linears(transformer))
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    attention = 4 * (picture_tokens + text_tokens) ** 2 * width * blocks
    return batch * (2 * linear + 3.5 * attention)


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of an 8192³ product in bf16 on random data (a CPU: 1024³ in float32); the best of some, after warming up."""
    on_gpu = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(13 if on_gpu else 3):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        synchronise(device)
        times.append((time.perf_counter() - start) / 4)
    return 2 * side**3 / min(times[1:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _linears(transformer: Any) -> list[tuple[str, int]]:
    """(name, weights) of the linear layers in blocks that every token goes through."""
    found = []
    for blocks in ("transformer_blocks", "single_transformer_blocks"):
        for name, module in getattr(transformer, blocks).named_modules():
            linear = isinstance(module, (nn.Linear, FrozenLinear, SlotLinear)) and not name.endswith(".base_layer")
            if linear and not any(part.startswith("norm") for part in name.split(".")):
                found.append((f"{blocks}.{name}", module.in_features * module.out_features))
    return found


def _tokens(name: str, picture: int, text: int) -> int:
    if name.startswith("single_"):
        return picture + text
    return text if any(mark in name for mark in TEXT_SIDE) else picture

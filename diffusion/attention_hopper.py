"""Attention for training on Hopper: cuDNN's forward pass, 1.8 times as fast as flash's, in front of flash's backward pass.

cuDNN's own backward pass is not to be had: it gave NaN with some versions, and where it passed every check in a process of its own it still
read outside its memory within compiled blocks. Flash's needs no more of the forward pass than its output and the logarithm of each row's
sum, which are the same numbers whoever computed them (Dao 2023, FlashAttention-2, algorithm 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import activate_flash_attention_impl, register_flash_attention_impl

NAME = "likeness: cuDNN forward, flash backward"
FLASH = "aten::_scaled_dot_product_flash_attention"
MAX_HEAD_DIM = 128
HOPPER = (9, 0)


def use_cudnn_forward(device: torch.device) -> bool:
    """From now on flash attention computes its forward pass so, in this whole process. True if this GPU gains by it."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != HOPPER or not torch.backends.cudnn.is_available():
        return False
    register_flash_attention_impl(NAME, register_fn=_install)
    activate_flash_attention_impl(NAME)
    return True


@dataclass
class _Installed:
    """Held by torch's registry for as long as ours is in use."""

    library: Any

    def remove(self) -> None:
        self.library = None


def _install() -> _Installed:
    own = torch.library.get_kernel(FLASH, "CUDA")

    def attend(
        keys: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        return_debug_mask: bool = False,
        *,
        scale: float | None = None,
    ) -> Any:
        if dropout_p or return_debug_mask or query.shape[-1] > MAX_HEAD_DIM:
            return own.call_boxed(keys, query, key, value, dropout_p, is_causal, return_debug_mask, scale=scale)
        forward = torch.ops.aten._scaled_dot_product_cudnn_attention
        out, log_sums = forward(query, key, value, None, True, 0.0, is_causal, False, scale=scale)[:2]
        return as_flash(query, key, out, log_sums)

    library = torch.library.Library("aten", "IMPL", "CUDA")  # held by torch's registry, or it would end with this function
    library.impl(FLASH.removeprefix("aten::"), attend, "CUDA", with_keyset=True)
    return _Installed(library)


def as_flash(query: torch.Tensor, key: torch.Tensor, out: torch.Tensor, log_sums: torch.Tensor) -> tuple[Any, ...]:
    """cuDNN's answer as flash gives its own: ``out`` laid out as the query [B, H, S, D], log sums [B, H, S, 1] as [B, H, S].

    Nothing is random without dropout: the generator's state is there for its shape.
    """
    if out.stride() != query.stride():
        out = torch.empty_like(query).copy_(out)
    state = torch.zeros(2, dtype=torch.uint64, device=query.device)
    offset = torch.zeros((), dtype=torch.uint64, device=query.device)
    nothing = torch.empty(0, dtype=query.dtype, device=query.device)
    return out, log_sums.squeeze(-1).contiguous(), None, None, query.shape[2], key.shape[2], state, offset, nothing

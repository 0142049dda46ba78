"""Attention for training on Hopper: cuDNN's forward pass, 1.8 times as fast as flash's, in front of a flash backward pass.

cuDNN's own backward pass is not to be had: it gave NaN with some versions, and where it passed every check in a process of its own it still
read outside its memory within compiled blocks. Flash's needs no more of the forward pass than its output and the logarithm of each row's
sum, which are the same numbers whoever computed them (Dao 2023, FlashAttention-2, algorithm 2). So the backward pass may be torch's own
flash kernel, written for the generation before, or FlashAttention 4's, written for this one, where its package is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch.nn.attention import activate_flash_attention_impl, register_flash_attention_impl

FLASH = "aten::_scaled_dot_product_flash_attention"
MAX_HEAD_DIM = 128
HOPPER = (9, 0)

Kernel = Callable[..., Any]


def use_cudnn_forward(device: torch.device) -> bool:
    """From now on flash attention computes its forward pass so, in this whole process. True if this GPU gains by it."""
    return _use("likeness: cuDNN forward, flash backward", device, {FLASH: _cudnn_forward})


def use_cudnn_and_flash4(device: torch.device) -> bool:
    """The same with FlashAttention 4's backward pass. ImportError if its package lacks what torch itself calls in it."""
    return _use(
        "likeness: cuDNN forward, FlashAttention 4 backward", device, {FLASH: _cudnn_forward, f"{FLASH}_backward": _flash4_backward}
    )


def _use(name: str, device: torch.device, kernels: dict[str, Callable[[Kernel], Kernel]]) -> bool:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != HOPPER or not torch.backends.cudnn.is_available():
        return False
    register_flash_attention_impl(name, register_fn=lambda: _Installed(kernels))
    activate_flash_attention_impl(name)
    return True


@dataclass
class _Installed:
    """Held by torch's registry for as long as ours is in use. ``kernels``: operator → what makes ours, given torch's own."""

    kernels: dict[str, Callable[[Kernel], Kernel]]
    library: Any = field(init=False)

    def __post_init__(self) -> None:
        self.library = torch.library.Library("aten", "IMPL", "CUDA")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)  # that a kernel is replaced: it is meant
            for operator, make in self.kernels.items():
                own = torch.library.get_kernel(operator, "CUDA").call_boxed
                self.library.impl(operator.removeprefix("aten::"), make(own), "CUDA", with_keyset=True)

    def remove(self) -> None:
        self.library = None


def _cudnn_forward(own: Kernel) -> Kernel:
    forward = torch.ops.aten._scaled_dot_product_cudnn_attention

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
            return own(keys, query, key, value, dropout_p, is_causal, return_debug_mask, scale=scale)
        out, log_sums = forward(query, key, value, None, True, 0.0, is_causal, False, scale=scale)[:2]
        return as_flash(query, key, out, log_sums)

    return attend


def _flash4_backward(own: Kernel) -> Kernel:
    """Called as torch calls it for its own "FA4", but on the tensors as they lie: [B, S, H, D] in memory, so nothing is copied."""
    backward = getattr(import_module("flash_attn.cute.interface"), "_flash_attn_bwd", None)
    if backward is None:
        raise ImportError("flash_attn.cute.interface has no _flash_attn_bwd")

    def attend_backward(keys: Any, *tensors: Any, scale: float | None = None) -> Any:
        gradient, query, key, value, out, log_sums, _, _, _, _, dropout_p, is_causal, *_ = tensors
        if dropout_p or query.shape[-1] > MAX_HEAD_DIM or query.dtype is torch.float32:
            return own(keys, *tensors, scale=scale)
        rows = (tensor.transpose(1, 2) for tensor in (query, key, value, out, gradient))
        return tuple(one.transpose(1, 2) for one in backward(*rows, log_sums, softmax_scale=scale, causal=is_causal))

    return attend_backward


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

"""Frozen linear layers in 4 bits, by bitsandbytes' kernels for the CPU and CUDA."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diffusion.frozen import FrozenLinear

Held = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
NF4_BLOCK, SCALE_BLOCK = 64, 256  # values that share a scale; scales that share a scale of theirs


class Nf4Linear(FrozenLinear):
    """4-bit normal floats with doubly quantised scales (QLoRA, Dettmers et al. 2023): 0.52 bytes a weight; products in the working type."""

    packed: torch.Tensor
    scales: torch.Tensor
    scale_scales: torch.Tensor
    code: torch.Tensor
    offset: torch.Tensor

    @staticmethod
    def fits(linear: nn.Linear) -> bool:
        """Rows of whole blocks only: bitsandbytes' CPU kernel unpacks others wrongly."""
        return linear.in_features % NF4_BLOCK == 0

    def _hold(self, weight: torch.Tensor) -> None:
        import bitsandbytes.functional as bnb  # hundreds of megabytes that only this precision needs

        packed, state = bnb.quantize_4bit(weight.contiguous(), blocksize=NF4_BLOCK, quant_type="nf4", compress_statistics=True)
        assert state.state2.blocksize == SCALE_BLOCK
        self.register_buffer("packed", packed)
        self.register_buffer("scales", state.absmax)
        self.register_buffer("scale_scales", state.state2.absmax)
        self.register_buffer("code", state.state2.code)
        self.register_buffer("offset", state.offset)

    @property
    def held(self) -> Held:
        return self.packed, self.scales, self.scale_scales, self.code, self.offset

    def dequantised(self) -> torch.Tensor:
        return unpack_nf4(*self.held, self.out_features, self.in_features, self.weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nf4_product(x.reshape(-1, self.in_features), *self.held, self.out_features, self.in_features, False)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features)


def unpack_nf4(
    packed: torch.Tensor,
    scales: torch.Tensor,
    scale_scales: torch.Tensor,
    code: torch.Tensor,
    offset: torch.Tensor,
    rows: int,
    columns: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The weight [rows, columns]."""
    ops = torch.ops.bitsandbytes
    absmax = ops.dequantize_blockwise(scales, scale_scales, code, SCALE_BLOCK, torch.float32) + offset
    return ops.dequantize_4bit(packed, absmax, NF4_BLOCK, "nf4", (rows, columns), dtype)


@torch.library.custom_op("likeness::nf4_product", mutates_args=())
def nf4_product(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    scale_scales: torch.Tensor,
    code: torch.Tensor,
    offset: torch.Tensor,
    rows: int,
    columns: int,
    backwards: bool,
) -> torch.Tensor:
    """x Wᵀ, or x W if ``backwards``. One opaque operation, so that a compiler cannot keep the unpacked weight for the backward pass."""
    weight = unpack_nf4(packed, scales, scale_scales, code, offset, rows, columns, x.dtype)
    return x @ (weight if backwards else weight.t())


@nf4_product.register_fake
def _(
    x: torch.Tensor,
    packed: torch.Tensor,
    scales: torch.Tensor,
    scale_scales: torch.Tensor,
    code: torch.Tensor,
    offset: torch.Tensor,
    rows: int,
    columns: int,
    backwards: bool,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], columns if backwards else rows)


def _keep_packed(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, *held, ctx.rows, ctx.columns, _ = inputs
    ctx.save_for_backward(*held)


def _nf4_gradient(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return nf4_product(gradient, *ctx.saved_tensors, ctx.rows, ctx.columns, True), *(None,) * 8


nf4_product.register_autograd(_nf4_gradient, setup_context=_keep_packed)

"""Frozen linear layers in fp8 (e4m3) with a scale for each row, for cards with fp8 matrix units; elsewhere the same rounding in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diffusion.devices import has_fp8
from diffusion.frozen import FrozenLinear

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
SMALLEST = 1e-30  # of a scale: rows of gradients can be tiny, rows of zeros must not divide by zero
FP8_MULTIPLE = 16  # torch._scaled_mm wants both sides of the weight to be multiples of this


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[M, K] → e4m3 and its scales [M, 1] float32: each row's largest value becomes 448, the largest e4m3 (Micikevicius et al. 2022)."""
    scale = (x.abs().amax(-1, keepdim=True).float() / E4M3_MAX).clamp(min=SMALLEST)
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale


class Fp8Linear(FrozenLinear):
    """Weights and activations in e4m3 with a scale for each row; the backward pass multiplies with the same fp8 weights.

    1 byte a weight, or 2 with ``transposed`` (the matrix unit wants another memory order in the backward pass: kept, or made on each call).
    """

    fp8: torch.Tensor
    scale: torch.Tensor
    ones: torch.Tensor
    fp8_t: torch.Tensor | None

    def __init__(self, linear: nn.Linear, *, transposed: bool = True) -> None:
        super().__init__(linear)
        self.native = has_fp8(self.fp8.device) and self.weight.dtype is torch.bfloat16  # asked here: a compiler cannot ask a driver
        self.register_buffer("fp8_t", self.fp8.t().contiguous() if transposed else None)

    @staticmethod
    def fits(linear: nn.Linear) -> bool:
        return linear.in_features % FP8_MULTIPLE == 0 and linear.out_features % FP8_MULTIPLE == 0

    def _hold(self, weight: torch.Tensor) -> None:
        fp8, scale = quantise_rows(weight)
        self.register_buffer("fp8", fp8)
        self.register_buffer("scale", scale)
        self.register_buffer("ones", torch.ones(1, weight.shape[1], device=weight.device))

    @torch.no_grad()
    def store_(self, weight: torch.Tensor) -> None:
        """Holds another weight [out, in] from now on, in the same storage. The weight that it was made of gives the same bits again."""
        fp8, scale = quantise_rows(weight)
        self.fp8.copy_(fp8)
        self.scale.copy_(scale)
        if self.fp8_t is not None:
            self.fp8_t.copy_(fp8.t())

    def dequantised(self) -> torch.Tensor:
        return (self.fp8.float() * self.scale).to(self.weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _Fp8Product.apply(x.reshape(-1, self.in_features), self.fp8, self.scale, self.fp8_t, self.ones, self.bias, self.native)
        return y.view(*x.shape[:-1], self.out_features)


class _Fp8Product(torch.autograd.Function):
    """y = x Wᵀ + b with W = scale · fp8. In the gradient g W the scales lie along the summed side: they go into g before it is rounded."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, fp8: torch.Tensor, scale: torch.Tensor, fp8_t: Any, ones: torch.Tensor, bias: Any, native: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(fp8, scale, fp8_t, ones)
        ctx.native = native
        rounded, row_scale = quantise_rows(x)
        return scaled_product(rounded, row_scale, fp8, scale.t(), bias, x.dtype, native)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        fp8, scale, fp8_t, ones = ctx.saved_tensors
        (gradient,) = gradients
        rounded, row_scale = quantise_rows(gradient.float() * scale.t())
        transposed = fp8.t().contiguous() if fp8_t is None else fp8_t
        return scaled_product(rounded, row_scale, transposed, ones, None, gradient.dtype, ctx.native), *(None,) * 6


def scaled_product(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
    native: bool,
) -> torch.Tensor:
    """(a_scale · a) (b_scaleᵀ · b)ᵀ + bias for e4m3 a [M, K], b [N, K], a_scale [M, 1], b_scale [1, N]; float32 accumulation.

    ``native``: by the card's fp8 matrix units, for bf16 alone. Else the same rounded values are multiplied in float32.
    """
    if native:
        return torch._scaled_mm(a, b.t(), scale_a=a_scale, scale_b=b_scale, bias=bias, out_dtype=dtype, use_fast_accum=True)
    product = (a.float() @ b.float().t()) * a_scale * b_scale
    return (product if bias is None else product + bias.float()).to(dtype)

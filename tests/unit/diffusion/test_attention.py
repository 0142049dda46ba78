from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from core.errors import UserError
from diffusion import attention

CPU = torch.device("cpu")
SHAPE = {"heads": 3, "head_dim": 16, "tokens": 40}


class Spoiled(torch.autograd.Function):
    """The right output with a gradient that went wrong on its way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.factor, None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sound_attention_passes(dtype: torch.dtype) -> None:
    worst = attention.check_gradients(CPU, dtype, **SHAPE)
    assert worst < (1e-5 if dtype is torch.float32 else 0.02)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0, 1.2, -1.0])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_broken_backward_pass_is_refused(factor: float, which: int) -> None:
    def attend(*inputs: torch.Tensor) -> torch.Tensor:
        spoiled = [Spoiled.apply(x, factor) if number == which else x for number, x in enumerate(inputs)]
        return scaled_dot_product_attention(*spoiled)

    with pytest.raises(UserError) as refused:
        attention.check_gradients(CPU, torch.float32, **SHAPE, attend=attend)
    assert refused.value.type == "attention/broken"


def test_the_check_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert attention.check_gradients(CPU, torch.float32, **SHAPE) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_attention_is_sound_at_flux_shapes() -> None:
    device = torch.device("cuda")
    with attention.training_attention(device):
        assert attention.check_gradients(device, torch.bfloat16, heads=24, head_dim=128, tokens=4608) < 0.02

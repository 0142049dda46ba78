from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import restore_flash_attention_impl
from torch.nn.functional import scaled_dot_product_attention

from core.errors import UserError
from diffusion import attention
from diffusion.attention_hopper import as_flash, use_cudnn_and_flash4, use_cudnn_forward

CPU = torch.device("cpu")
SHAPE = {"heads": 2, "head_dim": 16}


def test_only_a_gpu_that_gains_by_it_gets_other_kernels() -> None:
    assert use_cudnn_forward(CPU) is False
    assert use_cudnn_and_flash4(CPU) is False


def test_a_package_that_is_not_there_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "use_cudnn_and_flash4", lambda device: pytest.fail("was asked"))
    assert attention._use_flash4_backward(CPU) is False


def test_an_answer_of_cudnn_looks_like_one_of_flash() -> None:
    query = torch.randn(1, 6, 3, 8).transpose(1, 2)  # [B, H, S, D] on memory of [B, S, H, D], as the transformer gives it
    out, log_sums, *_ = as_flash(query, query[:, :, :4], torch.arange(144.0).view(1, 3, 6, 8), torch.arange(18.0).view(1, 3, 6, 1))
    assert out.stride() == query.stride()
    assert torch.equal(out.flatten(), torch.arange(144.0))
    assert torch.equal(log_sums, torch.arange(18.0).view(1, 3, 6))


def test_the_processor_has_one_sound_attention() -> None:
    assert attention.prepare_training_attention(CPU, torch.float32, **SHAPE) == "torch's own"


@pytest.mark.parametrize(
    "error", [UserError("attention/broken", "Attention gives wrong gradients", "made up"), RuntimeError("no such chip")]
)
def test_kernels_that_spoil_gradients_or_fail_are_taken_out_and_the_next_are_tried(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    active: list[str] = []
    true_check = attention.check_gradients

    def check(*args: object, **shape: object) -> float:
        if active == ["broken"]:
            raise error
        return true_check(*args, **shape)  # type: ignore[arg-type]

    ways = {"absent": lambda device: False, "broken": lambda device: not active.append("broken"), "good": lambda device: True}
    monkeypatch.setattr(attention, "WAYS", ways)
    monkeypatch.setattr(attention, "restore_flash_attention_impl", lambda **how: active.clear())
    monkeypatch.setattr(attention, "check_gradients", check)
    assert attention.prepare_training_attention(CPU, torch.float32, **SHAPE) == "good"
    assert not active


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("use", [use_cudnn_forward, use_cudnn_and_flash4])
@pytest.mark.parametrize("compiled", [False, True])
def test_both_kernels_together_give_flash_gradients(compiled: bool, use: Callable[[torch.device], bool]) -> None:
    if use is use_cudnn_and_flash4:
        pytest.importorskip(attention.FLASH4)
    device = torch.device("cuda")
    q, k, v, g = (torch.randn(2, 1408, 24, 128, device=device, dtype=torch.bfloat16) for _ in range(4))

    def gradients() -> list[torch.Tensor]:
        leaves = [x.detach().transpose(1, 2).requires_grad_() for x in (q, k, v)]
        attend = torch.compile(scaled_dot_product_attention, fullgraph=True) if compiled else scaled_dot_product_attention
        with attention.training_attention(device):
            return list(torch.autograd.grad(attend(*leaves), leaves, g.transpose(1, 2)))

    plain = gradients()
    torch._dynamo.reset()
    if not use(device):
        pytest.skip("this GPU uses flash for both")
    try:
        mixed = gradients()
    finally:
        restore_flash_attention_impl()
    assert all((a.float() - b.float()).norm() / b.float().norm() < 0.01 for a, b in zip(mixed, plain, strict=True))

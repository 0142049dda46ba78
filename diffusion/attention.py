"""Which attention kernels compute, and a check that refuses one whose backward pass is broken before it can spoil an adapter.

Compiled graphs keep the kernel that was chosen when they were traced: trace training inside ``training_attention``, rendering inside
``rendering_attention``.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    list_flash_attention_impls,
    restore_flash_attention_impl,
    sdpa_kernel,
)
from torch.nn.functional import scaled_dot_product_attention

from core.errors import UserError
from core.logs import get_logger
from diffusion.attention_hopper import use_cudnn_and_flash4, use_cudnn_forward
from diffusion.devices import training_attention

__all__ = ["check_gradients", "prepare_training_attention", "rendering_attention", "training_attention"]

log = get_logger("diffusion")

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
FORWARD_ONLY = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
CHECKED_TOKENS = 1152  # 512² and 128 of text
TOLERANCE = 0.05  # relative error of a gradient: bf16 kernels stay below 0.01, broken ones are off by their own size or not finite


@contextmanager
def rendering_attention(device: torch.device) -> Iterator[None]:
    """cuDNN first where there is no backward pass: about 10 % faster than flash for a whole forward at 1024² on Hopper."""
    if device.type != "cuda" or torch.is_grad_enabled():
        yield
        return
    with sdpa_kernel(FORWARD_ONLY, set_priority=True):
        yield


def prepare_training_attention(device: torch.device, dtype: torch.dtype, *, heads: int, head_dim: int) -> str:
    """Chooses for this process the fastest attention whose gradients are right here, and says which. Call it before training is traced.

    FlashAttention 4 or 3 if its package is installed (on Hopper cuDNN's forward pass before FlashAttention 4's backward pass), on Hopper
    else cuDNN's forward pass before flash's backward pass, else torch's flash.
    :class:`core.errors.UserError` if even that one gives wrong gradients.
    """
    shape: dict[str, Any] = {"heads": heads, "head_dim": head_dim, "tokens": CHECKED_TOKENS}
    with training_attention(device):
        for name, use in WAYS.items():
            try:
                if use(device):
                    check_gradients(device, dtype, **shape)
                    return name
            except (UserError, ImportError, RuntimeError, ValueError) as error:
                restore_flash_attention_impl(_raise_warn=False)
                log.warning("attention left out", kernels=name, reason=getattr(error, "detail", "") or str(error))
        check_gradients(device, dtype, **shape)
        return "flash" if device.type == "cuda" else "torch's own"


def _use_package(package: str, implementation: str) -> Callable[[torch.device], bool]:
    """A FlashAttention that torch can put in the place of its own, forward and backward. True if it is there and in use now."""

    def use(device: torch.device) -> bool:
        if device.type != "cuda" or not _is_installed(package) or implementation not in list_flash_attention_impls():
            return False
        activate_flash_attention_impl(implementation)
        return True

    return use


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


def _use_flash4_backward(device: torch.device) -> bool:
    return _is_installed(FLASH4) and use_cudnn_and_flash4(device)


FLASH4 = "flash_attn.cute"
WAYS: dict[str, Callable[[torch.device], bool]] = {  # fastest first
    "cuDNN forward, FlashAttention 4 backward": _use_flash4_backward,
    "FlashAttention 4": _use_package(FLASH4, "FA4"),
    "FlashAttention 3": _use_package("flash_attn_interface", "FA3"),
    "cuDNN forward, flash backward": use_cudnn_forward,
}


def check_gradients(
    device: torch.device, dtype: torch.dtype, *, heads: int, head_dim: int, tokens: int, attend: Attend = scaled_dot_product_attention
) -> float:
    """One forward and backward of attention as the transformer calls it, against plain matrix products. Returns the largest relative error.

    :class:`core.errors.UserError` if the kernel that is chosen now (inside ``training_attention``) gives wrong or no gradients.
    """
    generator = torch.Generator(device).manual_seed(0)
    q, k, v, seed = (torch.randn(1, tokens, heads, head_dim, generator=generator, device=device, dtype=dtype) for _ in range(4))
    found = _gradients(attend, (q, k, v), seed)
    worst = max(_error(found, _reference(q, k, v, seed, head), head) for head in (0, heads // 2, heads - 1))
    if not worst < TOLERANCE:
        raise UserError(
            "attention/broken",
            "Attention gives wrong gradients on this GPU",
            f"Relative error {worst:.3g} with torch {torch.__version__} (a known fault of cuDNN's backward pass on Hopper). "
            "Switch it off with torch.backends.cuda.enable_cudnn_sdp(False), or change the version of torch.",
        )
    return worst


def _gradients(attend: Attend, inputs: tuple[torch.Tensor, ...], seed: torch.Tensor) -> list[torch.Tensor]:
    """Of output · seed by each input; all are [1, tokens, heads, head_dim], as the attention processors lay them out."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        out = attend(*(leaf.transpose(1, 2) for leaf in leaves)).transpose(1, 2)
        return list(torch.autograd.grad((out * seed).sum(), leaves))


def _reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seed: torch.Tensor, head: int) -> list[torch.Tensor]:
    """The reference gradients of one head, in float32: a single one keeps the score matrix small."""
    one = slice(head, head + 1)
    return _gradients(_plain, tuple(tensor[:, :, one].float() for tensor in (q, k, v)), seed[:, :, one].float())


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v


def _error(found: list[torch.Tensor], reference: list[torch.Tensor], head: int) -> float:
    """Largest relative error over the three gradients; infinite if a value is not finite."""
    errors = [float((a[:, :, head : head + 1].float() - b).norm() / b.norm()) for a, b in zip(found, reference, strict=True)]
    return max(error if math.isfinite(error) else math.inf for error in errors)

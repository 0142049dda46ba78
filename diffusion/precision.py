"""How many bits the frozen base model is held in, and in which type it multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from core.errors import UserError
from core.logs import get_logger
from diffusion.devices import free_memory, has_fp8

log = get_logger("diffusion")

GIB = 2**30
# FLUX.1-dev, LoRA step with checkpointing at 1024² (one H200): 25.5 GiB with 22.2 GiB of bf16 weights, 13.1 GiB with NF4.
WORKING_MEMORY = 4 * GIB
FLUX1_DEV_BYTES = 24 * 10**9
FP8_SHARE = 0.65  # of the bf16 bytes, with each fp8 weight held once: FLUX.1-dev's modulations stay bf16


@dataclass(frozen=True)
class Precision:
    """``name`` is how the blocks' weights are held (fp32, bf16, fp8, nf4), ``dtype`` what activations and LoRA products are computed in."""

    name: str
    dtype: torch.dtype

    @property
    def quantised(self) -> bool:
        return self.name in ("fp8", "nf4")


FP32, BF16 = Precision("fp32", torch.float32), Precision("bf16", torch.bfloat16)
FP8, NF4 = Precision("fp8", torch.bfloat16), Precision("nf4", torch.bfloat16)
BY_NAME = {precision.name: precision for precision in (FP32, BF16, FP8, NF4)}


def choose(setting: str, device: torch.device, weight_bytes: int | None = None) -> Precision:
    """The precision for a base model whose bf16 transformer takes ``weight_bytes`` (None: as large as FLUX.1-dev).

    ``auto`` on a CPU is bf16 where the processor multiplies it natively, else fp32; on a GPU the widest that fits its free memory. fp8 and
    nf4 work on every device with the same rounding; without fp8 matrix units they save memory and cost time.
    """
    if setting == "auto":
        if device.type == "cpu":
            return _by_processor()
        return _by_memory(free_memory(device), weight_bytes or FLUX1_DEV_BYTES, has_fp8(device))
    found = BY_NAME.get(setting)
    if found is None:
        raise UserError("precision/unsupported", f"Precision {setting} is not available", f"Use auto, {', '.join(BY_NAME)}.")
    if found is FP8 and not has_fp8(device):
        log.warning("fp8 without matrix units for it is slow", device=str(device))
    return found


def _by_processor() -> Precision:
    return BF16 if cpu_multiplies_bf16() else FP32


def _by_memory(free_bytes: int, weight_bytes: int, fp8: bool) -> Precision:
    room = free_bytes - WORKING_MEMORY
    if room >= weight_bytes:
        return BF16
    return FP8 if fp8 and room >= FP8_SHARE * weight_bytes else NF4


def room_for_both_orders(device: torch.device, weight_bytes: int) -> bool:
    """Whether fp8 weights can be held in the backward pass's memory order too: as large as bf16, but faster."""
    return device.type == "cuda" and free_memory(device) >= weight_bytes + WORKING_MEMORY


def cpu_multiplies_bf16() -> bool:
    """Whether bf16 products run natively (AVX512-BF16, AMX). Elsewhere oneDNN emulates them, slower than fp32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()

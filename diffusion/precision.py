"""How many bits the frozen base model is held in, and in which type it multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from core.errors import UserError
from diffusion.devices import free_memory

GIB = 2**30
# FLUX.1-dev, LoRA step with checkpointing at 1024² (one H200): 25.5 GiB with 22.2 GiB of bf16 weights, 13.1 GiB with NF4.
WORKING_MEMORY = 4 * GIB
FLUX1_DEV_BYTES = 24 * 10**9


@dataclass(frozen=True)
class Precision:
    """``name`` is how weights are held (fp32, bf16, nf4), ``dtype`` what activations and LoRA products are computed in."""

    name: str
    dtype: torch.dtype

    @property
    def quantised(self) -> bool:
        return self.name == "nf4"


FP32, BF16, NF4 = Precision("fp32", torch.float32), Precision("bf16", torch.bfloat16), Precision("nf4", torch.bfloat16)


def choose(setting: str, device: torch.device, weight_bytes: int | None = None) -> Precision:
    """The precision for a base model whose bf16 transformer takes ``weight_bytes`` (None: as large as FLUX.1-dev).

    ``auto`` on a CPU is bf16 where the processor multiplies it natively, else fp32; on a GPU the widest that fits its free memory.
    """
    if setting == "auto":
        return _by_processor() if device.type == "cpu" else _by_memory(free_memory(device), weight_bytes or FLUX1_DEV_BYTES)
    if setting == "nf4" and device.type != "cuda":
        raise UserError("precision/needs-gpu", "nf4 needs a CUDA GPU", "Use bf16 or fp32 (or auto) on a CPU.")
    found = {"fp32": FP32, "bf16": BF16, "nf4": NF4}.get(setting)
    if found is None:
        raise UserError("precision/unsupported", f"Precision {setting} is not available", "Use auto, fp32, bf16 or nf4.")
    return found


def _by_processor() -> Precision:
    return BF16 if cpu_multiplies_bf16() else FP32


def _by_memory(free_bytes: int, weight_bytes: int) -> Precision:
    return BF16 if free_bytes >= weight_bytes + WORKING_MEMORY else NF4


def cpu_multiplies_bf16() -> bool:
    """Whether bf16 products run natively (AVX512-BF16, AMX). Elsewhere oneDNN emulates them, slower than fp32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()

"""Flow matching as pure functions of tensors: noise levels, the noisy sample and the velocity to learn.

σ is the noise level in (0, 1): x_σ = (1 − σ)·x + σ·ε, and the model predicts v = ε − x (Lipman et al. 2023; FLUX.1's convention).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


def resolution_shift(tokens: int, config: Mapping[str, Any]) -> float:
    """μ of the time shift for a picture of ``tokens`` packed latents, from the scheduler's config.

    Linear between (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift), as FluxPipeline computes it; a scheduler without
    dynamic shifting has one constant shift, whose μ is its logarithm.
    """
    if not config.get("use_dynamic_shifting", False):
        return math.log(config.get("shift", 1.0))
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    start, end = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (end - start) / (high - low)
    return tokens * slope + (start - slope * low)


def shift_sigmas(sigmas: torch.Tensor, mu: float) -> torch.Tensor:
    """e^μ / (e^μ + 1/σ − 1): moves noise levels up for larger pictures (Esser et al. 2024, section 5.3.2)."""
    return math.exp(mu) / (math.exp(mu) + (1 / sigmas - 1))


def sample_sigmas(count: int, generator: torch.Generator, mu: float = 0.0, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """``count`` noise levels in (0, 1): logit-normal (Esser et al. 2024, section 3.1), then shifted. float32 on the CPU."""
    normal = torch.randn(count, generator=generator) * std + mean
    return shift_sigmas(torch.sigmoid(normal), mu)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """x_σ for a batch [B, …] and its noise levels [B]."""
    sigmas = sigmas.view(-1, *[1] * (latents.ndim - 1))
    return (1 - sigmas) * latents + sigmas * noise


def velocity(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What the model is taught to predict at every σ."""
    return noise - latents

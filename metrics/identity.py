"""Likeness: how much generated pictures look like the subject of the photos."""

from __future__ import annotations

import torch


def likeness(generated: torch.Tensor, reals: torch.Tensor) -> torch.Tensor:
    """Mean cosine of each generated picture to all real photos: unit vectors [N, D] and [M, D] → [N] in [-1, 1].

    The subject-fidelity measure of DreamBooth (Ruiz et al. 2023, section 4.1: average pairwise cosine of embeddings).
    """
    return (generated @ reals.T).mean(1)


def leave_one_out(reals: torch.Tensor) -> torch.Tensor:
    """Mean cosine of each real photo to all the *other* real photos: [M, D], M ≥ 2 → [M]. The ceiling of :func:`likeness`."""
    count = reals.shape[0]
    if count < 2:
        raise ValueError("leave_one_out needs at least two photos")
    similarity = reals @ reals.T
    return (similarity.sum(1) - similarity.diagonal()) / (count - 1)


def normalised(score: torch.Tensor | float, base: float, real: float) -> torch.Tensor:
    """``clip((s - s_base) / (s_real - s_base), 0, 1)``: 0 is what the base model gives for the class word, 1 what real photos give.

    Where real photos score no higher than the base model the encoder cannot tell this subject from its class: NaN, not a number that
    looks like a score.
    """
    values = torch.as_tensor(score, dtype=torch.float32)
    if real - base <= 1e-6:
        return torch.full_like(values, torch.nan)
    return ((values - base) / (real - base)).clamp(0, 1)

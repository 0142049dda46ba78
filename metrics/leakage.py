"""Leakage: generated pictures that repeat a training photo instead of showing the subject anew.

A picture leaks when a training photo is both close in the embedding (> 0.75, the copy threshold that Pizzi et al. 2022 give for SSCD) and
the same in structure: an identity encoder alone would call every good portrait a copy, since it is taught to ignore pose and background.
Structure is the normalised cross-correlation of the pictures at 16×16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

EMBEDDING_LIMIT = 0.75
STRUCTURE_LIMIT = (
    0.90  # drawn world: none of 576 fresh pictures of the same subject is above, 95 % of blurred, brightened, cropped copies are
)
ONE_PHOTO_LIMIT = 0.40
STRUCTURE_SIDE = 16


@dataclass(frozen=True)
class LeakReport:
    """Per picture: the nearest training photo's index, its cosine, the structural match, whether it leaks. ``rate`` in [0, 1]."""

    nearest: list[int]
    similarity: list[float]
    structure: list[float]
    leaked: list[bool]
    rate: float
    top_photo: int | None  # the training photo that is nearest most often
    top_share: float
    warnings: list[str]


def structure_vectors(images: Sequence[Image.Image]) -> torch.Tensor:
    """Downscaled, mean-free, unit-length pixels: [N, 3·16·16]; the dot product of two is their normalised cross-correlation."""
    size = (STRUCTURE_SIDE, STRUCTURE_SIDE)
    small = np.stack([np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), np.float32) for image in images])
    centred = torch.from_numpy(small - small.mean((1, 2), keepdims=True)).flatten(1)
    return torch.nn.functional.normalize(centred, dim=1)


def find_leaks(
    images: Sequence[Image.Image], embeds: torch.Tensor, photos: Sequence[Image.Image], photo_embeds: torch.Tensor
) -> LeakReport:
    """``embeds`` [N, D] of the pictures and ``photo_embeds`` [M, D] of the training photos are unit vectors of one encoder; N, M ≥ 1."""
    structure = structure_vectors(images) @ structure_vectors(photos).T
    similarity = embeds @ photo_embeds.T
    copies = (similarity > EMBEDDING_LIMIT) & (structure > STRUCTURE_LIMIT)
    nearest = similarity.argmax(1)
    rows = torch.arange(len(images))
    # a copy of any photo counts, not only of the nearest: the encoder may rank another photo of the same subject first
    photo, times = Counter(nearest.tolist()).most_common(1)[0]
    share = times / len(images)
    leaked = copies.any(1)
    return LeakReport(
        nearest=nearest.tolist(),
        similarity=similarity[rows, nearest].tolist(),
        structure=structure.max(1).values.tolist(),
        leaked=leaked.tolist(),
        rate=leaked.float().mean().item(),
        top_photo=photo,
        top_share=share,
        warnings=_warnings(photo, share, len(images)),
    )


def _warnings(photo: int, share: float, count: int) -> list[str]:
    if count < 3 or share <= ONE_PHOTO_LIMIT:
        return []
    return [f"photo {photo + 1} is the nearest for {share:.0%} of the pictures (limit {ONE_PHOTO_LIMIT:.0%}): the adapter may copy it"]

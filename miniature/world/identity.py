"""Who is drawn: the continuous factors of an identity, fixed by (kind, seed) and never named in a caption."""

from __future__ import annotations

import torch
from torch import Tensor

from miniature.world.colour import step
from miniature.world.noise import uniform

KINDS = ("cat", "dog", "person")
UNSEEN_SEED_START = 1_000_000
"""Identity seeds from here up are never used in teaching."""

FACTOR_NAMES: dict[str, tuple[str, ...]] = {
    "cat": (
        "coat_hue",
        "coat_lightness",
        "coat_chroma",
        "marking_hue",
        "marking_contrast",
        "white_blaze",
        "muzzle_white",
        "stripe_strength",
        "stripe_frequency",
        "dark_mask",
        "patch_position",
        "patch_size",
        "eye_hue",
        "eye_size",
        "eye_spacing",
        "eye_slant",
        "ear_size",
        "ear_angle",
        "head_width",
        "muzzle_size",
        "nose_colour",
        "fur_length",
    ),
    "dog": (
        "coat_hue",
        "coat_lightness",
        "coat_chroma",
        "marking_hue",
        "marking_contrast",
        "white_blaze",
        "muzzle_white",
        "spot_strength",
        "spot_size",
        "dark_mask",
        "patch_position",
        "patch_size",
        "eye_hue",
        "eye_size",
        "eye_spacing",
        "brow_points",
        "ear_length",
        "ear_droop",
        "head_width",
        "muzzle_size",
        "nose_colour",
        "fur_length",
    ),
    "person": (
        "skin_tone",
        "skin_warmth",
        "hair_hue",
        "hair_lightness",
        "hair_chroma",
        "hair_length",
        "hair_volume",
        "fringe",
        "parting",
        "curl",
        "freckles",
        "brow_weight",
        "eye_hue",
        "eye_size",
        "eye_spacing",
        "eye_slant",
        "brow_angle",
        "nose_size",
        "head_width",
        "jaw_shape",
        "lip_colour",
        "lip_fullness",
    ),
}


def identity_factors(kind: str, seeds: Tensor) -> Tensor:
    """Factors [B, F] float32 in [0, 1] of identity seeds [B] int64; the same on every device."""
    names = FACTOR_NAMES[kind]
    salts = torch.arange(len(names), device=seeds.device, dtype=torch.int64) + 1000 * (1 + KINDS.index(kind))
    return uniform(seeds.to(torch.int64).view(-1, 1), salts.view(1, -1))


class Traits:
    """A batch of identities, read factor by factor as [B, 1, 1, 1]."""

    def __init__(self, kind: str, factors: Tensor) -> None:
        self.kind = kind
        self.factors = factors
        self._place = {name: i for i, name in enumerate(FACTOR_NAMES[kind])}

    def __getitem__(self, name: str) -> Tensor:
        return self.factors[:, self._place[name]].view(-1, 1, 1, 1)

    def span(self, name: str, low: float, high: float) -> Tensor:
        """The factor stretched to run from `low` to `high`."""
        return low + (high - low) * self[name]

    def gate(self, name: str, low: float, high: float) -> Tensor:
        """0 below `low`, 1 above `high`, smooth between: for marks that some have and others lack."""
        return step(low, high, self[name])

    def rows(self, index: Tensor) -> Traits:
        """The identities at `index` only."""
        return Traits(self.kind, self.factors.index_select(0, index))

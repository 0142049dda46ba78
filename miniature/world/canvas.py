"""What is drawn on: colour, relief, ink lines and the subject's outline, painted shape over shape from back to front."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from miniature.world.colour import constant

INK_WIDTH = 0.022
"""Width of a drawn outline in head units."""


@dataclass
class Canvas:
    """Layers of a batch of subjects on nothing."""

    colour: Tensor
    """Unlit colour [B, 3, H, W] in [0, 1]."""
    height: Tensor
    """Relief [B, 1, H, W] in head units, from which light and shade are taken."""
    mask: Tensor
    """How much of a pixel the subject covers [B, 1, H, W]."""
    ink: Tensor
    """Outlines [B, 1, H, W] in [0, 1], for the styles that have lines."""
    gloss: Tensor
    """How much a place shines [B, 1, H, W]."""
    pixel: Tensor
    """Size of a pixel in head units [B, 1, 1, 1]."""

    @classmethod
    def blank(cls, pixel: Tensor, size: int) -> Canvas:
        """An empty canvas for as many pictures as `pixel` has rows."""
        layers = torch.zeros(pixel.shape[0], 7, size, size, device=pixel.device)
        colour, height, mask, ink, gloss = (part.contiguous() for part in layers.split((3, 1, 1, 1, 1), dim=1))
        return cls(colour, height, mask, ink, gloss, pixel)

    def rows(self, index: Tensor) -> Canvas:
        """A copy of the pictures at `index`."""
        return Canvas(*(getattr(self, f.name).index_select(0, index) for f in fields(self)))

    def put_rows(self, index: Tensor, part: Canvas) -> None:
        """Write a copy made by `rows` back."""
        for f in fields(self):
            getattr(self, f.name).index_copy_(0, index, getattr(part, f.name))

    def coverage(self, distance: Tensor, softness: float = 0.0) -> Tensor:
        """Coverage in [0, 1] of a shape: smooth over a pixel, or over `softness` head units."""
        half = constant((0.5,), distance)
        return torch.addcmul(half, distance, -1 / (self.pixel + softness)).clamp_(0, 1)

    def paint(
        self,
        distance: Tensor,
        colour: Tensor,
        *,
        dome: Tensor | float = 0.0,
        lift: float = 0.0,
        ink: float = 1.0,
        softness: float = 0.0,
        opacity: Tensor | float = 1.0,
        gloss: float = 0.0,
    ) -> Tensor:
        """Lay a shape over what is there, and return its coverage.

        dome: width in head units of its rounded rim, 0 for flat paint that keeps the relief below; lift: its height.
        """
        cover = self.coverage(distance, softness)
        if isinstance(opacity, Tensor) or opacity < 1:
            cover = cover * opacity
        self.colour.lerp_(colour.expand_as(self.colour), cover)
        self.mask.lerp_(constant((1.0,), cover).expand_as(cover), cover)
        if not isinstance(dome, float) or dome > 0:
            slope = (1 + distance / dome).clamp_(0, 1)
            self.height.lerp_(dome * torch.sqrt(1.0001 - slope * slope) + lift, cover)
        self.ink.addcmul_(self.ink, cover, value=-1)
        if ink > 0:
            line = (distance + 0.5 * INK_WIDTH).abs_()
            line = torch.addcmul(constant((1.0,), line), line, -1 / (INK_WIDTH + self.pixel)).clamp_min_(0)
            self.ink = torch.maximum(self.ink, line * (ink * opacity))
        self.gloss.lerp_(constant((gloss,), cover).expand_as(cover), cover)
        return cover

    def tint(self, colour: Tensor, amount: Tensor) -> None:
        """Stain what is already there, without an outline; amount [B, 1, H, W] in [0, 1]."""
        self.colour.lerp_(colour.expand_as(self.colour), amount)

    def shade(self, amount: Tensor) -> None:
        """Darken what is there by `amount` [B, 1, H, W], a little warmer than grey."""
        keep = constant((0.82, 0.95, 0.98), amount)
        self.colour *= 1 - amount * keep

    def raise_by(self, amount: Tensor) -> None:
        """Add soft relief [B, 1, H, W] in head units."""
        self.height += amount

    def mark(self, distance: Tensor, strength: float = 1.0) -> None:
        """Add an ink line along a stroke without painting it."""
        self.ink = torch.maximum(self.ink, self.coverage(distance, 0.01) * strength)

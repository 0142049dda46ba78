"""What a style has to work with: the drawn layers of a group of pictures, and the filters that several styles share."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.world.colour import luminance, step
from miniature.world.lighting import slopes
from miniature.world.noise import lattice, layered_noise, sample, uniform


@dataclass
class Layers:
    """A drawn scene before its style; maps [B, C, H, W]."""

    flat: Tensor
    """The subject's own colours without light."""
    lit: Tensor
    """The subject under its light."""
    tone: Tensor
    """Light and shade alone, about 0 to 1.4."""
    backdrop: Tensor
    """The background under its light."""
    mask: Tensor
    ink: Tensor
    x: Tensor
    y: Tensor
    tint: Tensor
    """Colour cast of the light [B, 3, 1, 1], about 1."""
    seeds: Tensor

    def rows(self, index: Tensor) -> Layers:
        """The pictures at `index` only."""
        return Layers(*(getattr(self, f.name).index_select(0, index) for f in fields(self)))

    @property
    def size(self) -> int:
        """Pixels across."""
        return self.mask.shape[-1]

    @property
    def unit(self) -> float:
        """Pixels for what is one pixel in a picture of 256."""
        return self.size / 256

    def chance(self, salt: int) -> Tensor:
        """A number in [0, 1) for each picture, [B, 1, 1, 1]."""
        return uniform(self.seeds, salt).view(-1, 1, 1, 1)

    def noise(self, cells: int, salt: int, octaves: int = 3) -> Tensor:
        """Cloudy noise centred on 0."""
        return layered_noise(self.seeds, cells, self.size, salt, octaves)

    def grain(self, salt: int) -> Tensor:
        """Independent noise for each pixel, in [0, 1)."""
        return lattice(self.seeds, self.size, self.size, salt)

    def over(self, subject: Tensor, backdrop: Tensor) -> Tensor:
        """The subject laid over a backdrop."""
        return torch.lerp(backdrop, subject, self.mask)

    def moved(self, image: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
        """An image read at places shifted by (dx, dy) in scene units."""
        u, v = (self.x + dx) * 0.5 + 0.5, (self.y + dy) * 0.5 + 0.5
        return sample(image, u, v)


def edges(image: Tensor) -> Tensor:
    """How steeply brightness changes, per pixel."""
    dx, dy = slopes(luminance(image))
    return torch.sqrt(dx * dx + dy * dy + 1e-8)


def posterised(image: Tensor, levels: int, softness: float = 0.12) -> Tensor:
    """Brightness in steps, hue kept."""
    light = luminance(image).clamp(0.02, 1)
    scaled = light * levels
    base = torch.floor(scaled)
    stepped = (base + step(0.5 - softness, 0.5 + softness, scaled - base)) / levels
    return (image * (stepped.clamp_min(0.05) / light)).clamp(0, 1)


def calmest(image: Tensor, reach: int) -> Tensor:
    """Painterly smoothing: each pixel takes the mean of the calmest of four neighbouring squares."""
    light = luminance(image)
    stack = torch.cat([image, light * light], dim=1)
    side = reach + 1
    means = F.avg_pool2d(F.avg_pool2d(F.pad(stack, (reach, reach, reach, reach), mode="replicate"), (1, side), 1), (side, 1), 1)
    best, least = None, None
    height, width = image.shape[-2:]
    for row in (0, reach):
        for column in (0, reach):
            part = means[..., row : row + height, column : column + width]
            spread = part[:, 3:4] - luminance(part[:, :3]) ** 2
            if best is None or least is None:
                best, least = part[:, :3], spread
            else:
                best = torch.where(spread < least, part[:, :3], best)
                least = torch.minimum(spread, least)
    assert best is not None
    return best

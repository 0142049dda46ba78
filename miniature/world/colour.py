"""Colours: the perceptual space in which coats vary, the named colours of clothes, and a few mixes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

NAMED_COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.14, 0.16),
    "orange": (0.95, 0.52, 0.13),
    "yellow": (0.96, 0.80, 0.22),
    "green": (0.20, 0.56, 0.28),
    "teal": (0.10, 0.56, 0.58),
    "blue": (0.18, 0.36, 0.80),
    "purple": (0.50, 0.26, 0.68),
    "pink": (0.95, 0.52, 0.66),
    "white": (0.95, 0.94, 0.91),
    "grey": (0.55, 0.56, 0.58),
    "black": (0.12, 0.12, 0.14),
    "gold": (0.92, 0.70, 0.22),
    "silver": (0.78, 0.80, 0.84),
    "brown": (0.48, 0.30, 0.18),
    "cream": (0.93, 0.87, 0.74),
}


def rgb_from_oklab(lightness: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """sRGB in [0, 1] from Oklab; inputs [B, 1, 1, 1] (or maps), output with 3 channels in dimension 1."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    linear = torch.cat([red, green, blue], dim=1).clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(1e-6) ** (1 / 2.4) - 0.055)


def path(position: Tensor, stops: Sequence[tuple[float, ...]]) -> list[Tensor]:
    """Walk evenly along a chain of points; `position` in [0, 1]. Returns one tensor per coordinate."""
    scaled = position.clamp(0, 1) * (len(stops) - 1)
    weights = [(1 - (scaled - i).abs()).clamp_min(0) for i in range(len(stops))]
    return [sum((w * stop[k] for w, stop in zip(weights, stops, strict=True)), torch.zeros_like(position)) for k in range(len(stops[0]))]


def hue_path(position: Tensor, stops: Sequence[tuple[float, float]], chroma_gain: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Oklab (a, b) on a path through (hue in degrees, chroma) stops, bent smoothly."""
    points = [(c * math.cos(math.radians(h)), c * math.sin(math.radians(h))) for h, c in stops]
    a, b = path(position, points)
    return a * chroma_gain, b * chroma_gain


@functools.lru_cache(maxsize=512)
def _kept(colour: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32).view(1, -1, 1, 1).to(device)


def constant(colour: Sequence[float], like: Tensor) -> Tensor:
    """A fixed colour as [1, 3, 1, 1] on the device of `like`; kept, so that no batch waits for it twice. Do not write to it."""
    return _kept(tuple(colour), like.device)


def mix(first: Tensor, second: Tensor, amount: Tensor | float) -> Tensor:
    """Linear mix: `first` where amount is 0, `second` where it is 1."""
    return torch.lerp(first, second, amount)


def luminance(rgb: Tensor) -> Tensor:
    """Perceived brightness [B, 1, H, W] of sRGB [B, 3, H, W]."""
    return rgb[:, :1] * 0.299 + rgb[:, 1:2] * 0.587 + rgb[:, 2:3] * 0.114


def saturate(rgb: Tensor, gain: float) -> Tensor:
    """Push colours away from their grey by `gain` (1 leaves them)."""
    grey = luminance(rgb)
    return (grey + (rgb - grey) * gain).clamp(0, 1)


def step(low: Tensor | float, high: Tensor | float, value: Tensor) -> Tensor:
    """Smooth step from 0 at `low` to 1 at `high` (low may exceed high)."""
    t = ((value - low) * (1 / (high - low))).clamp_(0, 1)
    return t * t * (3 - 2 * t)

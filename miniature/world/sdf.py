"""Signed distances (negative inside) to the shapes that everything is drawn from, over maps of coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Number = Tensor | float


def circle(u: Tensor, v: Tensor, radius: Number) -> Tensor:
    """Distance to a circle about the origin."""
    return torch.sqrt(u * u + v * v) - radius


def ellipse(u: Tensor, v: Tensor, half_width: Number, half_height: Number) -> Tensor:
    """Close estimate of the distance to an ellipse about the origin."""
    p, q = u / half_width, v / half_height
    inner = torch.sqrt(p * p + q * q)
    slope = torch.sqrt((p / half_width) ** 2 + (q / half_height) ** 2)
    return inner * (inner - 1) / slope.clamp_min(1e-4)


def box(u: Tensor, v: Tensor, half_width: Number, half_height: Number, corner: float = 0.0) -> Tensor:
    """Distance to a box with rounded corners."""
    p, q = u.abs() - half_width + corner, v.abs() - half_height + corner
    return torch.sqrt(p.clamp_min(0) ** 2 + q.clamp_min(0) ** 2) + torch.maximum(p, q).clamp_max(0) - corner


def limb(
    u: Tensor, v: Tensor, start: tuple[Number, Number], end: tuple[Number, Number], start_radius: Number, end_radius: Number
) -> Tensor:
    """Distance to a line from start to end whose radius changes along it."""
    du, dv = end[0] - start[0], end[1] - start[1]
    pu, pv = u - start[0], v - start[1]
    along = ((pu * du + pv * dv) / (du * du + dv * dv + 1e-6)).clamp(0, 1)
    return torch.sqrt((pu - along * du) ** 2 + (pv - along * dv) ** 2) - (start_radius + along * (end_radius - start_radius))


def leaf(u: Tensor, v: Tensor, half_width: Number, half_height: Number) -> Tensor:
    """Distance to a pointed oval, its points on the v axis at ±half_height: two circles' common part."""
    offset = (half_height * half_height - half_width * half_width) / (2 * half_width)
    return torch.sqrt((u.abs() + offset) ** 2 + v * v) - (half_width + offset)


def almond(u: Tensor, v: Tensor, half_width: Number, half_height: Number) -> Tensor:
    """A pointed oval that lies on its side."""
    return leaf(v, u, half_height, half_width)


def bow(u: Tensor, v: Tensor, half_length: Number, bend: Number, thickness: Number) -> Tensor:
    """Distance to a bowed stroke through the origin: v = bend·(u/half_length)², ending at ±half_length, thinner at the ends."""
    t = (u / half_length).clamp(-1, 1)
    slope = 2 * bend * t / half_length
    gap = (v - bend * t * t).abs() / torch.sqrt(1 + slope * slope)
    beyond = (u.abs() - half_length).clamp_min(0)
    return torch.sqrt(gap * gap + beyond * beyond) - thickness * (1 - 0.65 * t * t)


def whisker(u: Tensor, v: Tensor, length: Number, rise: Number, sag: Number, thickness: float) -> Tensor:
    """Distance to a hair that starts at the origin along +u, rising by `rise` and sagging by `sag`, tapering to nothing."""
    t = (u / length).clamp(0, 1)
    slope = (rise + 2 * sag * t) / length
    gap = (v - rise * t - sag * t * t).abs() / torch.sqrt(1 + slope * slope)
    beyond = (-u).clamp_min(0) + (u - length).clamp_min(0)
    return torch.sqrt(gap * gap + beyond * beyond) - thickness * (1 - 0.85 * t)


def star(u: Tensor, v: Tensor, radius: Number, points: int = 5, depth: float = 0.45) -> Tensor:
    """Rough distance to a star with its first point upwards; `depth` is how far the notches cut in."""
    sector = 2 * math.pi / points
    angle = torch.atan2(u, -v)
    folded = (torch.remainder(angle + sector / 2, sector) - sector / 2).abs()
    return (torch.sqrt(u * u + v * v) - radius * (1 - depth * folded / (sector / 2))) * 0.75


def merge(first: Tensor, second: Tensor, softness: float) -> Tensor:
    """Union of two shapes with a smooth joint about `softness` wide."""
    blend = (0.5 + 0.5 * (second - first) / softness).clamp(0, 1)
    return second + (first - second) * blend - softness * blend * (1 - blend)


def cut(first: Tensor, second: Tensor, softness: float = 0.02) -> Tensor:
    """The first shape without the second."""
    return -merge(-first, second, softness)


def common(first: Tensor, second: Tensor, softness: float = 0.02) -> Tensor:
    """The part that two shapes share."""
    return -merge(-first, -second, softness)


def turned(u: Tensor, v: Tensor, angle: Number) -> tuple[Tensor, Tensor]:
    """Coordinates turned by `angle` radians, so that a shape drawn in them appears turned clockwise."""
    if isinstance(angle, Tensor):
        c, s = torch.cos(angle), torch.sin(angle)
        return u * c + v * s, v * c - u * s
    return u * math.cos(angle) + v * math.sin(angle), v * math.cos(angle) - u * math.sin(angle)

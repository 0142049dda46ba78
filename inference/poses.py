"""Skeletons as pictures: what a ControlNet for poses reads. Pure functions of points."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from core.poses import LIMB_WIDTH, LIMBS, POINT_RADIUS, POINTS, Pose

NAMES = tuple(POINTS)


def pose_picture(pose: Pose, width: int, height: int) -> Image.Image:
    """The skeleton in the middle of a picture of that size in pixels, coloured on black."""
    places = torch.tensor([pose.points.get(name, (0.0, 0.0)) for name in NAMES])
    seen = torch.tensor([name in pose.points for name in NAMES])
    drawn = draw_skeletons(places[None], seen[None], width, height)[0]
    return Image.fromarray((drawn * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def draw_skeletons(places: Tensor, seen: Tensor, width: int, height: int) -> Tensor:
    """Points [B, K, 2] in the unit square and whether each is seen [B, K], in the order of ``NAMES`` → [B, 3, height, width] in [0, 1].

    The unit square lies in the middle of the picture, as large as the shorter side.
    """
    device, side = places.device, min(width, height)
    margin = torch.tensor([(width - side) / 2, (height - side) / 2], device=device)
    at = places.float() * side + margin
    rows = torch.arange(height, device=device, dtype=torch.float32)[:, None] + 0.5
    columns = torch.arange(width, device=device, dtype=torch.float32)[None, :] + 0.5
    pictures = torch.zeros(len(places), 3, height, width, device=device)
    for (a, b), colour in LIMBS.items():
        i, j = NAMES.index(a), NAMES.index(b)
        distance = _to_segment(columns, rows, at[:, i], at[:, j]) - LIMB_WIDTH * side
        _paint(pictures, distance, seen[:, i] & seen[:, j], colour)
    for k, colour in enumerate(POINTS.values()):
        _paint(pictures, _to_segment(columns, rows, at[:, k], at[:, k]) - POINT_RADIUS * side, seen[:, k], colour)
    return pictures


def _to_segment(x: Tensor, y: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance in pixels of every pixel to the segments from ``start`` to ``end`` [B, 2]: [B, H, W]."""
    along = end - start
    u, v = x - start[:, 0, None, None], y - start[:, 1, None, None]
    p, q = along[:, 0, None, None], along[:, 1, None, None]
    share = ((u * p + v * q) / (p * p + q * q).clamp_min(1e-9)).clamp(0, 1)
    return torch.hypot(u - share * p, v - share * q)


def _paint(pictures: Tensor, distance: Tensor, seen: Tensor, colour: tuple[int, int, int]) -> None:
    """Over what is there already, with an edge one pixel soft."""
    cover = (0.5 - distance).clamp(0, 1)[:, None] * seen[:, None, None, None]
    ink = torch.tensor(colour, device=pictures.device).view(1, 3, 1, 1) / 255
    pictures.lerp_(ink.expand_as(pictures), cover.expand_as(pictures))

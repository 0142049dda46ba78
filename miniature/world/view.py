"""Where things are: the coordinates of a batch of heads, turned and framed by the pose, in a light 2.5-dimensional way.

Scene units run from -1 to 1 across the picture, y downwards. Head units are scene units over the head's size: about 1 is
half a head. A head is treated as a ball: a feature at depth z slides sideways as the head turns, and narrows at the far side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from miniature.world.noise import uniform
from miniature.world.scene import Scene

_POSE_ANGLES = {  # yaw, pitch (up positive), roll, in radians
    "front": (0.0, 0.0, 0.0),
    "left": (-0.55, 0.0, 0.0),
    "right": (0.55, 0.0, 0.0),
    "up": (0.0, 0.42, 0.0),
    "down": (0.0, -0.38, 0.0),
    "tilted left": (0.0, 0.0, -0.3),
    "tilted right": (0.0, 0.0, 0.3),
}
_FRAMES = {"close-up": (0.66, 0.08), "portrait": (0.48, -0.04), "half-length": (0.345, -0.26)}  # head size, head centre y
_KIND_SIZE = {"cat": (1.0, 0.03), "dog": (1.04, 0.0), "person": (0.88, 0.0)}


@dataclass
class View:
    """Coordinates [B, 1, H, W] and pose numbers [B, 1, 1, 1] of a batch."""

    scene_x: Tensor
    scene_y: Tensor
    x: Tensor
    """Head units across, leaning with the head."""
    y: Tensor
    body_x: Tensor
    """Head units from the head's place, upright."""
    body_y: Tensor
    pixel: Tensor
    """Size of a pixel in head units."""
    sin_yaw: Tensor
    cos_yaw: Tensor
    sin_pitch: Tensor
    cos_pitch: Tensor
    jitter: Tensor
    """Scene seeds [B] int64."""

    def rows(self, index: Tensor) -> View:
        """The pictures at `index` only."""
        return View(*(getattr(self, f.name).index_select(0, index) for f in fields(self)))

    def chance(self, salt: int) -> Tensor:
        """A number in [0, 1) of each picture's own, [B, 1, 1, 1]."""
        return uniform(self.jitter, salt).view(-1, 1, 1, 1)

    def project(self, x: Tensor | float, y: Tensor | float, z: float) -> tuple[Tensor, Tensor]:
        """Where a point of the front-facing head is seen, in head units."""
        across = x * self.cos_yaw + z * self.sin_yaw
        depth = z * self.cos_yaw - x * self.sin_yaw
        return across, y * self.cos_pitch - depth * self.sin_pitch

    def at(self, x: Tensor | float, y: Tensor | float, z: float, narrow: bool = True) -> tuple[Tensor, Tensor]:
        """Coordinates about a feature at (x, y, z) of the head; features on the far side come out narrower."""
        across, down = self.project(x, y, z)
        u, v = self.x - across, self.y - down
        if narrow:
            u = u / (self.cos_yaw - (x / max(z, 0.35)) * self.sin_yaw).clamp(0.5, 1.08)
        return u, v

    def surface(self, radius: float = 1.12) -> tuple[Tensor, Tensor]:
        """For every pixel, the (x, y) of the front-facing head that is seen there: markings are drawn in these."""
        z = torch.sqrt((radius * radius - self.x * self.x - self.y * self.y).clamp_min(0.04))
        y = self.y * self.cos_pitch + z * self.sin_pitch
        z = z * self.cos_pitch - self.y * self.sin_pitch
        return self.x * self.cos_yaw - z * self.sin_yaw, y


def make_view(kind: str, scenes: Sequence[Scene], size: int, device: torch.device) -> View:
    """Lay out a batch: one small table is filled on the CPU and moved once."""
    table = torch.tensor([_POSE_ANGLES[s.pose] + _FRAMES[s.framing] for s in scenes], dtype=torch.float32).to(device, non_blocking=True)
    jitter = torch.tensor([s.jitter for s in scenes], dtype=torch.int64).to(device, non_blocking=True)
    yaw, pitch, roll, head, centre_y = (table[:, i].view(-1, 1, 1, 1) for i in range(5))

    def wobble(salt: int, amount: float) -> Tensor:
        return (uniform(jitter, salt).view(-1, 1, 1, 1) * 2 - 1) * amount

    yaw, pitch, roll = yaw + wobble(1, 0.07), pitch + wobble(2, 0.05), roll + wobble(3, 0.04)
    kind_size, kind_drop = _KIND_SIZE[kind]
    head = head * kind_size * (1 + wobble(4, 0.06))
    centre_x, centre_y = wobble(5, 0.06) - 0.05 * torch.sin(yaw), centre_y + kind_drop + wobble(6, 0.03)
    line = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    scene_x = line.view(1, 1, 1, -1).expand(len(scenes), 1, size, size)
    scene_y = line.view(1, 1, -1, 1).expand(len(scenes), 1, size, size)
    body_x, body_y = (scene_x - centre_x) / head, (scene_y - centre_y) / head
    pivot = 0.55
    c, s = torch.cos(roll), torch.sin(roll)
    x = body_x * c + (body_y - pivot) * s
    y = (body_y - pivot) * c - body_x * s + pivot
    return View(
        scene_x,
        scene_y,
        x,
        y,
        body_x + 0.10 * torch.sin(yaw),
        body_y,
        (2 / size) / head,
        torch.sin(yaw),
        torch.cos(yaw),
        torch.sin(pitch),
        torch.cos(pitch),
        jitter,
    )

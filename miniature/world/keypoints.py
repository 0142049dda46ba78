"""Where a drawn subject's eyes, nose, ears and shoulders are: its pose and nothing else.

The places are those of an average head for every kind, so that a skeleton tells how a subject stands and not who it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from miniature.world.scene import Scene
from miniature.world.view import View, make_view

HEAD_POINTS: dict[str, tuple[float, float, float]] = {  # of a head that faces the viewer, in head units; the subject's right is at -x
    "nose": (0.0, 0.33, 1.05),
    "right_eye": (-0.36, 0.0, 0.85),
    "left_eye": (0.36, 0.0, 0.85),
    "right_ear": (-0.82, -0.1, 0.0),
    "left_ear": (0.82, -0.1, 0.0),
}
BODY_POINTS: dict[str, tuple[float, float]] = {  # upright below the head, in head units
    "neck": (0.0, 1.35),
    "right_shoulder": (-0.98, 1.85),
    "right_elbow": (-1.2, 3.7),
    "left_shoulder": (0.98, 1.85),
    "left_elbow": (1.2, 3.7),
}
NAMES = (*HEAD_POINTS, *BODY_POINTS)
HIDDEN_DEPTH = -0.35  # a point that far behind the middle of the head is covered by it


@torch.no_grad()
def keypoints(kind: str, scenes: Sequence[Scene], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Places [B, K, 2] as (x, y) in the unit square, y down, in the order of ``NAMES``, and whether each is seen [B, K]."""
    view = make_view(kind, scenes, 2, torch.device(device))
    head = [_projected(view, point) for point in HEAD_POINTS.values()]
    seen = [depth > HIDDEN_DEPTH for _, _, depth in head] + [torch.ones_like(head[0][2], dtype=torch.bool)] * len(BODY_POINTS)
    across, down = torch.stack([x for x, _, _ in head], 1), torch.stack([y for _, y, _ in head], 1)
    body = torch.tensor(list(BODY_POINTS.values()), device=device).expand(len(scenes), -1, -1)
    places = torch.cat([_in_scene(view.x, view.y, across, down), _in_scene(view.body_x, view.body_y, body[..., 0], body[..., 1])], 1)
    return (places + 1) / 2, torch.stack(seen, 1)


def _projected(view: View, point: tuple[float, float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Where a point of the head is seen [B], in head units, and how far in front of the head's middle it lies."""
    x, y, z = point
    across, down = view.project(x, y, z)
    return across.flatten(), down.flatten(), (z * view.cos_yaw - x * view.sin_yaw).flatten()


def _in_scene(map_x: Tensor, map_y: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Head units [B, K] back to scene units [B, K, 2]: both maps [B, 1, 2, 2] are linear over the scene's four quarters."""
    corner_x, corner_y = map_x[:, 0, 0, 0, None], map_y[:, 0, 0, 0, None]
    a, b = map_x[:, 0, 0, 1, None] - corner_x, map_x[:, 0, 1, 0, None] - corner_x
    c, d = map_y[:, 0, 0, 1, None] - corner_y, map_y[:, 0, 1, 0, None] - corner_y
    u, v, determinant = across - corner_x, down - corner_y, a * d - b * c
    return torch.stack([(d * u - b * v) / determinant - 0.5, (a * v - c * u) / determinant - 0.5], -1)

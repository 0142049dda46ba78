"""A judge of poses: a small network, taught in a few minutes on one core, that sees where eyes, nose, ears and shoulders are.

It learns from pictures that the world draws, of identities from the teaching range in every style, shifted, turned and scaled by lot so
that places between the world's own are known too; it is accepted only if it finds the points of unseen identities.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from core.poses import Pose
from miniature import world
from miniature.teach.accept import to_pictures
from miniature.world.keypoints import NAMES, keypoints

SIDE = 96  # pixels that the network sees
TAUGHT, STEPS, BATCH, PEAK = 2400, 1200, 48, 2e-3  # drawn pictures, and how they are gone through
TURN, STRETCH, SLIDE = 0.1, 0.15, 0.06  # radians, share, share of the side: how far lessons are moved by lot
ACCEPTED = 0.025  # mean distance to the truth on unseen identities, as a share of the side
TRIED = 24  # unseen pictures of each kind
FIRST_UNSEEN = world.UNSEEN_SEED_START + 120_000


@dataclass(frozen=True)
class Drawn:
    """N pictures [N, 3, S, S] in [0, 1], their points [N, K, 2] in the unit square in the order of ``NAMES``, and which are seen [N, K]."""

    pictures: Tensor
    places: Tensor
    seen: Tensor


class PoseJudge:
    def __init__(self, seed: int = 0) -> None:
        """Teaches the network; RuntimeError if it does not see well enough to judge."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _network()
            _teach(self.network, draw(TAUGHT // len(world.KINDS), 0, seed))
        self.errors = self._errors(draw(TRIED, FIRST_UNSEEN, seed + 1, size=256))
        if fmean(self.errors) > ACCEPTED:
            raise RuntimeError(f"the judge of poses is off by {fmean(self.errors):.3f} of the side; at most {ACCEPTED} is accepted")

    @torch.no_grad()
    def points(self, images: Sequence[Image.Image]) -> Tensor:
        """[N, K, 2] in the unit square, in the order of ``NAMES``."""
        small = [np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images]
        return self._points(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255)

    def _points(self, pictures: Tensor) -> Tensor:
        return self.network(pictures - 0.5).view(-1, len(NAMES), 2) + 0.5

    def _errors(self, drawn: Drawn) -> list[float]:
        found, counted = self.points(to_pictures(drawn.pictures)), drawn.seen & _inside(drawn.places)
        far = (found - drawn.places).norm(dim=-1)
        return [float(row[there].mean()) for row, there in zip(far, counted, strict=True)]


def distance(points: Tensor, pose: Pose) -> float:
    """Mean distance of points [K, 2] to those of the skeleton that lie in the picture, as a share of the side."""
    rows = [n for n, name in enumerate(NAMES) if name in pose.points and all(0 <= at <= 1 for at in pose.points[name])]
    asked = torch.tensor([pose.points[NAMES[n]] for n in rows])
    return float((points[rows] - asked).norm(dim=-1).mean())


def nearest(points: Tensor, bank: Mapping[str, Pose]) -> str:
    return min(bank, key=lambda name: distance(points, bank[name]))


def draw(each: int, first: int, seed: int, size: int = SIDE) -> Drawn:
    """``each`` pictures of every kind, each of another identity from the seed ``first`` on, in any scene; half of them photos."""
    rng, pictures, places, seen = random.Random(seed), [], [], []
    for kind in world.KINDS:
        scenes = [world.sample_scene(rng, style="photo" if n % 2 else None) for n in range(each)]
        pictures.append(world.render(kind, world.identity_factors(kind, torch.arange(first, first + each)), scenes, size=size))
        at, known = keypoints(kind, scenes)
        places.append(at)
        seen.append(known)
    return Drawn(torch.cat(pictures), torch.cat(places), torch.cat(seen))


def _network() -> nn.Sequential:
    """Five halvings, 96 to 3 pixels, then one linear layer: where a thing is stays in the features."""
    layers: list[nn.Module] = []
    for width, wider in ((3, 16), (16, 32), (32, 64), (64, 96), (96, 128)):
        layers += [nn.Conv2d(width, wider, 3, 2, 1), nn.GroupNorm(4, wider), nn.SiLU(), nn.Conv2d(wider, wider, 3, 1, 1), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 9, 192), nn.SiLU(), nn.Linear(192, 2 * len(NAMES)))


def _teach(network: nn.Module, lessons: Drawn) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        rows = torch.randint(len(lessons.pictures), (BATCH,))
        pictures, places = _moved(lessons.pictures[rows], lessons.places[rows])
        found = network(pictures - 0.5).view_as(places) + 0.5
        counted = (lessons.seen[rows] & _inside(places))[..., None]
        loss = (F.smooth_l1_loss(found, places, beta=0.02, reduction="none") * counted).sum() / counted.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def _moved(pictures: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Turned, stretched, slid and lit by lot, points with them. ``affine_grid`` maps the new picture's places to the old one's."""
    count = len(pictures)

    def lot(limit: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape) * 2 - 1) * limit

    turn, stretch = lot(TURN), torch.exp(lot(math.log1p(STRETCH)))
    across, down = torch.cos(turn) / stretch, torch.sin(turn) / stretch
    turned = torch.stack([torch.stack([across, -down], -1), torch.stack([down, across], -1)], 1)
    slide = lot(2 * SLIDE, 2, 1)
    grid = F.affine_grid(torch.cat([turned, slide], 2), list(pictures.shape), align_corners=False)
    lit = pictures * (1 + lot(0.15, 3, 1, 1)) + lot(0.1, 1, 1, 1)
    old = places * 2 - 1
    new = torch.linalg.solve(turned, old.transpose(1, 2) - slide).transpose(1, 2)
    return F.grid_sample(lit, grid, padding_mode="reflection", align_corners=False), (new + 1) / 2


def _inside(places: Tensor) -> Tensor:
    return ((places >= 0) & (places <= 1)).all(-1)

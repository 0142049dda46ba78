"""Is a pose of the bank followed? Prompts say nothing of it; with the ControlNet, without it, and beside both what the world draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from benchmarks.mode_judges import Judges, Trial, difference, mean_with
from benchmarks.mode_pose_judge import PoseJudge, distance, nearest
from core.poses import Pose, pose_bank
from core.words import Mode
from inference.engine import Engine
from inference.poses import pose_picture
from inference.requests import RenderRequest
from miniature import world
from miniature.teach.accept import to_pictures

WITH, WITHOUT, DRAWN = "with the ControlNet", "without", "drawn by the world"
FIRST_SUBJECT = world.UNSEEN_SEED_START + 130_000
SHOWN = range(0, 51, 7)  # of the cells, on the contact sheet: kinds in turn, every other pose


@dataclass(frozen=True)
class Cell:
    kind: str
    pose: Pose
    seed: int

    @property
    def prompt(self) -> str:
        return f"a photo of a {self.kind}, in a park with trees, in soft daylight"


def pose_trial(engine: Engine, judges: Judges, seeds: int) -> Trial:
    """``distance``: of the points that the judge finds to the skeleton's, as a share of the side; ``nearest``: 1 where no other skeleton of
    the bank is nearer. The world stands its subjects up to 0.04 beside the skeleton by lot, which is in its figures."""
    judge, bank, side = PoseJudge(), pose_bank(), engine.base.resolution
    cells = [Cell(kind, pose, 300 + seed) for seed in range(seeds) for pose in bank.values() for kind in world.KINDS]
    ways = {WITH: _rendered(engine, cells, Mode.POSE), WITHOUT: _rendered(engine, cells, Mode.TEXT_TO_IMAGE), DRAWN: _drawn(cells)}
    groups = [f"{cell.kind} {cell.pose.name}" for cell in cells]
    trial, measured = Trial(), {}
    trial.pictures["asked for"] = [pose_picture(cells[at].pose, side, side) for at in SHOWN]
    for name, images in ways.items():
        measured[name] = _measures(judge, judges, images, cells)
        trial.figures[name] = {what: mean_with(values, groups) for what, values in measured[name].items()}
        trial.pictures[name] = [images[at] for at in SHOWN]
        print(f"  {name}: {trial.figures[name]}", flush=True)
    trial.figures["the judge's own error"] = {"distance": mean_with(judge.errors, [str(n) for n in range(len(judge.errors))])}
    gains = {what: difference(values, measured[WITHOUT][what], groups) for what, values in measured[WITH].items()}
    trial.differences = {f"{WITH} − {WITHOUT}": gains}
    return trial


def _measures(judge: PoseJudge, judges: Judges, images: Sequence[Image.Image], cells: Sequence[Cell]) -> dict[str, list[float]]:
    bank, points = pose_bank(), judge.points(images)
    return {
        "distance": [distance(found, cell.pose) for found, cell in zip(points, cells, strict=True)],
        "nearest": [float(nearest(found, bank) == cell.pose.name) for found, cell in zip(points, cells, strict=True)],
        "prompt fidelity": judges.fidelity(images, [cell.prompt for cell in cells]),
    }


def _rendered(engine: Engine, cells: Sequence[Cell], mode: Mode) -> list[Image.Image]:
    def options(cell: Cell) -> dict[str, Any]:
        return {"pose": cell.pose.name} if mode == Mode.POSE else {}

    return [engine.render(RenderRequest(cell.prompt, cell.seed, mode=mode, options=options(cell)))[0] for cell in cells]


def _drawn(cells: Sequence[Cell]) -> list[Image.Image]:
    """An unseen identity each, in the scene that the skeleton was taken from."""
    pictures = []
    for n, cell in enumerate(cells):
        pose = cell.pose.name.removeprefix(f"{cell.pose.framing}-").replace("-", " ")
        scene = world.Scene(framing=cell.pose.framing, pose=pose, background="park", jitter=n)
        pictures += to_pictures(world.render(cell.kind, world.identity_factors(cell.kind, torch.tensor([FIRST_SUBJECT + n])), [scene]))
    return pictures

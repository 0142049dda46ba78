"""One subject's share of the likeness benchmark, in this process or in one of several workers, each on CPU cores of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from PIL import Image

from core.settings import Settings
from core.styles import catalogue
from lab.evaluate import Evaluation, evaluate_subject
from lab.pictures import Catalogue
from miniature.world.photos import draw_photo_set
from trainer.bench import Bench
from trainer.loading import load_bench


@dataclass(frozen=True)
class Subject:
    name: str
    kind: str
    seed: int  # of the drawn world


@dataclass(frozen=True)
class Plan:
    """What is done with each subject. ``scratch`` receives photos and adapters."""

    scratch: Path
    photos: int
    seeds: Sequence[int]
    per_style: int
    steps: int  # 0: the recipe's own
    device: str
    precision: str

    def open_bench(self) -> Bench:
        overrides: dict[str, Any] = {"device": self.device, "precision": self.precision}
        return load_bench(Settings(**overrides))

    def evaluate(self, bench: Bench, subject: Subject) -> Evaluation:
        folder = self.scratch / subject.name
        draw_photo_set(subject.kind, subject.seed, self.photos, folder)
        photos = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))]
        pictures = Catalogue(list(catalogue().values()), self.per_style)
        recipe = {"steps": self.steps} if self.steps else {}
        return evaluate_subject(bench, photos, subject.kind, folder / "adapters", seeds=self.seeds, pictures=pictures, recipe=recipe)


def side_by_side(plan: Plan, subjects: Sequence[Subject], workers: int, cores_each: int) -> Iterator[tuple[Subject, Evaluation]]:
    """Each worker is held to ``cores_each`` cores that no other uses, so that its seconds are those of a machine with so many."""
    context = get_context("spawn")
    opened: Synchronized[int] = context.Value("i", 0)
    with ProcessPoolExecutor(workers, context, _open_worker, (plan, cores_each, opened)) as pool:
        yield from zip(subjects, pool.map(_evaluate, subjects), strict=True)


_opened: list[tuple[Plan, Bench]] = []  # one, in a worker


def _open_worker(plan: Plan, cores_each: int, opened: Synchronized[int]) -> None:
    with opened.get_lock():
        place, opened.value = opened.value, opened.value + 1
    mine = sorted(os.sched_getaffinity(0))[place * cores_each : (place + 1) * cores_each]
    if len(mine) < cores_each:
        raise SystemExit(f"{cores_each} cores for worker {place + 1} are more than this machine has left")
    os.sched_setaffinity(0, mine)
    _limit_threads(cores_each)
    _opened.append((plan, plan.open_bench()))


def _limit_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _evaluate(subject: Subject) -> Evaluation:
    [(plan, bench)] = _opened
    return plan.evaluate(bench, subject)

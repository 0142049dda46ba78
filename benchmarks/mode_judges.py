"""What pictures of unseen subjects are judged by: likeness and prompt fidelity; and what a trial hands back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image

from metrics.identity import likeness
from metrics.stats import bootstrap_interval
from miniature import world
from miniature.teach.accept import to_pictures
from trainer.bench import Bench

FIRST_SUBJECT = world.UNSEEN_SEED_START + 80_000


@dataclass(frozen=True)
class Subject:
    """An unseen identity: a photo to draw from, photos that only the judge sees, and the name by which intervals group it."""

    kind: str
    seed: int
    photo: Image.Image
    reals: torch.Tensor  # [M, D] unit vectors of other photos

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"


class Judges:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def fidelity(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return self.bench.text_image.similarity(images, prompts).tolist()

    def near(self, images: Sequence[Image.Image], subject: Subject) -> list[float]:
        return likeness(self.bench.identity.embed(images), subject.reals).tolist()


def draw_subjects(bench: Bench, a_kind: int) -> list[Subject]:
    """Photos of every subject stand in the same scenes; six only the judge sees."""
    rng = random.Random(5)
    scenes = [world.sample_scene(rng, style="photo", pose="front", framing="portrait")]
    scenes += [world.sample_scene(rng, style="photo") for _ in range(6)]
    subjects = []
    for kind in world.KINDS:
        for seed in range(FIRST_SUBJECT, FIRST_SUBJECT + a_kind):
            factors = world.identity_factors(kind, torch.tensor([seed] * len(scenes)))
            pictures = to_pictures(world.render(kind, factors, scenes))
            subjects.append(Subject(kind, seed, pictures[0], bench.identity.embed(pictures[1:])))
    return subjects


def mean_with(values: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    """Mean, its 95 % interval over groups, and how many."""
    low, high = bootstrap_interval(values, groups)
    return {"mean": round(fmean(values), 4), "low": round(low, 4), "high": round(high, 4), "n": len(values)}


def difference(one: Sequence[float], other: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    """Picture by picture, from the same prompts and seeds."""
    return mean_with((np.asarray(one) - np.asarray(other)).tolist(), groups)


@dataclass
class Trial:
    """``figures``: row → measure → mean with interval; ``differences`` likewise; ``pictures``: row → pictures for the contact sheet."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    differences: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, list[Image.Image]] = field(default_factory=dict)

"""What pictures of the drawn world are judged by: style, form, likeness, leakage. The world draws each judge's anchors itself."""

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
from metrics.leakage import find_leaks
from metrics.stats import bootstrap_interval
from miniature import world
from miniature.teach import style as blueprints
from miniature.teach.accept import to_pictures
from trainer.bench import Bench

ANCHORS = 48  # drawn pictures that a judge compares with
FIRST_ANCHOR = blueprints.FIRST_SUBJECT + 10_000
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
        self.learned, self.learned_captions, _ = blueprints.draw(blueprints.PICTURES, blueprints.FIRST_SUBJECT)
        self.learned_embeds = bench.identity.embed(self.learned)
        drawn, self.fresh_captions, self.fresh_scenes = blueprints.draw(ANCHORS, FIRST_ANCHOR, seed=1)
        self.drawn = drawn
        self.style_mean = bench.text_image.embed_images(drawn).mean(0)
        self.forms = bench.identity.embed(drawn)
        self.kinds = [world.KINDS[n % len(world.KINDS)] for n in range(ANCHORS)]

    def style(self, images: Sequence[Image.Image]) -> list[float]:
        """Mean cosine of CLIP's embedding to those of drawn blueprints of other subjects."""
        return (self.bench.text_image.embed_images(images) @ self.style_mean).tolist()

    def kind(self, images: Sequence[Image.Image], kinds: Sequence[str]) -> list[float]:
        """1 where the nearest drawn blueprint, by the identity encoder, is of the kind that was asked for: what has lost its form has lost
        its kind. (CLIP, asked for the kind of a drawn blueprint in words, is right by chance: 0.37 on its own anchors.)"""
        nearest = self._to_forms(images).argmax(1).tolist()
        return [float(self.kinds[at] == kind) for at, kind in zip(nearest, kinds, strict=True)]

    def form(self, images: Sequence[Image.Image], kinds: Sequence[str]) -> list[float]:
        """Cosine of the identity encoder to the nearest of the drawn blueprints of that kind: how much it looks like any subject at all."""
        own = torch.tensor([[a == kind for a in self.kinds] for kind in kinds])
        return self._to_forms(images).masked_fill(~own, -1).max(1).values.tolist()

    def _to_forms(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """[N, anchors]; an anchor is not compared with itself."""
        near = self.bench.identity.embed(images) @ self.forms.T
        return near.masked_fill(near > 0.9999, -1)

    def leaks(self, images: Sequence[Image.Image]) -> tuple[list[float], list[float]]:
        """Per picture: the structural match with the nearest picture that the style adapter was fitted on, and 1 where it is a copy."""
        report = find_leaks(images, self.bench.identity.embed(images), self.learned, self.learned_embeds)
        return report.structure, [float(leaked) for leaked in report.leaked]

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

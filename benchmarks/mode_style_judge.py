"""What pictures in one style are judged by: the style, the form of who is shown, and what was copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from metrics.leakage import find_leaks
from miniature import world
from miniature.teach import style as teaching
from trainer.bench import Bench

ANCHORS = 48  # drawn pictures that the judge compares with
FIRST_ANCHOR = teaching.FIRST_SUBJECT + 10_000


@dataclass(frozen=True)
class StyleSet:
    """One style: what an adapter for it is fitted on, and drawn pictures of other subjects in other scenes. Kinds come in turn in both."""

    name: str
    learned: list[Image.Image]
    learned_captions: list[str]
    drawn: list[Image.Image]
    fresh_captions: list[str]

    @property
    def kinds(self) -> list[str]:
        """Kind of each drawn picture."""
        return kinds_in_turn(len(self.drawn))


def draw_style_set(name: str, pictures: int) -> StyleSet:
    """Of blueprints or of one of the world's own styles; ``pictures`` to fit on."""
    return StyleSet(
        name,
        *teaching.draw(pictures, teaching.FIRST_SUBJECT, style=name)[:2],
        *teaching.draw(ANCHORS, FIRST_ANCHOR, seed=1, style=name)[:2],
    )


def kinds_in_turn(count: int) -> list[str]:
    return [world.KINDS[n % len(world.KINDS)] for n in range(count)]


class StyleJudge:
    def __init__(self, bench: Bench, pictures: StyleSet) -> None:
        self.bench, self.pictures = bench, pictures
        self._learned_embeds = bench.identity.embed(pictures.learned)
        self._style_mean = bench.text_image.embed_images(pictures.drawn).mean(0)
        self._forms = bench.identity.embed(pictures.drawn)

    def measures(self, images: Sequence[Image.Image], kinds: Sequence[str]) -> dict[str, list[float]]:
        """Measure → a value for each picture; ``kinds``: what was asked for."""
        structure, copies = self.leaks(images)
        return {
            "style": self.style(images),
            "leak (structure)": structure,
            "copies": copies,
            "kind": self.kind(images, kinds),
            "form": self.form(images, kinds),
        }

    def style(self, images: Sequence[Image.Image]) -> list[float]:
        """Mean cosine of CLIP's embedding to those of drawn pictures of other subjects in this style."""
        return (self.bench.text_image.embed_images(images) @ self._style_mean).tolist()

    def kind(self, images: Sequence[Image.Image], kinds: Sequence[str]) -> list[float]:
        """1 where the nearest drawn picture, by the identity encoder, is of the kind that was asked for: what has lost its form has lost
        its kind. (CLIP, asked for the kind of a drawn blueprint in words, is right by chance: 0.37 on its own anchors.)"""
        nearest = self._to_forms(images).argmax(1).tolist()
        return [float(self.pictures.kinds[at] == kind) for at, kind in zip(nearest, kinds, strict=True)]

    def form(self, images: Sequence[Image.Image], kinds: Sequence[str]) -> list[float]:
        """Cosine of the identity encoder to the nearest drawn picture of that kind in this style: how much it looks like any subject at
        all."""
        own = torch.tensor([[a == kind for a in self.pictures.kinds] for kind in kinds])
        return self._to_forms(images).masked_fill(~own, -1).max(1).values.tolist()

    def leaks(self, images: Sequence[Image.Image]) -> tuple[list[float], list[float]]:
        """Per picture: the structural match with the nearest picture that the style adapter was fitted on, and 1 where it is a copy."""
        report = find_leaks(images, self.bench.identity.embed(images), self.pictures.learned, self._learned_embeds)
        return report.structure, [float(leaked) for leaked in report.leaked]

    def _to_forms(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """[N, anchors]; an anchor is not compared with itself."""
        near = self.bench.identity.embed(images) @ self._forms.T
        return near.masked_fill(near > 0.9999, -1)

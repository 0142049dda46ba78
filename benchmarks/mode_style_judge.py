"""What pictures in one style are judged by: the style, the form of who is shown, and what was copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn.functional import normalize

from metrics.encoders import BATCH, IdentityEncoder
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
        self._parts = patch_tokens(bench.identity, pictures.drawn)

    def measures(self, images: Sequence[Image.Image], kinds: Sequence[str]) -> dict[str, list[float]]:
        """Measure → a value for each picture; ``kinds``: what was asked for."""
        return {
            "style": self.style(images),
            **self.leaks(images),
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
        """Mean cosine of a picture's patches to the nearest patch of any drawn picture of that kind in this style, in an early layer of the
        identity encoder (PatchCore, Roth et al. 2022, where it finds defects): whoever is shown, eyes and ears look like eyes and ears. The
        whole picture's embedding would follow who is shown: it falls where a recalled subject goes."""
        same_kind = torch.tensor([[anchor == kind for anchor in self.pictures.kinds] for kind in kinds])
        anchors = same_kind & (self._to_forms(images) > -1)
        tokens = patch_tokens(self.bench.identity, images)
        return [_nearest_patches(own, self._parts[allowed]) for own, allowed in zip(tokens, anchors, strict=True)]

    def leaks(self, images: Sequence[Image.Image]) -> dict[str, list[float]]:
        """Of the nearest picture that the style adapter was fitted on: its structural match, the likeness of its subject, whom no caption
        describes; and 1 where a picture is a copy."""
        report = find_leaks(images, self.bench.identity.embed(images), self.pictures.learned, self._learned_embeds)
        copies = [float(leaked) for leaked in report.leaked]
        return {"leak (structure)": report.structure, "leak (subject)": report.similarity, "copies": copies}

    def _to_forms(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """[N, anchors]; an anchor is not compared with itself."""
        near = self.bench.identity.embed(images) @ self._forms.T
        return near.masked_fill(near > 0.9999, -1)


@torch.inference_mode()
def patch_tokens(encoder: IdentityEncoder, images: Sequence[Image.Image]) -> torch.Tensor:
    """Unit vectors [N, patches, D] after a third of the layers: local, and hardly moved by who is shown."""
    model, layer = encoder.model, encoder.model.config.num_hidden_layers // 3
    batches = []
    for start in range(0, len(images), BATCH):
        pixels = encoder.preprocessing(images[start : start + BATCH]).to(model.device, model.dtype)
        batches.append(model(pixel_values=pixels, output_hidden_states=True).hidden_states[layer][:, 1:])
    return normalize(torch.cat(batches).float(), dim=-1).cpu()


def _nearest_patches(tokens: torch.Tensor, anchors: torch.Tensor) -> float:
    """``tokens`` [P, D], ``anchors`` [A, P, D]."""
    return (tokens @ anchors.flatten(0, 1).T).max(1).values.mean().item()

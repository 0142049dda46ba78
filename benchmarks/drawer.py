"""Portraits as a render worker hands them over: scored, and drawn again where they are not like their subject."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from inference.engine import Engine
from inference.loaded import LoadedAdapter
from inference.redrawing import other_seeds, redraw
from inference.requests import RenderRequest
from inference.scoring import Picture, score_likeness
from metrics.encoders import IdentityEncoder
from metrics.identity import leave_one_out, likeness
from trainer.bench import Bench
from trainer.recipe import Recipe
from trainer.selection import prompts_for

Card = Mapping[str, Any]


@dataclass
class Drawer:
    """Draws, scores and draws again by the service's own rule; counts pictures."""

    engine: Engine
    identity: IdentityEncoder
    least: float  # below it a picture is unlike
    rounds: int  # how often one is drawn again
    drawn: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def tries(self, request: RenderRequest, adapter: LoadedAdapter, card: Card) -> tuple[list[Picture], list[Picture]]:
        """The request's pictures as they come first, and as they are kept."""

        def again(number: int, count: int) -> list[Picture]:
            return self._pictures(other_seeds(request, number, count), adapter, card)

        first = self._pictures(request, adapter, card)
        return first, redraw(first, self.least, self.rounds, again)[0]

    def _pictures(self, request: RenderRequest, adapter: LoadedAdapter, card: Card) -> list[Picture]:
        images = self.engine.render(request, adapter)
        with self._counting:
            self.drawn += len(images)
        scores = score_likeness(images, card, self.identity)
        return [Picture(seed, image, score) for seed, image, score in zip(request.seeds, images, scores, strict=True)]


def plain_embeds(bench: Bench, kinds: Iterable[str]) -> dict[str, torch.Tensor]:
    """[N, D] a kind: what the bare base draws for the class word, the zero of likeness. While the bench holds its seats."""
    recipe = Recipe.for_run(1, bench.base)
    return {kind: bench.identity.embed(bench.render(prompts_for(f"a {kind}", 6), recipe)) for kind in sorted(set(kinds))}


def card_of(identity: IdentityEncoder, photos: Sequence[Image.Image], plain: torch.Tensor) -> Card:
    """As a training writes it, of what scoring reads. ``plain`` [N, D]: the bare base's pictures of the class."""
    embeds = identity.embed(list(photos))
    anchors = {"base": likeness(plain, embeds).mean().item(), "real": leave_one_out(embeds).mean().item()}
    reference = {"reference_embedding": embeds.mean(0).tolist(), "encoders": {"identity": identity.id}}
    return {"scores": {"likeness": anchors}, **reference}

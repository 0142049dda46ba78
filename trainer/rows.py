"""What adapters contribute to a step: noisy pictures of one shape with their captions, told apart by slot: so they can share a pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffusion.loading import BaseModel
from diffusion.schedules import add_noise, velocity
from diffusion.text import PromptEmbeds
from trainer.caches import TrainingCache
from trainer.draws import Draw, Shape
from trainer.losses import blind_loss


@dataclass(frozen=True)
class Rows:
    """B pictures of slot ``slot``: packed noisy ``tokens`` [B, N, D] and ``target`` velocities, noise levels ``sigmas`` [B], captions
    ``text``, ``weights`` [B, N, D] of the squared error or None. ``factor``: what each picture's loss counts in the slot's sum; ``blind``:
    what these rows add to that sum with a predictor that knows nothing."""

    slot: int
    shape: Shape  # of the latents
    tokens: torch.Tensor
    target: torch.Tensor
    sigmas: torch.Tensor
    text: PromptEmbeds
    guidance: float
    factor: float
    blind: float
    weights: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.sigmas)

    def picture(self, index: int) -> Rows:
        """One of them, alone."""
        one = slice(index, index + 1)
        return replace(
            self,
            tokens=self.tokens[one],
            target=self.target[one],
            sigmas=self.sigmas[one],
            text=self.text.row(index),
            weights=None if self.weights is None else self.weights[one],
        )

    @property
    def fits_with(self) -> tuple[Any, ...]:
        """Rows of equal keys can be one batch: the transformer takes one set of positions and one guidance."""
        return (self.shape, self.text.prompt_embeds.shape[1], self.guidance)


class Pictures:
    """A cache on the base's device, from which rows are drawn. ``background_weight`` (0–1) is what counts around the subject."""

    def __init__(self, base: BaseModel, cache: TrainingCache, background_weight: float = 1.0) -> None:
        self.base, self.empty_row = base, cache.empty_row
        self.latents = [latents.to(base.device) for latents in cache.latents]
        self.text = cache.text.to(base.device, base.dtype)
        self.variance = _variance(cache.latents)
        self.weights = None
        if cache.coverage is not None and background_weight != 1:
            self.weights = [(background_weight + (1 - background_weight) * own).to(base.device) for own in cache.coverage]

    def rows(self, draw: Draw, slot: int, guidance: float, factor: float) -> Rows:
        """``factor`` is shared by the draw's pictures: their mean counts that much."""
        family, device = self.base.family, self.base.device
        latents = torch.stack([self.latents[index] for index in draw.indices])
        noise, sigmas = (to_device(drawn, device) for drawn in (draw.noise, draw.sigmas))
        text = self.text.rows(to_device(torch.tensor(self._captions(draw)), device))
        weights = torch.stack([self.weights[i] for i in draw.indices]).expand_as(latents) if self.weights else None
        return Rows(
            slot=slot,
            shape=tuple(latents.shape[1:]),
            tokens=family.pack(add_noise(latents, noise, sigmas)).to(self.base.dtype),
            target=family.pack(velocity(latents, noise)),
            sigmas=sigmas,
            text=text,
            guidance=guidance,
            factor=factor / len(draw.indices),
            blind=factor * blind_loss(draw.sigmas, self.variance).mean().item(),
            weights=None if weights is None else family.pack(weights),
        )

    def _captions(self, draw: Draw) -> list[int]:
        return [self.empty_row if gone else index for index, gone in zip(draw.indices, draw.dropped, strict=True)]


def _variance(latents: Sequence[torch.Tensor]) -> float:
    """Of a value within its channel, over all pictures."""
    return torch.cat([own.flatten(1) for own in latents], 1).var(1).mean().item()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Without waiting for the device, which may be steps behind."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def batches(rows: Iterable[Rows]) -> list[list[Rows]]:
    """Rows that fit together, slot by slot; as few batches as shapes allow."""
    found: dict[tuple[Any, ...], list[Rows]] = {}
    for own in sorted(rows, key=lambda own: own.slot):
        found.setdefault(own.fits_with, []).append(own)
    return list(found.values())


def joined(rows: Sequence[Rows]) -> Rows:
    """One batch; ``slot``, ``factor`` and ``blind`` are the first one's and mean nothing for the rest."""
    if len(rows) == 1:
        return rows[0]
    first, columns = rows[0], ("tokens", "target", "sigmas")
    tokens, target, sigmas = (torch.cat([getattr(own, name) for own in rows]) for name in columns)
    prompts, pooled = (torch.cat([getattr(own.text, name) for own in rows]) for name in ("prompt_embeds", "pooled_prompt_embeds"))
    weights = None
    if any(own.weights is not None for own in rows):
        weights = torch.cat([torch.ones_like(own.target) if own.weights is None else own.weights for own in rows])
    text = PromptEmbeds(prompts, pooled, first.text.text_ids)
    return Rows(first.slot, first.shape, tokens, target, sigmas, text, first.guidance, first.factor, first.blind, weights)

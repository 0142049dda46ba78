"""What the fit minimises: the velocity's squared error, weighted by where the subject is, and what keeps the class as the base knew it.

Also when to give up: a fit that predicts no better than one that knows nothing will not come back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from core.errors import JobFailed
from diffusion.loading import BaseModel
from diffusion.schedules import add_noise, velocity
from diffusion.text import PromptEmbeds
from trainer.caches import TrainingCache
from trainer.draws import Draw
from trainer.recipe import Recipe


class FitDiverged(JobFailed):
    """Loss or gradients are not finite, or the loss has run away: nothing that follows could be right, so nothing follows."""


def picture_losses(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of each picture [B] from tokens [B, N, D], in float32. ``weights`` [B, N, D] ≥ 0, of which only the ratios count:
    every picture has the same say, however small its subject is."""
    squared = (predicted.float() - target.float()).square()
    if weights is None:
        return squared.flatten(1).mean(1)
    return (squared * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)


class FlowLoss:
    """The loss of a micro-batch. Draws of the photos come first, those of the class pictures (``class_cache``) after them in one batch.

    loss = mean over photos + ``recipe.class_preservation`` · mean over class pictures (Ruiz et al. 2023, equation 2).
    """

    def __init__(self, base: BaseModel, cache: TrainingCache, recipe: Recipe, class_cache: TrainingCache | None = None) -> None:
        self.base, self.cache, self.recipe = base, cache, recipe
        self.class_cache = class_cache if recipe.class_preservation > 0 else None
        self.latents = _joined([cache.latents, *([self.class_cache.latents] if self.class_cache else [])])
        self.text = _joined_text([cache.text, *([self.class_cache.text] if self.class_cache else [])]).to(base.device)
        self.ids = base.family.image_ids(*cache.latents.shape[-2:]).to(base.device, base.dtype)
        self.weights = self._weights()
        self.variance = cache.latents.var(dim=(0, 2, 3)).mean().item()

    def __call__(self, transformer: Any, draw: Draw, class_draw: Draw | None = None) -> torch.Tensor:
        """Scalar, float32."""
        rows, text_rows, noise, sigmas = self._batch(draw, class_draw)
        family, device = self.base.family, self.base.device
        latents, noise, sigmas = self.latents[rows].to(device), noise.to(device), sigmas.to(device)
        tokens = family.pack(add_noise(latents, noise, sigmas)).to(self.base.dtype)
        predicted = family.predict(transformer, tokens, self.ids, self.text.rows(text_rows), sigmas, self.recipe.guidance)
        weights = None if self.weights is None else family.pack(self.weights[rows].expand(-1, latents.shape[1], -1, -1)).to(device)
        losses = picture_losses(predicted, family.pack(velocity(latents, noise)), weights)
        photos = len(draw.indices)
        return losses[:photos].mean() + (self.recipe.class_preservation * losses[photos:].mean() if class_draw else 0.0)

    def blind(self, draw: Draw, class_draw: Draw | None = None) -> float:
        """What a predictor that knows nothing would score on these draws; see :func:`blind_loss`."""
        extra = blind_loss(class_draw.sigmas, self.variance).mean() if class_draw else 0.0
        return float(blind_loss(draw.sigmas, self.variance).mean() + self.recipe.class_preservation * extra)

    def _batch(self, draw: Draw, class_draw: Draw | None) -> tuple[list[int], list[int], torch.Tensor, torch.Tensor]:
        """Rows of latents and of text, noise and noise levels."""
        text = [self.cache.empty_row if gone else index for index, gone in zip(draw.indices, draw.dropped, strict=True)]
        if class_draw is None:
            return draw.indices, text, draw.noise, draw.sigmas
        count = len(self.cache)
        rows = [*draw.indices, *(count + index for index in class_draw.indices)]
        text += [count + 1 + index for index in class_draw.indices]  # after the photos' captions and the empty one
        return rows, text, torch.cat([draw.noise, class_draw.noise]), torch.cat([draw.sigmas, class_draw.sigmas])

    def _weights(self) -> torch.Tensor | None:
        """[rows, 1, h, w]: 1 on the subject, ``recipe.background_weight`` around it."""
        background, coverage = self.recipe.background_weight, self.cache.coverage
        if coverage is None or background == 1:
            return None
        own = background + (1 - background) * coverage
        whole = torch.ones(len(self.latents) - len(own), *own.shape[1:])
        return torch.cat([own, whole])


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _joined_text(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
    if len(parts) == 1:
        return parts[0]
    prompts, pooled = ([getattr(part, name) for part in parts] for name in ("prompt_embeds", "pooled_prompt_embeds"))
    return PromptEmbeds(torch.cat(prompts), torch.cat(pooled), parts[0].text_ids)


def blind_loss(sigmas: torch.Tensor, variance: float) -> torch.Tensor:
    """Squared error [B] of the best predictor that knows of pictures only their mean and variance: s² / ((1 − σ)² s² + σ²).

    It is the linear (Wiener) estimate of v = ε − x from x_σ = (1 − σ)x + σε with x ~ N(m, s²): Var v − Cov(v, x_σ)² / Var x_σ.
    """
    return variance / ((1 - sigmas) ** 2 * variance + sigmas**2)


class DivergenceWatch:
    """Tells noise from a fit that has run away. It judges losses relative to :func:`blind_loss`, which takes out the noise level's share.

    A working model has 0.2–0.5; one that is ruined comes back to 1 at best, whatever the noise levels. So the fit ends when the median of
    the last ``window`` steps is above ``limit``: a median, so that single spikes may heal. A base that is no better than that by itself
    (weights that were never taught) may grow to four times what it had in the first steps, when the adapter was still nothing.
    """

    BEGINNING = 3  # steps
    KEY = "watch/first"

    def __init__(self, limit: float, window: int) -> None:
        self.limit, self.window = limit, window
        self.first: list[float] = []
        self.last: list[float] = []

    def see(self, relative_loss: float, step: int) -> None:
        """``step`` counts from 1. Raises :class:`FitDiverged` with what to tell the customer."""
        if not math.isfinite(relative_loss):
            raise not_a_number("loss", step)
        if len(self.first) < self.BEGINNING:
            self.first.append(relative_loss)
        self.last = [*self.last, relative_loss][-self.window :]
        began, now = median(self.first), median(self.last)
        if len(self.last) == self.window and now > (self.limit if began < self.limit else 4 * began):
            raise FitDiverged(
                f"The training became unstable: by step {step} its error was {now / began:.1f} times what it was at the beginning, so it"
                " was stopped. Your photos are kept. Start it again with another seed; if that happens twice, with a lower learning rate."
            )

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a checkpoint: a resumed run must judge by the same beginning."""
        return {self.KEY: torch.tensor(self.first, dtype=torch.float64)}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self.first = tensors.get(self.KEY, torch.empty(0)).tolist()


def not_a_number(what: str, step: int) -> FitDiverged:
    return FitDiverged(
        f"The training became unstable: the {what} of step {step} is not a number, so it was stopped. Your photos are kept."
        " Start it again with another seed."
    )

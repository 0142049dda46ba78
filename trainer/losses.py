"""What the fit minimises: the velocity's squared error, weighted by where the subject is, and what keeps the class as the base knew it.

Also when to give up: a fit that predicts no better than one that knows nothing will not come back.
"""

from __future__ import annotations

import math
from statistics import median

import torch

from core.errors import JobFailed


class FitDiverged(JobFailed):
    """Loss or gradients are not finite, or the loss has run away: nothing that follows could be right, so nothing follows."""


def picture_losses(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of each picture [B] from tokens [B, N, D], in float32. ``weights`` [B, N, D] ≥ 0, of which only the ratios count:
    every picture has the same say, however small its subject is."""
    squared = (predicted.float() - target.float()).square()
    if weights is None:
        return squared.flatten(1).mean(1)
    return (squared * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)


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

"""The randomness of a step as a pure function of the seed and the step's number.

Nothing is carried from step to step, so a run that resumes at step k draws exactly what it would have drawn, on any number of processes,
and a checkpoint needs no generator state: seed and step are the whole of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from diffusion.schedules import sample_sigmas


@dataclass(frozen=True)
class Draw:
    """One micro-batch: photos ``indices`` [B], noise levels ``sigmas`` [B], ``noise`` [B, C, h, w], ``dropped`` captions [B]."""

    indices: list[int]
    sigmas: torch.Tensor
    noise: torch.Tensor
    dropped: list[bool]

    def share(self, rank: int, world: int) -> Draw:
        """What one of ``world`` processes works on: every world-th row."""
        rows = slice(rank, None, world)
        return Draw(self.indices[rows], self.sigmas[rows], self.noise[rows], self.dropped[rows])


@dataclass(frozen=True)
class DrawPlan:
    """What draws of one run have in common. ``mu`` shifts noise levels; see :func:`diffusion.schedules.sample_sigmas`."""

    seed: int | str
    photo_count: int
    batch_size: int
    latent_shape: tuple[int, ...]
    mu: float = 0.0
    sigma_mean: float = 0.0
    sigma_std: float = 1.0
    caption_dropout: float = 0.0

    def draw(self, number: int) -> Draw:
        """Micro-batch ``number`` (from 0)."""
        source = generator(self.seed, "batch", number)
        return Draw(
            self.photo_indices(number),
            sample_sigmas(self.batch_size, source, self.mu, self.sigma_mean, self.sigma_std),
            torch.randn(self.batch_size, *self.latent_shape, generator=source),
            (torch.rand(self.batch_size, generator=source) < self.caption_dropout).tolist(),
        )

    def photo_indices(self, number: int) -> list[int]:
        """Epochs of all photos, each in an order of its own, cut into batches: every photo comes equally often."""
        first = number * self.batch_size
        places = range(first, first + self.batch_size)
        return [self._order(place // self.photo_count)[place % self.photo_count] for place in places]

    def _order(self, epoch: int) -> list[int]:
        return torch.randperm(self.photo_count, generator=generator(self.seed, "order", epoch)).tolist()


def generator(seed: int | str, purpose: str, number: int) -> torch.Generator:
    """A CPU generator of its own for every purpose and number; digests keep neighbouring seeds apart."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)

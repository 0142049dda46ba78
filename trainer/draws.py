"""The randomness of a step as a pure function of the seed and the step's number.

Nothing is carried from step to step, so a run that resumes at step k draws exactly what it would have drawn, on any number of processes,
and a checkpoint needs no generator state: seed and step are the whole of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffusion.schedules import sample_sigmas

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Draw:
    """One micro-batch of one shape: photos ``indices`` [B], levels ``sigmas`` [B], ``noise`` [B, C, h, w], ``dropped`` captions [B]."""

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
    """What draws of one run have in common. ``shapes`` are those of the photos' latents, in their order; a batch is of one shape.

    ``shift`` gives μ of the noise levels for a shape; see :func:`diffusion.schedules.sample_sigmas`.
    """

    seed: int | str
    shapes: tuple[Shape, ...]
    batch_size: int
    shift: Callable[[Shape], float] = lambda shape: 0.0
    sigma_mean: float = 0.0
    sigma_std: float = 1.0
    caption_dropout: float = 0.0

    def draw(self, number: int) -> Draw:
        """Micro-batch ``number`` (from 0)."""
        indices = self.photo_indices(number)
        shape = self.shapes[indices[0]]
        source = generator(self.seed, "batch", number)
        return Draw(
            indices,
            sample_sigmas(self.batch_size, source, self.shift(shape), self.sigma_mean, self.sigma_std),
            torch.randn(self.batch_size, *shape, generator=source),
            (torch.rand(self.batch_size, generator=source) < self.caption_dropout).tolist(),
        )

    def photo_indices(self, number: int) -> list[int]:
        """Every photo comes equally often. A cycle has as many batches as there are photos: each photo stands once for its shape, in an
        order of the cycle's own, and the batch is the next ones of that shape, in epochs with orders of their own."""
        cycle, turn = divmod(number, len(self.shapes))
        turns = self._turns(cycle)
        shape = turns[turn]
        same = [index for index, own in enumerate(self.shapes) if own == shape]
        first = (cycle * len(same) + turns[:turn].count(shape)) * self.batch_size
        return [
            same[self._order(shape, place // len(same), len(same))[place % len(same)]] for place in range(first, first + self.batch_size)
        ]

    def _turns(self, cycle: int) -> list[Shape]:
        """Whose turn it is in each batch of a cycle."""
        if len(set(self.shapes)) == 1:
            return list(self.shapes)
        order = torch.randperm(len(self.shapes), generator=generator(self.seed, "turns", cycle)).tolist()
        return [self.shapes[index] for index in order]

    def _order(self, shape: Shape, epoch: int, count: int) -> list[int]:
        purpose = "order" if len(set(self.shapes)) == 1 else f"order/{shape}"
        return torch.randperm(count, generator=generator(self.seed, purpose, epoch)).tolist()


def generator(seed: int | str, purpose: str, number: int) -> torch.Generator:
    """A CPU generator of its own for every purpose and number; digests keep neighbouring seeds apart."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)

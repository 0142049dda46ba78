"""Whether several pictures are drawn in one batch: only where each comes out bit for bit as if it were drawn alone, and time is saved.

Matrix kernels are chosen by shape, so the same row can round differently in a larger batch. Whether it does is a property of machine, type
and shape, not of the values, so it is asked once for each shape, with random inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from diffusion.loading import BaseModel
from diffusion.text import PromptEmbeds

MOST = 4
MOST_TOKENS = 2048  # above, a batch saves little (FLUX.1-dev at 1024²: 5–8 %), and every batch size is a graph more to compile
WORTH = 0.95  # of the time that the pictures take one by one


class BatchProbe:
    """Remembers the answers. Ask with the adapters in place that will be used: other layers run other kernels."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._known: dict[tuple[object, ...], int] = {}

    def size(self, wanted: int, height: int, width: int, text: PromptEmbeds, variant: object) -> int:
        """The largest batch up to ``wanted`` for latents of that size that is exact and faster; 1 if there is none."""
        largest = min(wanted, MOST) if height * width // 4 <= MOST_TOKENS else 1
        key = (largest, height, width, text.prompt_embeds.shape, variant)
        if key not in self._known:
            sizes = range(largest, 1, -1)
            self._known[key] = next((size for size in sizes if self._pays(size, height, width, text)), 1)
        return self._known[key]

    def _pays(self, size: int, height: int, width: int, text: PromptEmbeds) -> bool:
        base, family = self.base, self.base.family
        ids = family.image_ids(height, width).to(base.device, base.dtype)
        shape = (size, len(ids), base.transformer.config.in_channels)
        tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(base.device, base.dtype)

        @torch.no_grad()
        def predict(rows: torch.Tensor) -> torch.Tensor:
            sigmas = torch.full((len(rows),), 0.5, device=base.device, dtype=base.dtype)
            return family.predict(base.transformer, rows, ids, text.rows([0] * len(rows)), sigmas, 3.5)

        alone = torch.cat([predict(row) for row in tokens.split(1)])
        if not torch.equal(predict(tokens), alone):
            return False
        return self._seconds(lambda: predict(tokens)) < WORTH * size * self._seconds(lambda: predict(tokens[:1]))

    def _seconds(self, work: Callable[[], torch.Tensor]) -> float:
        began = time.perf_counter()
        work()[0, 0, 0].item()  # waits for the GPU
        return time.perf_counter() - began


def in_batches(seeds: list[int], size: int) -> list[tuple[int, ...]]:
    """Whole batches only, the rest one by one: another size would be another shape."""
    whole = len(seeds) - len(seeds) % size if size > 1 else 0
    return [tuple(seeds[n : n + size]) for n in range(0, whole, size)] + [(seed,) for seed in seeds[whole:]]

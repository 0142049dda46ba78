"""Whether several pictures are drawn in one batch: only where each comes out bit for bit as if it were drawn alone, and time is saved.

Matrix kernels are chosen by shape, so the same row can be summed in another order in a larger batch. Whether it is depends on machine, type
and shape; whether that shows after rounding depends on the values: of the miniature's passes on two Xeon cores in bf16 a quarter came out
alike in a batch of four, half to four fifths in one of two, and all in one of three. So a size must agree in many passes of random inputs
before it is used, the more the smaller the model; until then pictures are drawn one by one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import torch

from diffusion.loading import BaseModel
from diffusion.text import PromptEmbeds

MOST = 4
MOST_TOKENS = 2048  # above, a batch saves little (FLUX.1-dev at 1024²: 5–8 %), and every batch size is a graph more to compile
WORTH = 0.95  # of the time that the pictures take one by one
PROOF = 25 * 10**6  # values of hidden states, over all blocks and passes, that must have come out alike: 31 passes of the miniature
FEWEST, MOST_PASSES = 2, 32
A_REQUEST = 2  # passes of proof that one request waits for

Predict = Callable[[torch.Tensor, float], torch.Tensor]  # tokens [B, N, C], noise level in (0, 1) -> velocities [B, N, C]


class BatchProbe:
    """Remembers the answers. Ask with the adapters in place that will be used: other layers run other kernels."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._trials: dict[tuple[object, ...], Trial] = {}

    def size(self, wanted: int, height: int, width: int, text: PromptEmbeds, variant: object) -> int:
        """The largest batch up to ``wanted`` for latents of that size that is faster and shown to be exact; 1 while there is none."""
        largest = min(wanted, MOST) if height * width // 4 <= MOST_TOKENS else 1
        if largest < 2:
            return 1
        key = (largest, height, width, text.prompt_embeds.shape, variant)
        if key not in self._trials:
            self._trials[key] = Trial(range(largest, 1, -1), self._passes(height * width // 4 + text.prompt_embeds.shape[1]))
        trial = self._trials[key]
        if not trial.over:
            trial.go_on(self._predict(height, width, text), height * width // 4, self.base)
        return trial.size

    def _passes(self, tokens: int) -> int:
        config = self.base.transformer.config
        hidden = config.num_attention_heads * config.attention_head_dim * (config.num_layers + config.num_single_layers)
        return min(max(math.ceil(PROOF / (tokens * hidden)), FEWEST), MOST_PASSES)

    def _predict(self, height: int, width: int, text: PromptEmbeds) -> Predict:
        base, family = self.base, self.base.family
        ids = family.image_ids(height, width).to(base.device, base.dtype)

        @torch.no_grad()
        def predict(rows: torch.Tensor, sigma: float) -> torch.Tensor:
            sigmas = torch.full((len(rows),), sigma, device=base.device, dtype=base.dtype)
            return family.predict(base.transformer, rows, ids, text.rows([0] * len(rows)), sigmas, 3.5)

        return predict


class Trial:
    """Which of some batch sizes is exact, the first of them that is, found out a few passes at a time. One after the other: each is a graph
    to compile on a GPU."""

    def __init__(self, sizes: Iterable[int], passes: int) -> None:
        self.sizes, self.passes, self.agreed = list(sizes), passes, 0

    @property
    def over(self) -> bool:
        return not self.sizes or self.agreed >= self.passes

    @property
    def size(self) -> int:
        return self.sizes[0] if self.sizes and self.over else 1

    def go_on(self, predict: Predict, tokens: int, base: BaseModel) -> None:
        for _ in range(A_REQUEST):
            if self.over:
                return
            if self._agrees(predict, (self.sizes[0], tokens, base.transformer.config.in_channels), base):
                self.agreed += 1
            else:
                del self.sizes[0]
                self.agreed = 0

    def _agrees(self, predict: Predict, shape: tuple[int, int, int], base: BaseModel) -> bool:
        chance = torch.Generator().manual_seed(self.agreed)
        rows = torch.randn(shape, generator=chance).to(base.device, base.dtype)
        sigma = 0.02 + 0.96 * torch.rand((), generator=chance).item()
        alone = torch.cat([predict(row, sigma) for row in rows.split(1)])
        if not torch.equal(predict(rows, sigma), alone):
            return False
        return self.agreed > 0 or self._saves_time(predict, rows)  # timed after the pass that compiled it

    def _saves_time(self, predict: Predict, rows: torch.Tensor) -> bool:
        together = self._seconds(lambda: predict(rows, 0.5))
        return together < WORTH * len(rows) * self._seconds(lambda: predict(rows[:1], 0.5))

    def _seconds(self, work: Callable[[], torch.Tensor]) -> float:
        began = time.perf_counter()
        work()[0, 0, 0].item()  # waits for the GPU
        return time.perf_counter() - began


def in_batches(seeds: list[int], size: int) -> list[tuple[int, ...]]:
    """Whole batches only, the rest one by one: another size would be another shape."""
    whole = len(seeds) - len(seeds) % size if size > 1 else 0
    return [tuple(seeds[n : n + size]) for n in range(0, whole, size)] + [(seed,) for seed in seeds[whole:]]

"""Steps: ours beside the stock loop, several adapters in one pass, and twenty jobs on one warm base."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.floor import step_flops, synchronise
from benchmarks.record import Record, seconds
from benchmarks.stock_training import StockLoop, random_text
from diffusion import compiled
from diffusion.loading import BaseModel
from trainer.buckets import buckets_of
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit_together
from trainer.member import FitOrder
from trainer.recipe import Recipe
from trainer.seats import Seats

WARM_UP = 5  # steps: compiling, the optimizer's first, recording


@dataclass
class Stand:
    """What the sections share: one loaded base, where rows go, and the rate that floors are reckoned with."""

    base: BaseModel
    record: Record
    rate: float
    measured: int
    overrides: dict[str, Any]

    def recipe(self, **changes: Any) -> Recipe:
        return Recipe.for_run(15, self.base, {"optimizer": "adamw", "candidates": (1.0,), **self.overrides, **changes})


class NoCheckpoints(CheckpointFolder):
    """Nothing is written: steps alone are measured."""

    def __init__(self) -> None:
        self.identity = ""

    def newest(self) -> None:
        return None

    def save_state(self, step: int, tensors: dict[str, torch.Tensor]) -> Path:
        return Path()

    def save_candidate(self, step: int, state: dict[str, torch.Tensor]) -> Path:
        return Path()

    def candidates(self) -> dict[int, Path]:
        return {}


class Laps:
    """Time between calls, by the device's own clock, without making the host wait."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.marks = device, [self._mark(device)]

    def __call__(self) -> None:
        self.marks.append(self._mark(self.device))

    def seconds(self) -> list[float]:
        synchronise(self.device)
        if self.device.type == "cuda":
            return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(self.marks)]
        return [b - a for a, b in itertools.pairwise(self.marks)]

    @staticmethod
    def _mark(device: torch.device) -> Any:
        if device.type != "cuda":
            return time.perf_counter()
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark


def stock(stand: Stand, side: int, text: int) -> None:
    """The stock loop's row; before any slots are put on."""
    base, recipe = stand.base, stand.recipe()
    fresh(base.device)
    loop = StockLoop(base, base.family.lora_modules(base.transformer, recipe.target_set), recipe.rank)
    try:
        latents = _latents(base, [(side, side)])[0].to(base.device)[None]
        taken = loop.times(latents, random_text(base, 1, text), 2, min(stand.measured, 6))
    finally:
        loop.close()
    _add(stand, "stock: eager, checkpointing, autocast, float32 LoRA", side, text, taken, 1)


def ours(stand: Stand, seats: Seats, side: int, text: int, *, adapters: int = 1, what: str = "ours", **changes: Any) -> None:
    base = stand.base
    fresh(base.device)
    recipe = stand.recipe(steps=WARM_UP + stand.measured + 1, **changes)  # the last step also takes its results off the device
    caches = [_cache(base, [(side, side)] * 4, text, n) for n in range(adapters)]
    orders = [FitOrder(cache, recipe, NoCheckpoints(), seed) for seed, cache in enumerate(caches)]
    start, laps = time.perf_counter(), Laps(base.device)
    fittings = fit_together(base, orders, between_steps=laps, seats=seats)
    for fitting in fittings:
        if fitting.error:
            raise fitting.error
    taken = laps.seconds()[:-1]
    first = round(time.perf_counter() - start - sum(taken[WARM_UP:]), 1)
    extra = {"per_adapter_s": round(sorted(taken[WARM_UP:])[stand.measured // 2] / adapters, 4)} if adapters > 1 else {}
    _add(stand, what, side, text, taken[WARM_UP:], adapters, warm_up_s=first, **extra, **fittings[0].memory)


def twenty_jobs(stand: Stand, seats: Seats, side: int, text: int, *, jobs: int = 20, steps: int = 12) -> None:
    """Jobs with differing photo counts, aspect ratios and seeds, on one warm base, each with a little rendering in between."""
    base, buckets = stand.base, buckets_of(side)
    for job in range(jobs):
        shapes = [buckets[(job * 3 + n * (1 + job % 2)) % len(buckets)] for n in range(10 + job % 11)]
        cache = _cache(base, [(b.width, b.height) for b in shapes], text, job)
        recipe = stand.recipe(steps=max(steps, len(shapes)))
        start = time.perf_counter()
        (fitting,) = fit_together(base, [FitOrder(cache, recipe, NoCheckpoints(), job)], seats=seats)
        if fitting.error:
            raise fitting.error
        _render(base, side)
        synchronise(base.device)
        stand.record.add(
            section="jobs",
            what=f"job {job + 1} of {jobs}: {len(shapes)} photos, {len(set(shapes))} shapes, {recipe.steps} steps, one picture of 2 steps",
            side=side,
            seconds=round(time.perf_counter() - start, 2),
            graphs=compiled.graph_count(),
            **memory(base.device),
        )


def fresh(device: torch.device) -> None:
    """Counts memory from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    now, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return {"gib": round(now / 2**30, 2), "peak_gib": round(peak / 2**30, 2)}


def guarded(record: Record, section: str, work: Callable[[], None]) -> None:
    """A section that fails says so and leaves the rest to run."""
    start = time.perf_counter()
    try:
        work()
    except Exception as error:
        record.add(section=section, failed=f"{type(error).__name__}: {error}"[:500])
        import traceback

        traceback.print_exc()
    print(f"# {section}: {time.perf_counter() - start:.0f} s", flush=True)


def _add(stand: Stand, what: str, side: int, text: int, taken: Sequence[float], pictures: int, **extra: Any) -> None:
    base, figures = stand.base, seconds(taken)
    tokens = base.family.pack(_latents(base, [(side, side)])[0][None]).shape[1]
    floor = step_flops(base.transformer, tokens, text, pictures) / stand.rate
    stand.record.add(
        section="steps",
        what=what,
        side=side,
        text_tokens=text,
        pictures=pictures,
        **({"precision": base.precision.name} | extra),
        **figures,
        floor_s=round(floor, 4),
        times_floor=round(figures["median_s"] / floor, 2),
        pictures_per_s=round(pictures / figures["median_s"], 2),
        **memory(base.device),
    )


def _cache(base: BaseModel, sizes: Sequence[tuple[int, int]], text: int, seed: int) -> TrainingCache:
    embeds = random_text(base, len(sizes) + 1, text)
    return TrainingCache(tuple(f"{seed}-{n}" for n in range(len(sizes))), _latents(base, sizes, seed), embeds)


def _latents(base: BaseModel, sizes: Sequence[tuple[int, int]], seed: int = 0) -> list[torch.Tensor]:
    """Random latents of the shape that the family's VAE gives for pictures of these (width, height)."""
    channels, factor = base.vae.config.latent_channels, 2 ** (len(base.vae.config.block_out_channels) - 1)
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(channels, height // factor, width // factor, generator=generator) for width, height in sizes]


@torch.no_grad()
def _render(base: BaseModel, side: int) -> None:
    inputs = base.family.pipeline_inputs(base, random_text(base, 1, base.max_text_tokens))
    base.pipeline()(**inputs, height=side, width=side, num_inference_steps=2, guidance_scale=3.5, output_type="latent")

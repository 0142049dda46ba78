"""What a render worker does before its first job on a GPU: compile the blocks, and measure which way of wearing an adapter is cheaper."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from core.logs import get_logger
from diffusion import compiled
from inference.engine import Engine
from inference.loaded import LoadedAdapter
from inference.merging import Merging, Worn, can_merge
from inference.requests import RenderRequest
from inference.slot import IDENTITY

log = get_logger("inference.warmup")

EMPTY = LoadedAdapter("rehearsal", {})  # changes nothing and costs what any adapter costs: time does not depend on the weights' values
PROMPT = "a photo"
TAKES, STEPS = 3, 2  # measurements of each, of which the median counts; denoising steps in each


@dataclass(frozen=True)
class Costs:
    """Seconds: a step of the bare base, a step with an adapter in its slot, folding one into the weights (None: cannot be)."""

    bare_s: float
    worn_s: float
    fold_s: float | None

    @property
    def from_steps(self) -> int | None:
        """Number of steps from which folding is cheaper; None: never."""
        saved = self.worn_s - self.bare_s
        if self.fold_s is None or saved <= 0:
            return None
        return max(1, math.ceil(self.fold_s / saved))


def warm_up(
    engine: Engine, *, cache: Path | None = None, alone: bool = True, styles: bool = True, backend: str = "inductor"
) -> Costs | None:
    """Compiles (from ``cache`` on disk what an earlier worker compiled) and renders once at the base's resolution in each way.

    ``alone``: nobody else uses the base model, so adapters may be folded into it where that is cheaper, as measured here and now.
    ``styles``: a style adapter may come.
    """
    compiled.prepare(engine.base.transformer, cache=cache, backend=backend)
    compiled.prepare_decoder(engine.base, backend=backend)
    for identity, style in ((None, None), (EMPTY, None), *([(EMPTY, EMPTY)] if styles else [])):
        rehearse(engine, identity, style)
    if not alone:
        return None
    merging = Merging(engine.base, None)
    costs = measure(engine, merging)
    merging.from_steps = costs.from_steps
    engine.slot.merging = merging if costs.from_steps else None
    log.info("adapters measured", bare_s=costs.bare_s, worn_s=costs.worn_s, fold_s=costs.fold_s, folded_from_steps=costs.from_steps)
    return costs


def rehearse(engine: Engine, identity: LoadedAdapter | None, style: LoadedAdapter | None = None) -> None:
    engine.render(RenderRequest(PROMPT, num_inference_steps=STEPS), identity, style=style)
    engine.forget({EMPTY.id})


def measure(engine: Engine, merging: Merging) -> Costs:
    """Leaves everything as it was, but for the pristine copy that ``merging`` keeps from now on."""
    bare, worn = (_median(partial(rehearse, engine, identity)) / STEPS for identity in (None, EMPTY))
    return Costs(bare, worn, _fold_seconds(engine, merging) if can_merge(engine.base, engine.slot.modules) else None)


def _fold_seconds(engine: Engine, merging: Merging) -> float:
    def fold() -> None:
        merging.fold(engine.slot.slots, [Worn(IDENTITY, EMPTY.id, 1.0 - merging.folded[0].scale if merging.folded else 0.25)])
        if engine.base.device.type == "cuda":
            torch.cuda.synchronize(engine.base.device)

    with engine.slot.in_place():
        fold()  # the pristine copy is made here, once
        seconds = _median(fold)  # each at another scale than the last, or there would be nothing to do
        merging.restore()
    return seconds


def _median(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(TAKES):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[TAKES // 2]

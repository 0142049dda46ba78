"""How well adapters of one subject do: fit on most photos, render the style catalogue, judge against the photos that were held out.

Three kinds of pictures are compared, from the same prompts and seeds: of the bare base model (likeness 0), with the subject's adapter, and,
if one is given, with another subject's adapter, which must not help. Held-out real photos are likeness 1.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from core.errors import UserError
from core.styles import catalogue
from core.words import CLASS_WORDS, SubjectKind
from inference.slot import LoadedAdapter, read_adapter
from lab import figures
from lab.pictures import Catalogue, Judged, engine_over
from lab.surroundings import peak_memory, surroundings
from trainer.bench import Bench
from trainer.captions import SubjectWords
from trainer.curation import curate
from trainer.photos import from_images
from trainer.pipeline import train_on_photos
from trainer.recipe import Recipe

TRIGGER_TOKEN = "zokzex"
HELD_OUT = 3
LEAST_PHOTOS = 5  # to learn from, besides those held out

OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Photos:
    """``learned`` go to the trainer (which holds out some of its own to choose a checkpoint), ``held_out`` nobody sees but the judge."""

    learned: list[Image.Image]
    held_out: list[Image.Image]


@dataclass(frozen=True)
class Fitted:
    """One training: its seed, adapter and card, and seconds by stage."""

    seed: int
    adapter: LoadedAdapter
    card: dict[str, Any]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Run:
    fitted: Fitted
    judged: Judged


@dataclass(frozen=True)
class Evaluation:
    """``report`` is JSON-ready; the rest is for contact sheets and for other subjects' checks."""

    report: dict[str, Any]
    photos: Photos
    base: Judged
    runs: list[Run]
    catalogue: Catalogue = field(repr=False)


def evaluate_subject(
    bench: Bench,
    photos: Sequence[Image.Image],
    kind: str,
    folder: Path,
    *,
    class_word: str = "",
    seeds: Sequence[int] = (0,),
    pictures: Catalogue | None = None,
    held_out: int = HELD_OUT,
    recipe: Mapping[str, Any] | None = None,
    foreign: LoadedAdapter | None = None,
    on_progress: OnProgress = lambda snapshot: None,
) -> Evaluation:
    """One training a seed. ``folder`` receives checkpoints and adapters (``seed-0/adapter.safetensors`` …); ``recipe`` are overrides.

    :class:`core.errors.UserError` if too few usable photos remain.
    """
    class_word = class_word or CLASS_WORDS[SubjectKind(kind)]
    shown = pictures or Catalogue(list(catalogue().values()))
    split = split_photos(bench, photos, held_out)
    on_progress({"stage": "base"})
    with engine_over(bench.base) as engine:
        bare = shown.render(bench, engine, class_word)
    fitted = [_fit(bench, split, kind, class_word, seed, recipe, folder / f"seed-{seed}", on_progress) for seed in seeds]
    on_progress({"stage": "portraits"})
    with engine_over(bench.base) as engine:
        runs = [Run(one, shown.render(bench, engine, class_word, one.adapter, TRIGGER_TOKEN)) for one in fitted]
        again = shown.render(bench, engine, class_word)
    reals = _reals(bench, split)
    report = {
        "subject": {"kind": kind, "class_word": class_word, "learned": len(split.learned), "held_out": len(split.held_out)},
        **figures.subject_figures(reals, bare, [run.judged for run in runs]),
        "foreign": None,
        "swap_back_identical": again.same_pixels(bare),
        "seconds": _seconds(runs),
        "runs": [_run_report(run, reals, bare) for run in runs],
        "memory": peak_memory(bench.base.device),
        **surroundings(bench),
    }
    evaluation = Evaluation(report, split, bare, runs, shown)
    if foreign:
        report["foreign"] = measure_foreign(bench, evaluation, foreign)
    return evaluation


def measure_foreign(bench: Bench, evaluation: Evaluation, adapter: LoadedAdapter) -> dict[str, float | None]:
    """Likeness to this subject with another subject's adapter, which must not help. The trigger token is the same for all, so only its
    weights are foreign."""
    with engine_over(bench.base) as engine:
        class_word = evaluation.report["subject"]["class_word"]
        judged = evaluation.catalogue.render(bench, engine, class_word, adapter, TRIGGER_TOKEN)
    return figures.foreign_figures(_reals(bench, evaluation.photos), evaluation.base, judged)


def _reals(bench: Bench, photos: Photos) -> figures.Reals:
    return figures.Reals(photos.learned, bench.identity.embed(photos.learned), bench.identity.embed(photos.held_out))


def split_photos(bench: Bench, photos: Sequence[Image.Image], held_out: int) -> Photos:
    """Bad photos (another subject, the same moment twice) leave first, so that none is held out as if it were the truth."""
    good = [photo.image for photo in curate(from_images(photos), bench.identity, 1).photos]
    if len(good) < held_out + LEAST_PHOTOS:
        detail = (
            f"{len(good)} of {len(photos)} photos are usable; {held_out + LEAST_PHOTOS} are needed, {held_out} of them to measure with."
        )
        raise UserError("photos/too-few", "Too few usable photos to evaluate", detail)
    chosen = set(random.Random(0).sample(range(len(good)), held_out))
    return Photos([p for i, p in enumerate(good) if i not in chosen], [good[i] for i in sorted(chosen)])


def _fit(
    bench: Bench,
    photos: Photos,
    kind: str,
    class_word: str,
    seed: int,
    overrides: Mapping[str, Any] | None,
    folder: Path,
    on_progress: OnProgress,
) -> Fitted:
    recipe = Recipe.for_run(len(photos.learned), bench.base, overrides)
    words = SubjectWords(TRIGGER_TOKEN, class_word)
    clock = StageClock(on_progress)
    trained = train_on_photos(bench, photos.learned, kind, words, recipe, folder, clock, seed=seed)
    seconds = clock.stop()
    return Fitted(seed, read_adapter(bench.base, trained.path, str(trained.path)), trained.card, seconds)


class StageClock:
    """Passes progress on, and measures how long each stage took."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.on_progress = on_progress
        self.seconds: dict[str, float] = {}
        self._stage, self._began = "", time.perf_counter()

    def __call__(self, snapshot: dict[str, Any]) -> None:
        if snapshot["stage"] != self._stage:
            self.stop()
            self._stage = snapshot["stage"]
        self.on_progress(snapshot)

    def stop(self) -> dict[str, float]:
        now = time.perf_counter()
        if self._stage:
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + now - self._began, 2)
        self._stage, self._began = "", now
        return self.seconds


def _seconds(runs: Sequence[Run]) -> dict[str, float]:
    """Mean seconds of each stage and of a whole training over the runs, mean and longest of a portrait."""
    by_run = [run.fitted.seconds for run in runs]
    stages = {stage: fmean(seconds.get(stage, 0.0) for seconds in by_run) for stage in by_run[0]}
    portraits = [second for run in runs for second in run.judged.seconds]
    totals = {"training": sum(stages.values()), "portrait": fmean(portraits), "portrait_longest": max(portraits)}
    return {name: round(value, 2) for name, value in (stages | totals).items()}


def _run_report(run: Run, reals: figures.Reals, bare: Judged) -> dict[str, Any]:
    fitted = run.fitted
    known = {"seed": fitted.seed, "steps": fitted.card["steps"], "recipe": fitted.card["recipe"], "seconds": fitted.seconds}
    return {**known, "card_scores": fitted.card["scores"], **figures.subject_figures(reals, bare, [run.judged])}

"""One training of the study: an arm of the recipe on one subject with one seed, in a worker process that keeps the base model warm."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from core.settings import Settings
from core.styles import catalogue
from core.words import CLASS_WORDS, SubjectKind
from diffusion import lora
from lab.surroundings import surroundings
from metrics.fidelity import kept
from metrics.identity import likeness, normalised
from metrics.leakage import find_leaks
from trainer.bench import Bench, Scores
from trainer.caches import CaptionedPhoto, TrainingCache, build_cache
from trainer.captions import SubjectWords, caption_photos
from trainer.checkpoints import CheckpointFolder
from trainer.fit import Fitting, fit_together
from trainer.loading import load_bench
from trainer.losses import FitDiverged
from trainer.masks import subject_mask
from trainer.member import FitOrder
from trainer.photos import from_images
from trainer.preservation import class_cache
from trainer.recipe import Recipe

SHIPPED = "shipped"
TRIGGER_TOKEN = "zokzex"
HELD_OUT = 3  # photos that only the judge sees

FACTORS: dict[str, Sequence[Any]] = {
    "rank": (8, 16, 32, 64),
    "steps": (0.25, 0.5, 1.0, 2.0),  # of the shipped number
    "learning_rate": (5e-4, 1e-3, 1.5e-3, 3e-3),
    "ema_decay": (0.0, 0.95, 0.99),
    "sigma_mean": (0.0, 1.0),
    "background_weight": (0.1, 1.0),
    "class_preservation": (0.0, 1.0),
    "target_set": ("attention", "single", "compact", "image", "blocks"),
    "lr_schedule": ("constant", "cosine"),
    "saved_scale": (0.7, 0.85, 1.0),
}


@dataclass(frozen=True)
class Drawn:
    name: str
    kind: str
    folder: Path


@dataclass(frozen=True)
class Cell:
    """``changes`` to the shipped recipe; none of them: the shipped recipe itself."""

    subject: Drawn
    seed: int
    factor: str
    value: Any
    changes: Mapping[str, Any]

    @property
    def arm(self) -> str:
        return f"{self.factor}={self.value}" if self.factor else SHIPPED


@dataclass(frozen=True)
class Subject:
    """What a worker keeps of a subject: photos to learn from, captions, and unit vectors of these and of the held-out ones."""

    drawn: Drawn
    learned: list[Image.Image]
    captions: list[str]
    keys: list[str]
    embeds: torch.Tensor
    ceiling: float


def tasks_of(subjects: Sequence[Drawn], seeds: int, factors: Mapping[str, Sequence[Any]], steps: int, together: int) -> list[list[Cell]]:
    """Arms in turn, seed by seed, each arm's subjects ``together`` in one pass. The shipped recipe first: whatever time leaves undone,
    each training that was done has its pair. ``steps``: instead of the shipped number, if not 0."""
    groups = [subjects[start : start + together] for start in range(0, len(subjects), together)]
    return [
        [Cell(subject, seed, factor, value, changes) for subject in group]
        for seed in range(seeds)
        for factor, value, changes in arms_of(factors, steps)
        for group in groups
    ]


def arms_of(factors: Mapping[str, Sequence[Any]], steps: int = 0) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Factor, value and changes to the recipe of each arm; the shipped recipe has no factor."""
    shortened = {"steps": steps} if steps else {}
    yield "", None, shortened
    own = shipped_recipe()
    for factor, values in factors.items():
        shipped = 1.0 if factor == "steps" else own[factor]
        for value in values:
            if value != shipped:
                yield factor, value, shortened | _change(factor, value, steps or own["steps"])


def _change(factor: str, value: Any, steps: int) -> dict[str, Any]:
    """Alpha goes with the rank, so that the strength of what is learned is not another factor."""
    if factor == "steps":
        return {"steps": round(value * steps)}
    return {"rank": value, "alpha": value} if factor == "rank" else {factor: value}


@cache
def shipped_recipe() -> dict[str, Any]:
    """As the miniature's folder has it. Read without loading the model: the parent process stays light."""
    import json

    own = json.loads((Path(Settings().base_model_path) / "likeness.json").read_text(encoding="utf-8")).get("recipe", {})
    return Recipe(**own).model_dump()


# ---- in a worker

_bench: Bench


def open_worker(device: str, precision: str, threads: int) -> None:
    global _bench  # noqa: PLW0603 (a process of a pool has nothing else that lasts)
    torch.set_num_threads(threads)
    overrides: dict[str, Any] = {"device": device, "precision": precision, "cpu_threads": threads, "log_level": "WARNING"}
    _bench = load_bench(Settings(**overrides))


def worker_surroundings() -> dict[str, Any]:
    return surroundings(_bench)


def run_together(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row for each cell of one arm: its figures (None where the fit was stopped as diverged), seconds of its share, megabytes."""
    subjects = [subject_of(cell.subject) for cell in cells]
    own = {"candidates": (1.0,), "checkpoint_every": 100_000}
    recipes = [Recipe.for_run(len(s.learned), _bench.base, {**cell.changes, **own}) for cell, s in zip(cells, subjects, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        orders = [_order(cell, recipe, Path(folder) / str(n)) for n, (cell, recipe) in enumerate(zip(cells, recipes, strict=True))]
        began = time.perf_counter()
        fittings = fit_together(_bench.base, orders)
        fit_s = round((time.perf_counter() - began) / len(cells), 2)
        parts = zip(cells, subjects, recipes, fittings, strict=True)
        return [_row(cell) | {"fit_s": fit_s} | _outcome(cell, subject, recipe, fitting) for cell, subject, recipe, fitting in parts]


def _order(cell: Cell, recipe: Recipe, folder: Path) -> FitOrder:
    photos = cached_photos(cell.subject, recipe.resolution, recipe.background_weight < 1)
    extra = class_cache(_bench, _words(cell.subject.kind).class_word, recipe)
    return FitOrder(photos, recipe, CheckpointFolder(folder, {}), cell.seed, extra)


def _row(cell: Cell) -> dict[str, Any]:
    return {"arm": cell.arm, "factor": cell.factor, "value": cell.value, "subject": cell.subject.name, "seed": cell.seed}


def _outcome(cell: Cell, subject: Subject, recipe: Recipe, fitting: Fitting) -> dict[str, Any]:
    if isinstance(fitting.error, FitDiverged):
        return {"likeness": None, "fidelity": None, "leak_rate": None, "diverged": str(fitting.error)}
    if fitting.error:
        raise fitting.error
    adapter = fitting.candidates[recipe.steps]
    return judge(adapter, subject, _words(cell.subject.kind), recipe) | {"size_mb": round(adapter.stat().st_size / 1e6, 2)}


def _words(kind: str) -> SubjectWords:
    return SubjectWords(TRIGGER_TOKEN, CLASS_WORDS[SubjectKind(kind)])


def judge(adapter: Path, subject: Subject, words: SubjectWords, recipe: Recipe) -> dict[str, Any]:
    """Likeness I and prompt fidelity P over the style catalogue, one picture a style, and the leak rate."""
    transformer = _bench.base.transformer
    plain, own = ([style.prompt_for(name) for style in catalogue().values()] for name in (f"a {words.class_word}", words.in_training))
    base = _bench.baseline(plain, recipe)
    state, _ = lora.read(adapter, transformer, _bench.base.family.lora_allowlist(transformer))
    try:
        lora.load(transformer, state)
        images = _bench.render(own, recipe)
    finally:
        lora.detach(transformer)
    return _figures(images, _bench.judge(images, plain), base, subject)


def _figures(images: list[Image.Image], scores: Scores, base: Scores, subject: Subject) -> dict[str, Any]:
    zero = likeness(base.embeds, subject.embeds).mean().item()
    each = normalised(likeness(scores.embeds, subject.embeds), zero, subject.ceiling)
    fidelity = kept(scores.fidelity.mean().item(), base.fidelity.mean().item())
    leaks = find_leaks(images, scores.embeds, subject.learned, subject.embeds)
    return {"likeness": round(each.mean().item(), 4), "fidelity": round(fidelity, 4), "leak_rate": round(leaks.rate, 4)}


@cache
def subject_of(drawn: Drawn) -> Subject:
    photos = [Image.open(path).convert("RGB") for path in sorted(drawn.folder.glob("*.jpg"))]
    learned, held_out = photos[:-HELD_OUT], photos[-HELD_OUT:]
    training = from_images(learned)
    captions = caption_photos(training, _words(drawn.kind), _bench.text_image)
    embeds = _bench.identity.embed(learned)
    ceiling = likeness(_bench.identity.embed(held_out), embeds).mean().item()
    return Subject(drawn, learned, captions, [photo.key for photo in training], embeds, ceiling)


@cache
def cached_photos(drawn: Drawn, resolution: int, masked: bool) -> TrainingCache:
    subject = subject_of(drawn)
    masks = [subject_mask(photo, drawn.kind) if masked else None for photo in subject.learned]
    photos = [CaptionedPhoto(*parts) for parts in zip(subject.keys, subject.learned, subject.captions, masks, strict=True)]
    return build_cache(_bench.base, photos, resolution)


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 2)

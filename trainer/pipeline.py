"""One training, top to bottom: curate → caption → encode → fit → select → store.

:func:`train` knows photos and a folder, and serves the command line and the lab; :func:`run_training` wraps it in a job: rows, object
store, lease. Every stage can be repeated: a worker that takes the job over finds the newest checkpoint and goes on from there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from core.logs import get_logger
from core.words import TrainingStage
from diffusion import lora
from trainer.bench import Bench
from trainer.caches import CaptionedPhoto, TrainingCache, build_cache
from trainer.captions import SubjectWords, caption_photos
from trainer.cards import Fitted, data_digest, header, make_card, write_samples
from trainer.checkpoints import CheckpointFolder
from trainer.company import ALONE, Company
from trainer.curation import Curated, curate, require
from trainer.masks import subject_mask
from trainer.member import FitOrder
from trainer.photos import TrainingPhoto, from_images
from trainer.preservation import class_cache
from trainer.recipe import Recipe
from trainer.reports import StepReport
from trainer.selection import Candidate, Reals, Selection, select
from trainer.world import World

log = get_logger("trainer")

WEIGHTS_FILE, CARD_FILE = "adapter.safetensors", "card.json"


class Watch(Protocol):
    """Whoever follows a training; a :class:`storage.leases.Lease` is one. ``check`` and ``progress`` may raise to stop it."""

    def stage(self, name: str) -> AbstractContextManager[None]: ...

    def progress(self, **snapshot: Any) -> None: ...

    def check(self) -> None: ...


@dataclass(frozen=True)
class Run:
    """What is to be fitted. ``min_photos`` must remain after curation; ``base_name`` is what the card calls the base model."""

    words: SubjectWords
    kind: str
    recipe: Recipe
    base_name: str
    seed: int = 0
    min_photos: int = 1


@dataclass(frozen=True)
class TrainedAdapter:
    path: Path
    card: dict[str, Any]
    curated: Curated


def train(
    bench: Bench,
    photos: Sequence[TrainingPhoto],
    run: Run,
    folder: Path,
    watch: Watch,
    *,
    on_curated: Callable[[Curated], None] = lambda curated: None,
    on_saved: Callable[[Path], None] = lambda path: None,
    between_steps: Callable[[], None] = lambda: None,
    make_room: Callable[[int], None] = lambda size: None,
    company: Company = ALONE,
) -> TrainedAdapter:
    """Photos → ``adapter.safetensors`` and ``card.json`` in ``folder``, whose checkpoints it resumes from.

    ``on_curated`` gets the findings as soon as they are known; ``on_saved`` every checkpoint file, in a thread. ``between_steps`` is
    called after every optimizer step, also of those that are not reported; ``make_room`` with the bytes of a checkpoint before it is
    written. ``company``: trainings that share passes with this one.
    Processes that share the fit must be given the same ``run``; the main one writes, and all return what it wrote.
    """
    with watch.stage(TrainingStage.CURATE), company.turn():
        curated = curate(photos, bench.identity, run.min_photos)
        on_curated(curated)
        require(curated, run.min_photos)
        learned, reals = hold_out(curated, run.recipe.held_out, run.seed)
    with watch.stage(TrainingStage.CAPTION), company.turn():
        captions = caption_photos(learned, run.words, bench.text_image)
    with watch.stage(TrainingStage.ENCODE), company.turn():
        cache = _encode(bench, learned, captions, run, watch)
        class_pictures = class_cache(bench, run.words.class_word, run.recipe, watch.check)
    with watch.stage(TrainingStage.FIT):
        checkpoints = CheckpointFolder(folder, _identity(bench, cache, run), make_room)
        order = _order(checkpoints, cache, class_pictures, run, watch, on_saved)
        fitting = company.fit(bench.base, order, bench.seats, between_steps)
    world = World.open(bench.base)
    if not world.main:
        return _written_by_main(world, folder, curated)
    with watch.stage(TrainingStage.SELECT), company.turn():
        selection = _select(bench, fitting.candidates, reals, run, watch)
    reference = reals.embeds.mean(0).tolist()
    masked = cache.masked if run.recipe.background_weight < 1 else None
    held_out, memory = len(reals.held_out), fitting.memory
    fitted = Fitted(run.words, run.kind, run.base_name, run.recipe, run.seed, cache.keys, held_out, masked, selection, reference, memory)
    with company.turn():
        trained = _write(bench, fitted, folder, curated)
    world.wait()
    return trained


def hold_out(curated: Curated, count: int, seed: int) -> tuple[list[TrainingPhoto], Reals]:
    """Photos to learn from, and the same with embeddings beside those of ``count`` others, drawn by the seed.

    Of fewer than eight photos none is held out: each is needed.
    """
    ranked = sorted(range(len(curated.photos)), key=lambda i: curated.photos[i].key)
    chosen = set(random.Random(seed).sample(ranked, count)) if len(ranked) >= 8 else set()
    learned = [i for i in ranked if i not in chosen]
    photos = [curated.photos[i] for i in learned]
    return photos, Reals(photos, curated.embeds[learned], curated.embeds[sorted(chosen)])


def _encode(bench: Bench, photos: Sequence[TrainingPhoto], captions: Sequence[str], run: Run, watch: Watch) -> TrainingCache:
    masked = run.recipe.background_weight < 1
    masks = [subject_mask(photo.image, run.kind) if masked else None for photo in photos]
    captioned = [CaptionedPhoto(p.key, p.image, caption, mask) for p, caption, mask in zip(photos, captions, masks, strict=True)]

    def on_photo(done: int) -> None:
        watch.progress(step=done, total=len(captioned))
        watch.check()

    return build_cache(bench.base, captioned, run.recipe.resolution, on_photo)


def _identity(bench: Bench, cache: TrainingCache, run: Run) -> dict[str, Any]:
    """What two attempts must have in common for one to go on where the other stopped."""
    recipe = run.recipe.model_dump(mode="json")
    return {"recipe": recipe, "seed": run.seed, "data": data_digest(cache.keys), "base": bench.base.fingerprint}


def _order(
    checkpoints: CheckpointFolder,
    cache: TrainingCache,
    class_pictures: TrainingCache | None,
    run: Run,
    watch: Watch,
    on_saved: Callable[[Path], None],
) -> FitOrder:
    def on_step(report: StepReport) -> None:
        watch.progress(step=report.step, total=report.total, loss=report.loss, eta_s=report.eta_s)
        watch.check()

    def on_note(note: str) -> None:
        watch.progress(message=note)

    return FitOrder(cache, run.recipe, checkpoints, run.seed, class_pictures, on_step, on_saved, on_note)


def _select(bench: Bench, candidates: dict[int, Path], reals: Reals, run: Run, watch: Watch) -> Selection:
    done: list[Candidate] = []

    def on_candidate(candidate: Candidate) -> None:
        done.append(candidate)
        watch.progress(step=len(done), total=len(candidates), message=f"step {candidate.step}: score {candidate.score:.2f}")

    selection = select(bench, candidates, reals, run.words, run.recipe, check=watch.check, on_candidate=on_candidate)
    log.info("checkpoint chosen", **selection.chosen.as_dict())
    return selection


def _write(bench: Bench, fitted: Fitted, folder: Path, curated: Curated) -> TrainedAdapter:
    """The chosen candidate with its header, and the card and a few of its pictures beside it."""
    state, _ = lora.read(fitted.selection.chosen.path)
    path = lora.save(folder / WEIGHTS_FILE, state, header(bench, fitted))
    card = make_card(bench, fitted, path)
    write_samples(fitted, folder)
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2, sort_keys=True), encoding="utf-8")
    return TrainedAdapter(path, card, curated)


def _written_by_main(world: World, folder: Path, curated: Curated) -> TrainedAdapter:
    """For those that shared the fit: one selects and writes, the others wait."""
    world.wait()
    return TrainedAdapter(folder / WEIGHTS_FILE, json.loads((folder / CARD_FILE).read_text(encoding="utf-8")), curated)


@dataclass
class ProgressWatch:
    """A watch for those who have no job: one callback for every change, with the stage in it."""

    on_progress: Callable[[dict[str, Any]], None]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._stage = str(name)
        self.on_progress({"stage": self._stage})
        yield

    def progress(self, **snapshot: Any) -> None:
        self.on_progress({"stage": self._stage, **snapshot})

    def check(self) -> None:
        return None


def train_on_photos(
    bench: Bench,
    photos: Sequence[Image.Image],
    kind: str,
    words: SubjectWords,
    recipe: Recipe,
    out_dir: Path,
    on_progress: Callable[[dict[str, Any]], None] = lambda snapshot: None,
    *,
    seed: int = 0,
    base_name: str = "",
) -> TrainedAdapter:
    """For the command line and the lab: pictures in memory, no job. ``recipe`` as :meth:`Recipe.for_run` gives it."""
    run = Run(words, kind, recipe, base_name or bench.base.path, seed)
    try:
        return train(bench, from_images(photos), run, out_dir, ProgressWatch(on_progress))
    finally:
        bench.seats.remove()  # whoever renders next in this process puts adapters on the base in a way of its own

"""Whole jobs, photos to an adapter on disk, through the trainer's own pipeline; split by stage, with the memory of each."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.floor import synchronise
from benchmarks.record import Record
from benchmarks.train_steps import fresh, memory
from diffusion.loading import BaseModel
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from miniature.world import UNSEEN_SEED_START, identity_factors, render, sample_scene
from miniature.world.photos import to_image
from trainer.bench import Bench
from trainer.captions import SubjectWords
from trainer.photos import from_images
from trainer.pipeline import Run, train
from trainer.recipe import Recipe
from trainer.seats import Seats

ENCODERS = Path(__file__).resolve().parents[1] / "miniature"
WORDS = SubjectWords("zokzex", "cat")


@dataclass
class StageWatch:
    """Seconds and peak memory of each stage."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        fresh(self.device)
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds[str(name)] = round(time.perf_counter() - start, 2)
        self.peaks |= {str(name): peak for peak in [memory(self.device).get("peak_gib")] if peak is not None}

    def progress(self, **snapshot: Any) -> None:
        if snapshot.get("message"):
            self.messages.append(snapshot["message"])

    def check(self) -> None:
        return None


def open_bench(base: BaseModel, seats: Seats) -> Bench:
    """The miniature's judges stand in for DINOv2 and CLIP, which are as small beside the base as they are."""
    identity = load_identity_encoder(str(ENCODERS / "dino"), base.device)
    bench = Bench(base, identity, load_text_image_encoder(str(ENCODERS / "clip"), base.device))
    bench.seats = seats
    return bench


def whole_job(bench: Bench, record: Record, photos: int, what: str, **overrides: Any) -> None:
    """Photos in memory → adapter and card on disk."""
    recipe = Recipe.for_run(photos, bench.base, {"optimizer": "adamw", **overrides})
    pictures = drawn_photos(photos)
    watch = StageWatch(bench.base.device)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        trained = train(bench, from_images(pictures), Run(WORDS, "cat", recipe, "random weights", 1), Path(folder), watch)
        taken = time.perf_counter() - start
        size = trained.path.stat().st_size
    record.add(
        section="job",
        what=what,
        photos=photos,
        side=recipe.resolution,
        steps=recipe.steps,
        validation=f"{len(recipe.candidate_steps)} candidates × {recipe.validation_images} pictures × {recipe.validation_steps} steps",
        precision=bench.base.precision.name,
        seconds=round(taken, 1),
        stages_s=watch.seconds,
        stages_peak_gib=watch.peaks,
        adapter_mb=round(size / 1e6, 1),
        memory=trained.card.get("memory"),
        messages=watch.messages[-3:],
    )


def drawn_photos(count: int) -> list[Image.Image]:
    """Pictures of one drawn cat, two thirds in portrait format, as telephones take them."""
    lot = random.Random(1)
    scenes = [sample_scene(lot, style="photo") for _ in range(count)]
    subject = identity_factors("cat", torch.tensor([UNSEEN_SEED_START] * count))
    squares = [to_image(picture).resize((1024, 1024)) for picture in render("cat", subject, scenes)]
    return [image.crop((128, 0, 896, 1024)) if n % 3 else image for n, image in enumerate(squares)]

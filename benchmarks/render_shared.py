"""Renders where something is scarce: memory under a cap, and a GPU that trains meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from benchmarks import render_adapters
from benchmarks.measuring import GIB, Book, forget_peak, peak_gib, seconds_of, takes
from diffusion.loading import BaseModel, load_base
from diffusion.sharing import stepped_aside
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.warmup import warm_up
from trainer.caches import CaptionedPhoto, build_cache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.recipe import Recipe

CAP_GIB = 24
STEPS_BETWEEN = 6  # training steps between two portraits


def in_another_process(book: Book, arguments: list[str]) -> None:
    """A cap on memory holds for a whole process and its peak must be its own."""
    command = [sys.executable, "-m", "benchmarks.render", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            book.add(**{key: value for key, value in row.items() if key != "at"})
    if done.returncode:
        book.add("FAILED", command=" ".join(arguments), error=done.stderr.strip()[-600:])


def capped(book: Book, folder: Path, precision: str, side: int, steps: int, cache: Path | None, backend: str) -> None:
    """The whole pipeline, text encoders of their true size included, in a process that gets no more than 24 GiB of the GPU."""
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(CAP_GIB * GIB / total)
    base = load_base(folder, precision=precision)
    forget_peak(base.device)
    engine = Engine(base)
    encoding = seconds_of(lambda: engine.prompts.embeds(base, "a prompt that nobody has encoded yet"), base.device)
    peak_encoding = peak_gib(base.device)
    warm_up(engine, cache=cache, backend=backend, styles=False)
    adapter = render_adapters.random_adapter(engine, 1, torch.device("cpu")).packed(base.dtype, pin=base.device.type == "cuda")
    request = RenderRequest("a portrait", seed=1, width=side, height=side, num_inference_steps=steps)
    figures = takes(lambda: engine.render(request, adapter), base.device, 2)
    shape = {"side": side, "steps": steps, "precision": base.precision.name, "cap_gib": CAP_GIB}
    peaks = {"peak_gib": peak_gib(base.device), "peak_encoding_gib": peak_encoding, "encoding_s": round(encoding, 3)}
    book.add("portrait under a memory cap", **shape, **figures, **peaks)


def beside_a_training(book: Book, base: BaseModel, side: int, training_side: int, steps: int, cache: Path | None, backend: str) -> None:
    """A portrait is asked for right after the guest was let in, so it waits for a whole step, and one that saves a checkpoint at that:
    the longest that it can wait."""
    engine = Engine(base)
    warm_up(engine, cache=cache, backend=backend, alone=False, styles=False)
    adapter = render_adapters.random_adapter(engine, 1, base.device)
    request = RenderRequest("a portrait", seed=1, width=side, height=side, num_inference_steps=steps)
    alone = takes(lambda: engine.render(request, adapter), base.device)["s"]
    total, asked_after = 4 * STEPS_BETWEEN + 2, (2 * STEPS_BETWEEN, 3 * STEPS_BETWEEN)
    marks: list[tuple[float, float]] = []  # when the guest was let in, and when it left
    portraits: list[float] = []

    def guest() -> None:
        _settle(base)
        came = time.perf_counter()
        if len(marks) in asked_after:
            with stepped_aside(base):
                portraits.append(seconds_of(lambda: engine.render(request, adapter), base.device))
        marks.append((came, time.perf_counter()))

    _train(base, training_side, total, guest)
    step = [marks[n + 1][0] - marks[n][1] for n in range(total - 1)]  # who comes while the last checkpoint is stored waits for no step
    before, after = step[STEPS_BETWEEN : 2 * STEPS_BETWEEN - 1], step[2 * STEPS_BETWEEN :]
    figures = {"s": round(median(portraits), 4), "alone_s": alone, "training_side": training_side, "side": side, "steps": steps}
    waits = [step[asked - 1] for asked in asked_after]  # asked for right after the guest before was gone
    training: dict[str, Any] = {
        "step_before_s": round(median(before), 4),
        "step_after_s": round(median(after), 4),
        "waits_s": round(max(waits), 4),
    }
    training |= {"longest_step_s": round(max(step[STEPS_BETWEEN:]), 4), "steps_s": [round(value, 4) for value in step]}
    book.add("portrait between two training steps", **figures, **training, slowdown=round(median(after) / median(before) - 1, 4))


def _train(base: BaseModel, side: int, steps: int, guest: object) -> None:
    pictures = [Image.effect_noise((side, side), 60).convert("RGB") for _ in range(4)]
    photos = [CaptionedPhoto(f"{n:064x}", picture, f"a photo of ohwx person, number {n}") for n, picture in enumerate(pictures)]
    recipe = Recipe.for_run(
        len(photos), base, {"steps": steps, "resolution": side, "optimizer": "adamw", "checkpoint_every": STEPS_BETWEEN}
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(base, build_cache(base, photos, side), recipe, CheckpointFolder(Path(folder), {}), between_steps=guest)  # type: ignore[arg-type]


def _settle(base: BaseModel) -> None:
    """Steps are launched ahead of the GPU: what is measured is when they are done."""
    if base.device.type == "cuda":
        torch.cuda.synchronize(base.device)

"""Every mode with the subject's own adapter and without it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.mode_judges import Judges, Subject, Trial, mean_with
from core.words import Mode
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.slot import LoadedAdapter, read_adapter
from inference.upscale import sharp_lanczos
from lab.pictures import engine_over
from metrics.identity import leave_one_out
from miniature import world
from miniature.teach.accept import to_pictures
from trainer.captions import SubjectWords
from trainer.pipeline import train_on_photos
from trainer.recipe import Recipe

TRIGGER = "zokzex"
PLACE = "head and shoulders, seen from the front, in a park with trees, in soft daylight"
STYLE_OPTIONS = {Mode.STACKED: {"style_scale": 0.8}, Mode.TWO_PASS: {"first_pass_scale": 1.5, "second_pass_scale": 0.8}}  # as shipped
BLUEPRINT_PLACE = "head and shoulders, seen from the front, against a plain blue backdrop, in soft daylight"


def modes_trial(judges: Judges, subjects: Sequence[Subject], style: LoadedAdapter, folder: Path, seeds: int, steps: int) -> Trial:
    """Every mode with the subject's own adapter and without it. Likeness is normalised: 0 the base's text alone, 1 other real photos."""
    bench, trial = judges.bench, Trial()
    fitted = {subject.name: _fit(judges, subject, folder / subject.name, steps) for subject in subjects}
    with engine_over(bench.base) as engine:
        panel = _Panel(judges, subjects, {subject.name: _anchors(engine, judges, subject, seeds) for subject in subjects}, seeds, trial)
        for mode in (Mode.TEXT_TO_IMAGE, Mode.REFERENCE, Mode.STACKED, Mode.TWO_PASS, *([Mode.POSE] if bench.base.control else [])):
            for with_adapter in (True, False):
                own = {name: adapter if with_adapter else None for name, adapter in fitted.items()}
                drawn = [_mode_pictures(engine, subject, mode, own[subject.name], style, seeds) for subject in subjects]
                name = f"{mode}{'' if with_adapter else ', no adapter'}"
                panel.judge(name, mode, drawn)
                if mode == Mode.TEXT_TO_IMAGE:
                    panel.judge(name.replace(mode, Mode.UPSCALE), mode, [[sharp_lanczos(image) for image in images] for images in drawn])
    return trial


@dataclass(frozen=True)
class _Panel:
    """Judges a row of pictures, ``seeds`` of each subject, and notes it. ``anchors``: each subject's likeness of the base and of photos."""

    judges: Judges
    subjects: Sequence[Subject]
    anchors: dict[str, tuple[float, float]]
    seeds: int
    trial: Trial

    def judge(self, name: str, mode: Mode, drawn: Sequence[Sequence[Image.Image]]) -> None:
        near, told = [], []
        for subject, images in zip(self.subjects, drawn, strict=True):
            base, real = self.anchors[subject.name]
            near += [(value - base) / (real - base) for value in self.judges.near(images, subject)]
            told += self.judges.fidelity(images, [_prompt(mode, f"a {subject.kind}")] * self.seeds)
        groups = [subject.name for subject in self.subjects for _ in range(self.seeds)]
        self.trial.figures[name] = {"likeness": mean_with(near, groups), "prompt fidelity": mean_with(told, groups)}
        self.trial.pictures[name] = [images[0] for images in drawn][:8]
        print(f"  {name}: {self.trial.figures[name]}", flush=True)


def _fit(judges: Judges, subject: Subject, folder: Path, steps: int) -> LoadedAdapter:
    bench, rng = judges.bench, random.Random(subject.seed)
    scenes = [world.sample_scene(rng, style="photo") for _ in range(12)]
    factors = world.identity_factors(subject.kind, torch.tensor([subject.seed] * len(scenes)))
    photos = [*to_pictures(world.render(subject.kind, factors, scenes))]
    recipe = Recipe.for_run(len(photos), bench.base, {"steps": steps} if steps else None)
    trained = train_on_photos(bench, photos, subject.kind, SubjectWords(TRIGGER, subject.kind), recipe, folder)
    print(f"  fitted {subject.name}", flush=True)
    return read_adapter(bench.base, trained.path, subject.name)


def _anchors(engine: Engine, judges: Judges, subject: Subject, seeds: int) -> tuple[float, float]:
    images = _mode_pictures(engine, subject, Mode.TEXT_TO_IMAGE, None, None, max(seeds, 2))
    return float(np.mean(judges.near(images, subject))), float(leave_one_out(subject.reals).mean())


def _prompt(mode: Mode, who: str) -> str:
    if mode in (Mode.STACKED, Mode.TWO_PASS):
        return f"a blueprint of {who}, {BLUEPRINT_PLACE}"
    return f"a watercolour of {who}, in a park with trees, in soft daylight" if mode == Mode.POSE else f"a watercolour of {who}, {PLACE}"


def _mode_pictures(
    engine: Engine, subject: Subject, mode: Mode, adapter: LoadedAdapter | None, style: LoadedAdapter | None, count: int
) -> list[Image.Image]:
    styled = mode in (Mode.STACKED, Mode.TWO_PASS)
    who = f"{TRIGGER} {subject.kind}" if adapter else f"a {subject.kind}"
    request = RenderRequest(
        _prompt(mode, who),
        900,
        count,
        mode=mode,
        reference=subject.photo if mode == Mode.REFERENCE else None,
        style_adapter="blueprint" if styled else "",
        options=STYLE_OPTIONS.get(mode, {}),
    )
    return engine.render(request, adapter, style=style if styled else None)

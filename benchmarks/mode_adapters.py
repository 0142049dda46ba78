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
from miniature.teach import style as teaching
from miniature.teach.accept import to_pictures
from trainer.bench import Bench
from trainer.captions import SubjectWords
from trainer.pipeline import train_on_photos
from trainer.recipe import Recipe

TRIGGER = "zokzex"
PLACE = "head and shoulders, seen from the front, in a park with trees, in soft daylight"
STYLE_OPTIONS = {Mode.STACKED: {"style_scale": 0.8}, Mode.TWO_PASS: {"first_pass_scale": 1.5, "second_pass_scale": 0.8}}  # as shipped
BLUEPRINT_PLACE = "head and shoulders, seen from the front, against a plain blue backdrop, in soft daylight"
KNOWN = "watercolour"  # a style in which the judge can tell who it is
FIRST_OF_KNOWN = teaching.FIRST_SUBJECT + 20_000


@dataclass(frozen=True)
class Look:
    """What a row asks for. ``prompt`` has a place for who it is; ``tells_who``: the judge can tell subjects apart in such pictures. Of
    drawn blueprints it finds 41 of 90 nearest to their own subject among six of a kind (of photos 88), so likeness means nothing there."""

    name: str
    mode: Mode
    prompt: str = f"a watercolour of {{}}, {PLACE}"
    style: LoadedAdapter | None = None
    tells_who: bool = True


def looks(shipped: LoadedAdapter, known: LoadedAdapter, poses: bool) -> list[Look]:
    plain = [Look(mode, mode) for mode in (Mode.TEXT_TO_IMAGE, Mode.REFERENCE)]
    pose = [Look(Mode.POSE, Mode.POSE, "a watercolour of {}, in a park with trees, in soft daylight")] if poses else []
    styled = [Look(f"{mode}, {KNOWN}", mode, style=known) for mode in STYLE_OPTIONS]
    blueprints = [Look(f"{mode}, blueprint", mode, f"a blueprint of {{}}, {BLUEPRINT_PLACE}", shipped, False) for mode in STYLE_OPTIONS]
    return [*plain, *pose, *styled, *blueprints]


def modes_trial(judges: Judges, subjects: Sequence[Subject], shipped: LoadedAdapter, folder: Path, seeds: int, steps: int) -> Trial:
    """Every mode with the subject's own adapter and without it. Likeness is normalised: 0 the base's text alone, 1 other real photos."""
    bench, trial = judges.bench, Trial()
    fitted = {subject.name: _fit(judges, subject, folder / subject.name, steps) for subject in subjects}
    known = fit_known_style(bench, folder, steps)
    with engine_over(bench.base) as engine:
        asked = looks(shipped, known, bool(bench.base.control))
        panel = _Panel(
            judges, subjects, {subject.name: _anchors(engine, judges, subject, asked[0], seeds) for subject in subjects}, seeds, trial
        )
        for look in asked:
            for with_adapter in (True, False):
                own = {name: adapter if with_adapter else None for name, adapter in fitted.items()}
                drawn = [_pictures(engine, subject, look, own[subject.name], seeds) for subject in subjects]
                name = f"{look.name}{'' if with_adapter else ', no adapter'}"
                panel.judge(name, look, drawn)
                if look.mode == Mode.TEXT_TO_IMAGE:
                    enlarged = [[sharp_lanczos(image) for image in images] for images in drawn]
                    panel.judge(name.replace(Mode.TEXT_TO_IMAGE, Mode.UPSCALE), look, enlarged)
    return trial


@dataclass(frozen=True)
class _Panel:
    """Judges a row of pictures, ``seeds`` of each subject, and notes it. ``anchors``: each subject's likeness of the base and of photos."""

    judges: Judges
    subjects: Sequence[Subject]
    anchors: dict[str, tuple[float, float]]
    seeds: int
    trial: Trial

    def judge(self, name: str, look: Look, drawn: Sequence[Sequence[Image.Image]]) -> None:
        near, told = [], []
        for subject, images in zip(self.subjects, drawn, strict=True):
            base, real = self.anchors[subject.name]
            near += [(value - base) / (real - base) for value in self.judges.near(images, subject)]
            told += self.judges.fidelity(images, [look.prompt.format(f"a {subject.kind}")] * self.seeds)
        groups = [subject.name for subject in self.subjects for _ in range(self.seeds)]
        likeness = {"likeness": mean_with(near, groups)} if look.tells_who else {}
        self.trial.figures[name] = likeness | {"prompt fidelity": mean_with(told, groups)}
        self.trial.pictures[name] = [images[0] for images in drawn][:8]
        print(f"  {name}: {self.trial.figures[name]}", flush=True)


def fit_known_style(bench: Bench, folder: Path, steps: int) -> LoadedAdapter:
    """In the recipe of the shipped style adapter, on as many pictures."""
    pictures, captions, _ = teaching.draw(teaching.PICTURES, FIRST_OF_KNOWN, style=KNOWN)
    path = teaching.fit_style(bench.base, pictures, captions, folder / "style.safetensors", {"steps": steps} if steps else {}, name=KNOWN)
    return read_adapter(bench.base, path, f"style:{KNOWN}")


def _fit(judges: Judges, subject: Subject, folder: Path, steps: int) -> LoadedAdapter:
    bench, rng = judges.bench, random.Random(subject.seed)
    scenes = [world.sample_scene(rng, style="photo") for _ in range(12)]
    factors = world.identity_factors(subject.kind, torch.tensor([subject.seed] * len(scenes)))
    photos = [*to_pictures(world.render(subject.kind, factors, scenes))]
    recipe = Recipe.for_run(len(photos), bench.base, {"steps": steps} if steps else None)
    trained = train_on_photos(bench, photos, subject.kind, SubjectWords(TRIGGER, subject.kind), recipe, folder)
    print(f"  fitted {subject.name}", flush=True)
    return read_adapter(bench.base, trained.path, subject.name)


def _anchors(engine: Engine, judges: Judges, subject: Subject, look: Look, seeds: int) -> tuple[float, float]:
    images = _pictures(engine, subject, look, None, max(seeds, 2))
    return float(np.mean(judges.near(images, subject))), float(leave_one_out(subject.reals).mean())


def _pictures(engine: Engine, subject: Subject, look: Look, adapter: LoadedAdapter | None, count: int) -> list[Image.Image]:
    request = RenderRequest(
        look.prompt.format(f"{TRIGGER} {subject.kind}" if adapter else f"a {subject.kind}"),
        900,
        count,
        mode=look.mode,
        reference=subject.photo if look.mode == Mode.REFERENCE else None,
        style_adapter=look.style.id if look.style else "",
        options=STYLE_OPTIONS.get(look.mode, {}),
    )
    return engine.render(request, adapter, style=look.style)

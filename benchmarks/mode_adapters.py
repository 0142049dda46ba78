"""Every mode with the subject's own adapter and without it; and whether a pose of the bank is followed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.mode_judges import Judges, Subject, Trial, mean_with
from core.poses import pose_bank
from core.words import Mode
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.slot import LoadedAdapter, read_adapter
from lab.pictures import engine_over
from metrics.identity import leave_one_out
from miniature import world
from miniature.teach.accept import to_pictures
from trainer.captions import SubjectWords
from trainer.pipeline import train_on_photos
from trainer.recipe import Recipe

TRIGGER = "zokzex"
PLACE = "head and shoulders, seen from the front, in a park with trees, in soft daylight"
BLUEPRINT_PLACE = "head and shoulders, seen from the front, against a plain blue backdrop, in soft daylight"


def modes_trial(judges: Judges, subjects: Sequence[Subject], style: LoadedAdapter, folder: Path, seeds: int, steps: int) -> Trial:
    """Every mode with the subject's own adapter and without it. Likeness is normalised: 0 the base's text alone, 1 other real photos."""
    bench, measured = judges.bench, {}
    fitted = {subject.name: _fit(judges, subject, folder / subject.name, steps) for subject in subjects}
    trial, groups = Trial(), [subject.name for subject in subjects for _ in range(seeds)]
    with engine_over(bench.base) as engine:
        anchors = {subject.name: _anchors(engine, judges, subject, seeds) for subject in subjects}
        for mode in (Mode.TEXT_TO_IMAGE, Mode.REFERENCE, Mode.STACKED, Mode.TWO_PASS, *([Mode.POSE] if bench.base.control else [])):
            for with_adapter in (True, False):
                name = f"{mode}{'' if with_adapter else ', no adapter'}"
                near, told, shown = [], [], []
                for subject in subjects:
                    images = _mode_pictures(engine, subject, mode, fitted[subject.name] if with_adapter else None, style, seeds)
                    base, real = anchors[subject.name]
                    near += [(value - base) / (real - base) for value in judges.near(images, subject)]
                    told += judges.fidelity(images, [_prompt(mode, f"a {subject.kind}")] * seeds)
                    shown += images
                measured[name] = near
                trial.figures[name] = {"likeness": mean_with(near, groups), "prompt fidelity": mean_with(told, groups)}
                trial.pictures[name] = shown[::seeds][:8]
                print(f"  {name}: {trial.figures[name]}", flush=True)
    return trial


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
        options={"style_scale": 0.8} if mode == Mode.STACKED else {"first_pass_scale": 1.5} if mode == Mode.TWO_PASS else {},
    )
    return engine.render(request, adapter, style=style if styled else None)


def pose_trial(engine: Engine, judges: Judges, seeds: int) -> Trial:
    """Prompts that say nothing of a pose; is the pose of the bank followed? Beside it the same prompts without a ControlNet."""
    bank = {name: pose for name, pose in pose_bank().items() if pose.framing == "portrait"}
    cells = [(kind, name, seed) for kind in world.KINDS for name in bank for seed in range(seeds)]
    kinds, groups = [kind for kind, _, _ in cells], [f"{kind} {name}" for kind, name, _ in cells]
    asked = [name.removeprefix("portrait-").replace("-", " ") for _, name, _ in cells]
    trial = Trial()
    for way, mode in (("with the ControlNet", Mode.POSE), ("without", Mode.TEXT_TO_IMAGE)):
        prompts = [f"a photo of a {kind}, in a park with trees, in soft daylight" for kind in kinds]
        images = [
            engine.render(RenderRequest(prompt, 300 + seed, mode=mode, options={"pose": name} if mode == Mode.POSE else {}))[0]
            for prompt, (_, name, seed) in zip(prompts, cells, strict=True)
        ]
        followed, told = judges.pose(images, kinds, asked), judges.fidelity(images, prompts)
        trial.figures[way] = {"pose followed": mean_with(followed, groups), "prompt fidelity": mean_with(told, groups)}
        trial.pictures[way] = images[: len(bank) * seeds : seeds]
        print(f"  {way}: {trial.figures[way]}", flush=True)
    drawn = [world.Scene(pose=pose, background="park", jitter=n) for n, pose in enumerate(asked)]
    factors = {
        kind: world.identity_factors(kind, torch.arange(world.UNSEEN_SEED_START, world.UNSEEN_SEED_START + len(cells)))
        for kind in world.KINDS
    }
    pictures = [
        to_pictures(world.render(kind, factors[kind][n : n + 1], [scene]))[0]
        for n, (kind, scene) in enumerate(zip(kinds, drawn, strict=True))
    ]
    trial.figures["drawn by the world"] = {"pose followed": mean_with(judges.pose(pictures, kinds, asked), groups)}
    return trial

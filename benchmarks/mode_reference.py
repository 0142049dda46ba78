"""A clean reference photo beside plain image-to-image, compared where both show the asked style equally well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.mode_judges import Judges, Subject, Trial, mean_with
from core.words import Mode
from diffusion.latents import decode_latents, encode_images, to_images, to_pixels
from inference.engine import Engine
from inference.modes import fit_area
from inference.requests import RenderRequest
from metrics.identity import leave_one_out

STRENGTHS = (0.5, 0.6, 0.7, 0.8, 0.9)  # of plain image-to-image
STYLES = ("a photo", "a watercolour", "an oil painting", "a comic drawing")
PLACE = "head and shoulders, seen from the front, in a park with trees, in soft daylight"


def reference_trial(engine: Engine, judges: Judges, subjects: Sequence[Subject], seeds: int) -> Trial:
    """Plain image-to-image at several strengths gives likeness as a curve of style; it is read where the style equals the reference's."""
    cells = [(subject, style, seed) for subject in subjects for style in STYLES for seed in range(seeds)]
    groups = [subject.name for subject, _, _ in cells]
    ways = {"text alone": _from_text, "reference": _from_reference}
    ways |= {f"image-to-image {strength}": _from_image(strength) for strength in STRENGTHS}
    trial, near, styled = Trial(), {}, {}
    for name, way in ways.items():
        images = [way(engine, subject, style, seed) for subject, style, seed in cells]
        near[name] = [judges.near([image], subject)[0] for image, (subject, _, _) in zip(images, cells, strict=True)]
        styled[name] = judges.fidelity(images, [f"{style} of a {subject.kind}" for subject, style, _ in cells])
        trial.figures[name] = {"likeness": mean_with(near[name], groups), "style": mean_with(styled[name], groups)}
        trial.pictures[name] = images[: len(STYLES) * seeds : seeds] + images[-len(STYLES) * seeds :: seeds]
        print(f"  {name}: {trial.figures[name]}", flush=True)
    real = [float(value) for subject in subjects for value in leave_one_out(subject.reals)]
    trial.figures["real photos"] = {"likeness": mean_with(real, [s.name for s in subjects for _ in s.reals])}
    trial.differences = {"reference − image-to-image at equal style": {"likeness": _at_equal_style(near, styled, groups)}}
    return trial


def _from_text(engine: Engine, subject: Subject, style: str, seed: int) -> Image.Image:
    return engine.render(RenderRequest(f"{style} of a {subject.kind}, {PLACE}", 700 + seed))[0]


def _from_reference(engine: Engine, subject: Subject, style: str, seed: int) -> Image.Image:
    prompt = f"{style} of a {subject.kind}, {PLACE}"
    return engine.render(RenderRequest(prompt, 700 + seed, mode=Mode.REFERENCE, reference=subject.photo))[0]


def _from_image(strength: float) -> Any:
    """Plain image-to-image: the photo itself is noised up to that level. The product has no such mode, since it loses who it is."""

    def way(engine: Engine, subject: Subject, style: str, seed: int) -> Image.Image:
        base = engine.base
        request = RenderRequest(f"{style} of a {subject.kind}, {PLACE}", 700 + seed).resolved(base.facts.get("render", {}))
        noised = encode_images(base, to_pixels([fit_area(subject.photo, base.resolution**2)]))
        with engine.slot.in_place():
            latents = engine.denoise("image_to_image", request, 700 + seed, lambda: None, image=noised, strength=strength)
        return to_images(decode_latents(base, latents))[0]

    return way


def _at_equal_style(near: dict[str, list[float]], styled: dict[str, list[float]], groups: Sequence[str]) -> dict[str, float]:
    """Likeness of the reference less that of image-to-image where its style equals the reference's; subjects are resampled."""
    names = sorted(set(groups))
    rows = {name: [i for i, group in enumerate(groups) if group == name] for name in names}
    plain = [f"image-to-image {strength}" for strength in STRENGTHS]

    def gap(chosen: Sequence[str]) -> float:
        index = [i for name in chosen for i in rows[name]]
        curve = sorted((float(np.mean([styled[way][i] for i in index])), float(np.mean([near[way][i] for i in index]))) for way in plain)
        style = float(np.mean([styled["reference"][i] for i in index]))
        there = np.interp(style, [s for s, _ in curve], [likeness for _, likeness in curve])
        return float(np.mean([near["reference"][i] for i in index]) - there)

    draw = np.random.default_rng(0)
    gaps = [gap(list(draw.choice(names, len(names)))) for _ in range(1000)]
    low, high = np.quantile(gaps, [0.025, 0.975])
    return {"mean": round(gap(names), 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": len(groups)}

"""The adapter's card: what it is, what it was fitted on and how well it does, in JSON, next to the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

from diffusion.devices import describe
from diffusion.provenance import marked_png
from trainer.bench import Bench
from trainer.captions import SubjectWords
from trainer.recipe import Recipe
from trainer.selection import Selection, prompts_for

PACKAGES = ("likeness", "torch", "diffusers", "transformers", "peft", "accelerate")
SAMPLES, SAMPLE_SIDE = 4, 512  # pictures kept with an adapter, and their longest side in pixels
SAMPLE_FILE = "sample-{n}.png"


@dataclass(frozen=True)
class Fitted:
    """What a finished run knows of itself."""

    words: SubjectWords
    kind: str
    base_name: str
    recipe: Recipe
    seed: int
    trained_keys: Sequence[str]
    held_out: int
    masked: int | None  # photos in which the subject was found, so that what is around it counted less; None: masks were not asked for
    selection: Selection
    reference_embedding: Sequence[float]  # mean of the learned photos' unit vectors: all that scoring a portrait needs of them
    memory: Mapping[str, Any]  # what the fit ran with, and what it had to give up


def versions() -> dict[str, str]:
    """Of what computed a figure; this project itself may run from a checkout without being installed."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def data_digest(keys: Sequence[str]) -> str:
    """Of the set of photos, whatever their order."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def header(bench: Bench, fitted: Fitted) -> dict[str, Any]:
    """The card's essentials that travel inside the weights' file. No name, no photo, no score."""
    return {
        "base_model": fitted.base_name,
        "base_fingerprint": bench.base.fingerprint,
        "family": bench.base.family.name,
        "rank": fitted.recipe.rank,
        "alpha": fitted.recipe.alpha,
        "trigger_token": fitted.words.trigger_token,
        "class_word": fitted.words.class_word,
        "steps": fitted.selection.chosen.step,
    }


def sample_prompts(fitted: Fitted) -> dict[str, str]:
    """Files of the pictures that are kept with the adapter, in the order of the validation prompts that they were rendered from."""
    count = min(SAMPLES, len(fitted.selection.chosen.images))
    return {SAMPLE_FILE.format(n=n): prompt for n, prompt in enumerate(prompts_for(fitted.words.in_training, count))}


def write_samples(fitted: Fitted, folder: Path) -> list[Path]:
    """Validation pictures of the chosen checkpoint, marked as made by a machine: the customer sees what was judged."""
    files = []
    for name, image in zip(sample_prompts(fitted), fitted.selection.chosen.images, strict=False):
        small = image.copy()
        small.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.LANCZOS)
        files.append(folder / name)
        files[-1].write_bytes(marked_png(small))
    return files


def make_card(bench: Bench, fitted: Fitted, weights: Path) -> dict[str, Any]:
    data = weights.read_bytes()
    return header(bench, fitted) | {
        "kind": fitted.kind,
        "target_set": fitted.recipe.target_set,
        "precision": bench.base.precision.name,
        "memory": dict(fitted.memory),
        "seed": fitted.seed,
        "recipe": fitted.recipe.model_dump(mode="json"),
        "weights": {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)},
        "data": {
            "photos": len(fitted.trained_keys),
            "held_out": fitted.held_out,
            "masked": fitted.masked,
            "digest": data_digest(fitted.trained_keys),
        },
        "scores": fitted.selection.scores(),
        "samples": [{"file": file, "prompt": prompt} for file, prompt in sample_prompts(fitted).items()],
        "reference_embedding": [round(value, 6) for value in fitted.reference_embedding],
        "encoders": {"identity": bench.identity.id, "text_image": bench.text_image.id},
        "hardware": describe(bench.base.device),
        "versions": versions(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }

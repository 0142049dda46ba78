"""Which candidate becomes the adapter: the one that looks like the subject, still follows prompts, and repeats no photo.

Score = I · P · (1 − L)². I: normalised likeness (0 = base model, 1 = held-out real photos). P: prompt fidelity kept, at most 1.
L: leak rate. Of candidates within one standard error of the best the earliest is taken: fewer steps, less harm to everything else.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diffusion import lora
from metrics.fidelity import kept
from metrics.identity import leave_one_out, likeness, normalised
from metrics.leakage import find_leaks
from trainer.bench import Bench, Scores
from trainer.captions import SubjectWords
from trainer.photos import TrainingPhoto
from trainer.recipe import Recipe

PROMPTS_FILE = Path(__file__).with_name("validation_prompts.toml")


@dataclass(frozen=True)
class Reals:
    """The photos that scores refer to: ``photos`` were trained on, ``held_out`` embeddings [K, D] were not; K may be 0."""

    photos: Sequence[TrainingPhoto]
    embeds: torch.Tensor
    held_out: torch.Tensor

    @property
    def ceiling(self) -> float:
        """What real photos of the subject score: held-out ones, or each photo against the others where none was held out."""
        scores = likeness(self.held_out, self.embeds) if len(self.held_out) else leave_one_out(self.embeds)
        return scores.mean().item()


@dataclass(frozen=True)
class Candidate:
    """``likeness``: mean cosine to the training photos. ``normalised`` is NaN where real photos score no better than the base.
    ``each`` [N] is ``score`` picture by picture, for its standard error; ``images`` are the pictures, of the validation prompts in turn."""

    step: int
    path: Path
    likeness: float
    normalised: float
    fidelity: float
    fidelity_kept: float
    leak_rate: float
    warnings: list[str]
    each: torch.Tensor = field(repr=False)
    images: Sequence[Image.Image] = field(default=(), repr=False)

    @property
    def score(self) -> float:
        return self.each.mean().item()

    def as_dict(self) -> dict[str, Any]:
        names = ("likeness", "normalised", "fidelity", "fidelity_kept", "leak_rate", "score")
        return {"step": self.step} | _rounded(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Selection:
    chosen: Candidate
    candidates: list[Candidate]
    base_likeness: float
    base_fidelity: float
    real_likeness: float

    def scores(self) -> dict[str, Any]:
        """For the card."""
        best = self.chosen
        return {
            "likeness": _rounded(base=self.base_likeness, adapter=best.likeness, real=self.real_likeness, normalised=best.normalised),
            "prompt_fidelity": _rounded(base=self.base_fidelity, adapter=best.fidelity, ratio=best.fidelity_kept),
            "leak_rate": round(best.leak_rate, 4),
            "score": round(best.score, 4),
            "warnings": best.warnings,
            "candidates": [candidate.as_dict() for candidate in self.candidates],
        }


def _rounded(**values: float) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {name: None if math.isnan(value) else round(value, 4) for name, value in values.items()}


@cache
def validation_prompts(path: Path = PROMPTS_FILE) -> tuple[str, ...]:
    return tuple(tomllib.loads(path.read_text(encoding="utf-8"))["prompts"])


def prompts_for(subject: str, count: int) -> list[str]:
    """``count`` prompts, cycling through the file."""
    prompts = validation_prompts()
    return [prompts[i % len(prompts)].replace("{subject}", subject) for i in range(count)]


def select(
    bench: Bench,
    paths: Mapping[int, Path],
    reals: Reals,
    words: SubjectWords,
    recipe: Recipe,
    *,
    check: Callable[[], None] = lambda: None,
    on_candidate: Callable[[Candidate], None] = lambda candidate: None,
) -> Selection:
    """Renders every candidate with the same prompts and seeds, scores and chooses. The base model is left without adapter."""
    plain = prompts_for(f"a {words.class_word}", recipe.validation_images)
    base = bench.baseline(plain, recipe, check)
    scale = _Scale(likeness(base.embeds, reals.embeds).mean().item(), reals.ceiling, base.fidelity.mean().item())
    candidates = []
    for step, path in sorted(paths.items()):
        images, scores = _render_with(bench, path, words, plain, recipe, check)
        candidates.append(judge(step, path, images, scores, reals, scale))
        on_candidate(candidates[-1])
    return Selection(choose(candidates), candidates, scale.base, scale.fidelity, scale.real)


@dataclass(frozen=True)
class _Scale:
    """0 and 1 of normalised likeness, and the base model's prompt fidelity."""

    base: float
    real: float
    fidelity: float


def _render_with(
    bench: Bench, path: Path, words: SubjectWords, plain: Sequence[str], recipe: Recipe, check: Callable[[], None]
) -> tuple[list[Image.Image], Scores]:
    transformer = bench.base.transformer
    state, _ = lora.read(path, transformer, bench.base.family.lora_allowlist(transformer))
    with bench.wearing(state, recipe):
        images = bench.render(prompts_for(words.in_training, len(plain)), recipe, check)
    return images, bench.judge(images, plain)


def judge(step: int, path: Path, images: Sequence[Image.Image], scores: Scores, reals: Reals, scale: _Scale) -> Candidate:
    leaks = find_leaks(images, scores.embeds, [photo.image for photo in reals.photos], reals.embeds)
    near = likeness(scores.embeds, reals.embeds)
    fidelity = scores.fidelity.mean().item()
    fidelity_kept = kept(fidelity, scale.fidelity) if scale.fidelity > 0 else 1.0
    each = _above_base(near, scale) * min(1.0, fidelity_kept) * (1 - leaks.rate) ** 2
    return Candidate(
        step=step,
        path=path,
        likeness=near.mean().item(),
        normalised=float(normalised(near.mean(), scale.base, scale.real)),
        fidelity=fidelity,
        fidelity_kept=fidelity_kept,
        leak_rate=leaks.rate,
        warnings=leaks.warnings,
        each=each,
        images=images,
    )


def _above_base(near: torch.Tensor, scale: _Scale) -> torch.Tensor:
    """Likeness between base (0) and real (1), not clipped. Where real photos score no better than the base the encoder cannot tell this
    subject from its class: then the plain cosine above the base's ranks the candidates."""
    span = scale.real - scale.base
    return (near - scale.base) / (span if span > 1e-6 else 1.0)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The earliest whose pictures score, pair by pair, at most one standard error less than the best's: same prompts, same seeds."""
    best = max(candidates, key=lambda candidate: candidate.score)
    return next(candidate for candidate in candidates if _as_good(candidate, best))


def _as_good(candidate: Candidate, best: Candidate) -> bool:
    deficit = best.each - candidate.each
    error = deficit.std().item() / math.sqrt(len(deficit)) if len(deficit) > 1 else 0.0
    return deficit.mean().item() <= error

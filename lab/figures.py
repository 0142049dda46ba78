"""From embeddings to the figures of an evaluation: pure functions, so that their meaning can be checked on made-up subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from lab.pictures import Judged
from metrics.fidelity import kept
from metrics.identity import likeness, normalised
from metrics.leakage import find_leaks
from metrics.stats import summary


@dataclass(frozen=True)
class Reals:
    """The photos that adapters were fitted on, with unit vectors [M, D], and those of held-out photos [K, D]."""

    photos: Sequence[Image.Image]
    learned: torch.Tensor
    held_out: torch.Tensor

    @property
    def ceiling(self) -> float:
        """What unseen real photos score: their mean cosine to the learned ones."""
        return likeness(self.held_out, self.learned).mean().item()


def subject_figures(reals: Reals, base: Judged, runs: Sequence[Judged]) -> dict[str, Any]:
    """Likeness, prompt fidelity and leakage over all runs' pictures. ``normalised`` is the mean over pictures, each clipped to [0, 1]."""
    return {
        "likeness": likeness_figures(reals, base, runs),
        "prompt_fidelity": fidelity_figures(base, runs),
        "leak": leak_figures(reals, runs),
    }


def likeness_figures(reals: Reals, base: Judged, runs: Sequence[Judged]) -> dict[str, Any]:
    """``to_held_out`` is ``normalised`` with the held-out photos as reference: an adapter that repeats what it saw falls behind there."""
    raw = {"base": _near(base, reals.learned), "adapter": fmean(_near(run, reals.learned) for run in runs), "real": reals.ceiling}
    each = [normalised_each(reals.learned, base, run, reals.ceiling) for run in runs]
    spread = summary([value for run in each for value in run], [n for n, run in enumerate(each) for _ in run])
    return {
        **_rounded(raw),
        **_rounded({"normalised": spread.mean, "median": spread.median, "p10": spread.p10, "low": spread.low, "high": spread.high}),
        "each": [[_rounded_value(value, 3) for value in run] for run in each],
        "to_held_out": _rounded_value(fmean(fmean(normalised_each(reals.held_out, base, run, reals.ceiling)) for run in runs)),
    }


def normalised_each(reference: torch.Tensor, base: Judged, pictures: Judged, ceiling: float) -> list[float]:
    """Of each picture: 0 = as the base model's pictures on average, 1 = as unseen real photos on average."""
    return normalised(likeness(pictures.embeds, reference), _near(base, reference), ceiling).tolist()


def fidelity_figures(base: Judged, runs: Sequence[Judged]) -> dict[str, float | None]:
    """CLIP-T of base and adapter, and their ratio: 1 = prompts are followed as well as without the adapter."""
    bare, with_adapter = fmean(base.fidelity), fmean(value for run in runs for value in run.fidelity)
    return _rounded({"base": bare, "adapter": with_adapter, "ratio": kept(with_adapter, bare) if bare > 0 else float("nan")})


def leak_figures(reals: Reals, runs: Sequence[Judged]) -> dict[str, Any]:
    """``rate`` over all pictures, with what :mod:`metrics.leakage` warns of."""
    reports = [find_leaks(run.images, run.embeds, reals.photos, reals.learned) for run in runs]
    leaked = [leak for report in reports for leak in report.leaked]
    structure = max(value for report in reports for value in report.structure)
    warnings = sorted({warning for report in reports for warning in report.warnings})
    return {"rate": round(fmean(leaked), 4), "most_alike": round(structure, 4), "warnings": warnings}


def foreign_figures(reals: Reals, base: Judged, foreign: Judged) -> dict[str, float | None]:
    """Another subject's adapter, measured as if it were this one's."""
    each = normalised_each(reals.learned, base, foreign, reals.ceiling)
    return _rounded({"likeness": _near(foreign, reals.learned), "normalised": fmean(each)})


def _near(pictures: Judged, reference: torch.Tensor) -> float:
    return likeness(pictures.embeds, reference).mean().item()


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _rounded_value(value) for name, value in values.items()}


def _rounded_value(value: float, digits: int = 4) -> float | None:
    """None, as JSON knows it, where the encoder cannot tell the subject from its class."""
    return None if math.isnan(value) else round(value, digits)

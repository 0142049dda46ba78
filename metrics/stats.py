"""Figures with their spread: mean, median, tenth percentile and a seeded bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """``low`` and ``high`` bound the mean with 95 % confidence; ``p10`` is what nine of ten values exceed."""

    n: int
    mean: float
    median: float
    p10: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def summary(values: Sequence[float], groups: Sequence[object] | None = None, seed: int = 0) -> Summary:
    """Of at least one value. ``groups`` names what each value was drawn from (its subject): the interval then resamples groups."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values to summarise")
    low, high = bootstrap_interval(array, groups, seed=seed)
    return Summary(array.size, float(array.mean()), float(np.median(array)), float(np.quantile(array, 0.1)), low, high)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[object] | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean (Efron & Tibshirani 1993, chapter 13). With ``groups`` whole groups are drawn (cluster bootstrap):
    pictures of one subject are not independent, and treating them so gives an interval that is too narrow.
    """
    array = np.asarray(values, dtype=np.float64)
    labels = np.arange(array.size) if groups is None else np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    sums, counts = np.bincount(labels, weights=array), np.bincount(labels)
    drawn = np.random.default_rng(seed).integers(0, counts.size, (resamples, counts.size))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

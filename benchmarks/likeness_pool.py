"""Several results of ``benchmarks.likeness`` (other seeds, other subjects) read as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from metrics.stats import summary

ONE_MEASURE = ("base_model", "encoders")  # what must be the same for figures to be put together


def reports_of(paths: Sequence[Path]) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Reports by subject, and the memory of the result that took most. ``SystemExit`` for results of different bases or judges."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    reports: dict[str, dict[str, Any]] = {}
    for name, report in (pair for result in results for pair in result["subjects"].items()):
        _require_one_measure(report, next(iter(reports.values()), report))
        reports[name] = joined(reports[name], report) if name in reports else report
    return reports, max((result["memory"] for result in results), key=lambda memory: memory["resident_gib"])


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two reports of one subject, with different seeds."""
    runs = [*one["runs"], *other["runs"]]
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise SystemExit(f"a seed is there twice: {sorted(seeds)}")
    seconds = {key: max(one["seconds"][key], other["seconds"][key]) for key in one["seconds"]}
    fidelity = {"base": one["prompt_fidelity"]["base"], **_means(runs, lambda run: run["prompt_fidelity"], ("adapter", "ratio"))}
    leak = {"rate": fmean(run["leak"]["rate"] for run in runs), "most_alike": max(run["leak"]["most_alike"] for run in runs)}
    warnings = sorted({warning for run in runs for warning in run["leak"]["warnings"]})
    return {
        **one,
        "runs": runs,
        "likeness": _likeness(runs),
        "prompt_fidelity": fidelity,
        "leak": leak | {"warnings": warnings},
        "foreign": one["foreign"] or other["foreign"],
        "swap_back_identical": one["swap_back_identical"] and other["swap_back_identical"],
        "seconds": seconds,
    }


def _likeness(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As :func:`lab.figures.likeness_figures`, from what it kept of each picture."""
    each = [values for run in runs for values in run["likeness"]["each"]]
    known = [(value, n) for n, values in enumerate(each) for value in values if value is not None]
    spread = summary([value for value, _ in known], [n for _, n in known])
    means = _means(runs, lambda run: run["likeness"], ("base", "adapter", "real", "to_held_out"))
    return {
        **means,
        "normalised": spread.mean,
        "median": spread.median,
        "p10": spread.p10,
        "low": spread.low,
        "high": spread.high,
        "each": each,
    }


def _means(
    runs: Sequence[Mapping[str, Any]], part: Callable[[Mapping[str, Any]], Mapping[str, Any]], keys: Sequence[str]
) -> dict[str, Any]:
    return {key: fmean(part(run)[key] for run in runs) for key in keys}


def _require_one_measure(report: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    for same in ONE_MEASURE:
        if report[same] != first[same]:
            raise SystemExit(f"not of one measure: {report[same]} and {first[same]}")

"""Results of other seeds and other subjects, read as one."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.likeness import pooled_files


def run(seed: int, each: list[float | None], fidelity: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "seconds": {"fit": 10.0 + seed},
        "likeness": {"base": 0.0, "adapter": 0.7, "real": 0.9, "to_held_out": 0.8, "each": [each]},
        "prompt_fidelity": {"adapter": fidelity, "ratio": fidelity / 0.8},
        "leak": {"rate": 0.1 * seed, "most_alike": 0.5 + 0.1 * seed, "warnings": [f"of seed {seed}"]},
    }


def report(own: dict[str, Any], precision: str = "nf4", foreign: dict[str, float] | None = None) -> dict[str, Any]:
    return {
        "base_model": {"precision": precision},
        "encoders": {"identity": "x"},
        "runs": [own],
        "likeness": own["likeness"],
        "prompt_fidelity": {"base": 0.8, **own["prompt_fidelity"]},
        "leak": own["leak"],
        "foreign": foreign,
        "swap_back_identical": True,
        "seconds": {"portrait": 1.0 + own["seed"], "portrait_longest": 2.0},
    }


def write(path: Path, subjects: dict[str, dict[str, Any]], resident: float) -> Path:
    path.write_text(json.dumps({"subjects": subjects, "memory": {"resident_gib": resident}}))
    return path


def test_seeds_of_a_subject_are_joined_and_other_subjects_added(tmp_path: Path) -> None:
    first = write(tmp_path / "1.json", {"cat": report(run(0, [0.5, 1.0], 0.8), foreign={"normalised": 0.1})}, 1.0)
    second = write(tmp_path / "2.json", {"cat": report(run(1, [0.7, None], 0.4)), "dog": report(run(0, [0.3, 0.3], 0.8))}, 2.0)
    result = pooled_files([first, second])
    cat, figures = result["subjects"]["cat"], result["pooled"]
    assert [own["seed"] for own in cat["runs"]] == [0, 1]
    assert cat["likeness"]["normalised"] == pytest.approx((0.5 + 1.0 + 0.7) / 3)
    assert cat["prompt_fidelity"]["ratio"] == pytest.approx(0.75)
    assert cat["leak"]["most_alike"] == 0.6 and cat["foreign"] == {"normalised": 0.1} and cat["seconds"]["portrait"] == 2.0
    assert figures["likeness"]["mean"] == pytest.approx((0.5 + 1.0 + 0.7 + 0.3 + 0.3) / 5)
    assert (figures["subjects"], figures["pictures"], result["memory"]["resident_gib"]) == (2, 6, 2.0)


def test_the_same_seed_twice_and_another_base_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "1.json", {"cat": report(run(0, [0.5], 0.8))}, 1.0)
    with pytest.raises(SystemExit, match="seed is there twice"):
        pooled_files([first, first])
    other = write(tmp_path / "2.json", {"cat": report(run(1, [0.5], 0.8), precision="fp8")}, 1.0)
    with pytest.raises(SystemExit, match="not of one measure"):
        pooled_files([first, other])

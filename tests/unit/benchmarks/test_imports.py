"""Benchmarks run seldom; what they import must not go away unnoticed meanwhile."""

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import benchmarks

MODULES = [found.name for found in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.") if not found.name.endswith("__main__")]


@pytest.mark.parametrize("module", MODULES)
def test_every_benchmark_can_be_imported(module: str) -> None:
    import_module(module)


def test_make_bench_finds_its_benchmarks() -> None:
    """In a process of its own: whatever was imported before could stand in for what is missing."""
    shown = subprocess.run([sys.executable, "-m", "benchmarks", "--help"], check=False, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "likeness" in shown.stdout

"""Benchmarks run seldom; what they import must not go away unnoticed meanwhile."""

import pkgutil
from importlib import import_module

import pytest

import benchmarks

MODULES = [found.name for found in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.") if not found.name.endswith("__main__")]


@pytest.mark.parametrize("module", MODULES)
def test_every_benchmark_can_be_imported(module: str) -> None:
    import_module(module)

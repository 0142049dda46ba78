"""Measurements behind docs/benchmarks.md. Each prints its table and, with --json, writes its rows."""

import likeness  # noqa: F401 - sets how long OpenMP's threads spin, as the service has it, before torch loads them

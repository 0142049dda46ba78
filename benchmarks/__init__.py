"""Measurements behind docs/benchmarks.md. Each prints its table and, with --json, writes its rows."""

import likeness as _service  # noqa: F401 - sets how long threads spin, before torch loads; under another name than a benchmark of ours has

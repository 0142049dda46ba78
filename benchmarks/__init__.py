"""Measurements behind docs/benchmarks.md. Each prints its table and, with --json, writes its rows."""

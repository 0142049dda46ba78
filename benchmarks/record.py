"""Rows of figures, printed and saved as they come, so that a run that is cut short has lost nothing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from diffusion.devices import describe

PACKAGES = ("torch", "diffusers", "transformers", "peft")


class Record:
    """``path``: the JSON file, or None. ``facts`` stand in every file: hardware, versions, command, weights."""

    def __init__(self, path: Path | None, device: torch.device, **facts: Any) -> None:
        self.path = path
        self.facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "hardware": describe(device), "versions": _versions(), **facts}
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({**self.facts, "rows": self.rows}, indent=1) + "\n")


def seconds(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median_s": round(statistics.median(values), 4), "min_s": round(min(values), 4), "max_s": round(max(values), 4)}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "?"
    return found

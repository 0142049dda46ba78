"""Which modes a base model can render, as far as that can be told without loading it."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from core.settings import Settings
from core.words import Mode

KNOWN = Path(__file__).with_name("bases.toml")
WITHOUT_HELP = frozenset({Mode.TEXT_TO_IMAGE, Mode.TWO_PASS, Mode.STACKED})  # every family can: they need no weights of their own


def modes_of(settings: Settings) -> frozenset[Mode]:
    """From the folder's own ``likeness.json``, else what is known of a hub id; poses wherever there is a ControlNet."""
    return _own_modes(settings.base_model_path, settings.base_model) | ({Mode.POSE} if settings.controlnet_path else frozenset())


@cache
def _own_modes(path: str, name: str) -> frozenset[Mode]:
    own = _json(Path(path) / "likeness.json").get("modes")
    index = _json(Path(path) / "model_index.json").get("_class_name", "")
    known = _known()
    modes = own or known["base"].get(name.lower()) or known["pipelines"].get(index)
    return frozenset(Mode(mode) for mode in modes) if modes else WITHOUT_HELP


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@cache
def _known() -> dict[str, dict[str, list[str]]]:
    tables = tomllib.loads(KNOWN.read_text(encoding="utf-8"))
    return {"base": {row["id"].lower(): row["modes"] for row in tables["base"]}, "pipelines": tables["pipelines"]}

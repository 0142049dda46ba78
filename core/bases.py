"""Which modes a base model can render, as far as that can be told without loading it."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path

from core.settings import Settings
from core.words import Mode

KNOWN = Path(__file__).with_name("bases.toml")
WITHOUT_HELP = frozenset({Mode.TEXT_TO_IMAGE, Mode.TWO_PASS, Mode.STACKED})  # every family can: they need no weights of their own


def modes_of(settings: Settings) -> frozenset[Mode]:
    """From the folder's own ``likeness.json``, else what is known of a hub id; poses wherever there is a ControlNet."""
    return _own_modes(settings.base_model_path, settings.base_model) | ({Mode.POSE} if settings.controlnet_path else frozenset())


@cache
def _own_modes(path: str, name: str) -> frozenset[Mode]:
    own = Path(path) / "likeness.json"
    facts = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    modes = facts.get("modes", _known().get(name.lower()))
    return WITHOUT_HELP if modes is None else frozenset(Mode(mode) for mode in modes)


@cache
def _known() -> dict[str, list[str]]:
    return {row["id"].lower(): row["modes"] for row in tomllib.loads(KNOWN.read_text(encoding="utf-8"))["base"]}

"""The files that a deployment is made of, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
ENV_EXAMPLE = ROOT / ".env.example"
ALERTS = ROOT / "deploy" / "alerts.yml"
OPERATIONS = ROOT / "docs" / "operations.md"


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text(encoding="utf-8")))


def env_names(with_examples: bool = True) -> set[str]:
    """Variables of ``.env.example``; those behind a ``#`` too, unless told otherwise."""
    pattern = r"^#?([A-Z][A-Z0-9_]*)=" if with_examples else r"^([A-Z][A-Z0-9_]*)="
    return set(re.findall(pattern, ENV_EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))


def env_values() -> dict[str, str]:
    """As docker compose reads them."""
    lines = ENV_EXAMPLE.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

"""The miniature's own weights with a recipe of fewer steps: a base model's folder brings its facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MINIATURE = Path(__file__).parents[1] / "miniature"


def short_base(folder: Path, **recipe: Any) -> dict[str, str]:
    """Makes ``folder``; the settings that a process needs to use it, as environment variables."""
    flux = MINIATURE / "flux"
    folder.mkdir()
    for path in flux.iterdir():
        if path.name != "likeness.json":
            (folder / path.name).symlink_to(path)
    facts = json.loads((flux / "likeness.json").read_text(encoding="utf-8"))
    facts["recipe"] |= recipe
    (folder / "likeness.json").write_text(json.dumps(facts), encoding="utf-8")
    encoders = {"LIKENESS_IDENTITY_ENCODER": MINIATURE / "dino", "LIKENESS_TEXT_IMAGE_ENCODER": MINIATURE / "clip"}
    return {"LIKENESS_BASE_MODEL": str(folder)} | {name: str(path) for name, path in encoders.items()}

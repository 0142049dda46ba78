"""Which family a base model belongs to. Everything above asks the Family object and never compares names."""

from __future__ import annotations

import json
from pathlib import Path

from core.errors import UserError
from diffusion.families.base import Family
from diffusion.families.flux1 import Flux1
from diffusion.families.flux2_klein import Flux2Klein

__all__ = ["BY_PIPELINE", "Family", "family_of"]

BY_PIPELINE: dict[str, type[Family]] = {"FluxPipeline": Flux1, "FluxKontextPipeline": Flux1, "Flux2KleinPipeline": Flux2Klein}


def family_of(folder: str | Path) -> Family:
    """Of a local folder in the diffusers layout, by the pipeline class that its ``model_index.json`` names."""
    try:
        index = json.loads((Path(folder) / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("base-model/not-a-pipeline", "Not a base model", f"{folder} has no model_index.json (diffusers layout).") from error
    name = index.get("_class_name", "")
    if name not in BY_PIPELINE:
        known = ", ".join(sorted(BY_PIPELINE))
        raise UserError("base-model/unknown-family", f"Unsupported base model: {name}", f"Supported pipelines: {known}.")
    return BY_PIPELINE[name]()

"""A base model's transformer without its weights: its shapes alone, by which an adapter file can be checked in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from diffusion import lora
from diffusion.families import family_of
from diffusion.hub import fetch


def blank_transformer(folder: Path) -> Any:
    """On PyTorch's meta device: no memory is taken, whatever its size."""
    name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["transformer"][1]
    kind = getattr(diffusers, name)
    with torch.device("meta"):
        return kind.from_config(kind.load_config(folder, subfolder="transformer"))


def check_adapter(base: str, path: Path, revision: str | None = None) -> None:
    """:class:`core.errors.UserError` unless the file is a finite LoRA of that base model (folder or hub id)."""
    folder = fetch(base, revision)
    transformer = blank_transformer(folder)
    lora.read(path, transformer, family_of(folder).lora_allowlist(transformer))

"""The style catalogue as data: one TOML file a style. The API lists it, inference renders it."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from core.errors import not_found
from core.words import Mode

SHIPPED = Path(__file__).with_name("style_files")


class Style(BaseModel):
    """A named recipe. ``prompt`` holds ``{subject}``, which becomes «trigger_token class_word» (or the class word alone)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    title: str
    description: str = ""
    prompt: str
    mode: Mode = Mode.TEXT_TO_IMAGE
    lora_scale: float = Field(1.0, ge=0, le=2)
    guidance_scale: float | None = Field(None, ge=0, le=20, description="None: the base model's own.")
    num_inference_steps: int | None = Field(None, ge=1, le=100, description="None: the base model's own.")
    options: dict[str, Any] = {}

    def prompt_for(self, subject: str) -> str:
        return self.prompt.replace("{subject}", subject)


@cache
def catalogue(folder: Path = SHIPPED) -> dict[str, Style]:
    """All styles of a folder by name, in file order. A broken file raises with its name: an operator must see it at start."""
    styles = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            style = Style(**tomllib.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"style file {path}: {error}") from error
        styles[style.name] = style
    return styles


def find_style(name: str, folder: Path = SHIPPED) -> Style:
    """The style of that name; :class:`core.errors.UserError` (404) if there is none."""
    style = catalogue(folder).get(name)
    if style is None:
        raise not_found("style")
    return style

"""The style catalogue as data: one TOML file a style, and beside it the style adapter that it names, if any. The API lists it, inference
renders it. Shipped styles, those of the base model, and the operator's own lie in folders of one form."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.bases import modes_of
from core.errors import not_found
from core.logs import get_logger
from core.settings import Settings
from core.words import Mode

log = get_logger("core.styles")

SHIPPED = Path(__file__).with_name("style_files")
ADAPTER_SUFFIX = ".safetensors"
NEEDS_ADAPTER = (Mode.STACKED, Mode.TWO_PASS)
PLAIN_VIEW = "head and shoulders, seen from the front"
NAME = r"^[a-z0-9-]{1,40}$"


class Style(BaseModel):
    """A named recipe. ``prompt`` holds ``{subject}``, which becomes «trigger_token class_word» (or the class word alone), and may hold
    ``{view}``: framing and pose, which another pose replaces.

    ``style_adapter`` is the name of a safetensors file beside the style's; ``bases`` the base models that it was made for (none: any).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    title: str
    description: str = ""
    prompt: str
    mode: Mode = Mode.TEXT_TO_IMAGE
    lora_scale: float = Field(1.0, ge=0, le=2)
    guidance_scale: float | None = Field(None, ge=0, le=20, description="None: the base model's own.")
    num_inference_steps: int | None = Field(None, ge=1, le=100, description="None: the base model's own.")
    redraw_below: float | None = Field(None, ge=0, le=1, description="None: the service's own; 0 for styles that hide who it is.")
    style_adapter: str = Field("", pattern=r"^[a-z0-9-]{0,40}$")
    bases: tuple[str, ...] = ()
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _whole(self) -> Style:
        if "{subject}" not in self.prompt:
            raise ValueError("the prompt must say where the {subject} goes")
        if self.mode in NEEDS_ADAPTER and not self.style_adapter:
            raise ValueError(f"mode {self.mode} needs a style_adapter")
        return self

    def prompt_for(self, subject: str, view: str = PLAIN_VIEW) -> str:
        return self.prompt.replace("{view}", view).replace("{subject}", subject)

    def suits(self, settings: Settings) -> bool:
        """Whether this service's base model can render it."""
        return self.mode in modes_of(settings) and (not self.bases or settings.base_model in self.bases)


def catalogue(folder: Path = SHIPPED) -> dict[str, Style]:
    """All styles of a folder by name, in file order; files may come and go while the service runs. A broken one is left out and logged:
    customers must not suffer from it, and :func:`read_style` tells the operator what is wrong."""
    files = sorted(folder.glob("*.toml"))
    return _read_all(tuple((path, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=16)
def _read_all(files: tuple[tuple[Path, int], ...]) -> dict[str, Style]:
    styles: dict[str, Style] = {}
    for path, _ in files:
        try:
            style = read_style(path)
        except ValueError as error:
            log.error("style left out", why=str(error))
        else:
            styles[style.name] = style
    return styles


def read_style(path: Path) -> Style:
    """One file; ValueError with its name if it, or the style adapter that it names, cannot be used."""
    try:
        style = Style(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"style file {path}: {error}") from error
    if style.style_adapter and not adapter_beside(path.parent, style.style_adapter).is_file():
        raise ValueError(f"style file {path}: there is no {style.style_adapter}{ADAPTER_SUFFIX} beside it")
    return style


def adapter_beside(folder: Path, name: str) -> Path:
    return folder / f"{name}{ADAPTER_SUFFIX}"


def style_folders(settings: Settings) -> list[Path]:
    """Shipped, the miniature's own, the operator's: of two styles of one name the last counts."""
    own = [settings.miniature_dir / "styles"] if settings.base_model == "miniature" else []
    return [SHIPPED, *own, settings.styles]


def offered(settings: Settings) -> dict[str, Style]:
    """The styles that this service can render, by name."""
    found: dict[str, Style] = {}
    for folder in style_folders(settings):
        found |= catalogue(folder)
    return {name: style for name, style in found.items() if style.suits(settings)}


def find_style(settings: Settings, name: str) -> Style:
    """The style of that name; :class:`core.errors.UserError` (404) if this service has none."""
    style = offered(settings).get(name)
    if style is None:
        raise not_found("style")
    return style


def find_adapter(settings: Settings, name: str) -> Path:
    """The file of a style adapter; the operator's own comes before the shipped one. 404 if there is none."""
    for folder in reversed(style_folders(settings)):
        if adapter_beside(folder, name).is_file():
            return adapter_beside(folder, name)
    raise not_found("style adapter")

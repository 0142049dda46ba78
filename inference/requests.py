"""What one render asks for, checked once before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from PIL import Image

from core.errors import UserError
from core.words import Mode

SIDE_STEP = 16  # one token covers 16×16 pixels: the VAE halves three times, packing once more
LEAST_SIDE, MOST_SIDE = 32, 2048
MOST_PIXELS = 2048 * 2048
SEED_LIMIT = 2**63
STEPS, GUIDANCE = 28, 3.5


@dataclass(frozen=True)
class RenderRequest:
    """Picture n of ``count`` has seed ``seed + n``. Sides in pixels; 0, and steps or guidance None: the base model's own.
    ``style_adapter`` is the name of the second adapter that the engine is given, if any. ``options`` are the mode's own parameters."""

    prompt: str
    seed: int = 0
    count: int = 1
    width: int = 0
    height: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    lora_scale: float = 1.0
    mode: Mode = Mode.TEXT_TO_IMAGE
    reference: Image.Image | None = None
    style_adapter: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _between("count", self.count, 1, 64)
        _between("seed", self.seed, 0, SEED_LIMIT - 64)
        if self.num_inference_steps is not None:
            _between("num_inference_steps", self.num_inference_steps, 1, 100)
        if self.guidance_scale is not None:
            _between("guidance_scale", self.guidance_scale, 0, 20)
        _between("lora_scale", self.lora_scale, 0, 2)
        for name, side in (("width", self.width), ("height", self.height)):
            _check_side(name, side)
        if self.width * self.height > MOST_PIXELS:
            raise _bad("width", f"{self.width}×{self.height} is too large", f"Ask for at most {MOST_PIXELS} pixels in all.")

    def resolved(self, own: Mapping[str, Any]) -> RenderRequest:
        """With steps and guidance made definite: as asked, else the base model's ``own``, else FluxPipeline's defaults for FLUX.1-dev."""
        defaults = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, **own}
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})

    @property
    def steps(self) -> int:
        assert self.num_inference_steps is not None, "the engine resolves a request before it asks a mode"
        return self.num_inference_steps

    def option(self, name: str, default: float, least: float, most: float) -> float:
        """A number of the mode's own; :class:`core.errors.UserError` if it is none or out of range."""
        try:
            value = float(self.options.get(name, default))
        except (TypeError, ValueError):
            value = float("nan")
        _between(name, value, least, most)
        return value

    @property
    def seeds(self) -> list[int]:
        return [self.seed + n for n in range(self.count)]

    def sides(self, default: int) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width or default, self.height or default


def request_from(prompt: str, seed: int, count: int, params: dict[str, Any], reference: Image.Image | None = None) -> RenderRequest:
    """From a portrait's row: ``params`` is the style's recipe with the client's overrides; what no field knows goes to ``options``."""
    known = {f.name for f in fields(RenderRequest)} - {"prompt", "seed", "count", "reference", "options"}
    values = {key: value for key, value in params.items() if key in known and value is not None}
    if "mode" in values:
        values["mode"] = _mode(values["mode"])
    options = {key: value for key, value in params.items() if key not in known}
    return RenderRequest(prompt, seed, count, reference=reference, options=options, **values)


def _mode(name: str) -> Mode:
    try:
        return Mode(name)
    except ValueError as error:
        raise _bad("mode", f"There is no mode {name!r}", f"Use one of {', '.join(Mode)}.") from error


def _check_side(name: str, side: int) -> None:
    if side != 0 and (side % SIDE_STEP or not LEAST_SIDE <= side <= MOST_SIDE):
        raise _bad(name, f"{side} is not a possible {name}", f"Use a multiple of {SIDE_STEP} from {LEAST_SIDE} to {MOST_SIDE}.")


def _between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise _bad(name, f"{name} cannot be {value}", f"Use {least} to {most}.")


def _bad(name: str, title: str, detail: str) -> UserError:
    return UserError("portrait/parameter", title, detail, extra={"parameter": name})

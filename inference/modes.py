"""How a style renders: each mode is the steps it takes and how it draws one picture from one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from core.errors import UserError
from core.words import Mode
from diffusion.latents import encode_images, to_pixels
from inference.requests import SIDE_STEP, RenderRequest

if TYPE_CHECKING:
    from diffusion.loading import BaseModel
    from inference.engine import Engine

Tick = Callable[[], None]  # called after each denoising step
Draw = Callable[["Engine", RenderRequest, int, Tick], torch.Tensor]

FIRST_PASS_SCALE = 2.0  # the two-pass recipe: the adapter far above its trained scale, then image-to-image without it to mend anatomy
SECOND_PASS_STRENGTH = 0.9


@dataclass(frozen=True)
class ModeRecipe:
    """``draw(engine, request, seed, tick)`` gives normalised latents [1, C, h, w]; ``steps(request)`` how often it ticks."""

    pipelines: tuple[str, ...]  # of the family, that it needs
    steps: Callable[[RenderRequest], int]
    draw: Draw
    needs_reference: bool = False


def find_mode(base: BaseModel, request: RenderRequest) -> ModeRecipe:
    """:class:`core.errors.UserError` if this base model cannot do it, or the request lacks what it needs."""
    recipe = MODES.get(request.mode)
    if recipe is None or not set(recipe.pipelines) <= set(base.family.pipelines):
        able = ", ".join(mode for mode, other in MODES.items() if set(other.pipelines) <= set(base.family.pipelines))
        raise UserError("portrait/mode", f"This service cannot render in the mode {request.mode}", f"Use a style with one of: {able}.")
    if recipe.needs_reference and request.reference is None:
        raise UserError("portrait/no-reference", "This style needs a photo", "It draws from a photo of the subject, and there is none.")
    return recipe


def _text_to_image(engine: Engine, request: RenderRequest, seed: int, tick: Tick) -> torch.Tensor:
    return engine.denoise("text_to_image", request, seed, tick)


def _reference(engine: Engine, request: RenderRequest, seed: int, tick: Tick) -> torch.Tensor:
    """FLUX.1-Kontext: the photo's tokens stand clean beside the noise, so identity is never noised away."""
    assert request.reference is not None
    width, height = request.sides(engine.base.resolution)
    photo = fit_area(request.reference, width * height)
    clean = encode_images(engine.base, to_pixels([photo]))
    return engine.denoise("reference", request, seed, tick, image=clean, max_area=width * height, _auto_resize=False)


def _two_pass(engine: Engine, request: RenderRequest, seed: int, tick: Tick) -> torch.Tensor:
    scale, strength = _two_pass_options(request)
    first = engine.denoise("text_to_image", request, seed, tick, lora_scale=scale)
    return engine.denoise("image_to_image", request, seed, tick, lora_scale=None, image=first, strength=strength)


def _two_pass_steps(request: RenderRequest) -> int:
    steps, (_, strength) = request.steps, _two_pass_options(request)
    return steps + steps - int(max(steps - min(steps * strength, steps), 0))  # as FluxImg2ImgPipeline.get_timesteps cuts them


def _two_pass_options(request: RenderRequest) -> tuple[float, float]:
    scale = float(request.options.get("first_pass_scale", FIRST_PASS_SCALE))
    strength = float(request.options.get("strength", SECOND_PASS_STRENGTH))
    if not (0 <= scale <= 2 and 0.1 <= strength <= 1):
        raise UserError("portrait/parameter", "These two-pass options cannot be used", "first_pass_scale is 0 to 2, strength 0.1 to 1.")
    return scale, strength


def fit_area(photo: Image.Image, area: int) -> Image.Image:
    """The photo at about ``area`` pixels, its shape kept, each side a multiple of one token."""
    scale = (area / (photo.width * photo.height)) ** 0.5
    width, height = (max(SIDE_STEP, round(side * scale / SIDE_STEP) * SIDE_STEP) for side in photo.size)
    return photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


MODES = {
    Mode.TEXT_TO_IMAGE: ModeRecipe(("text_to_image",), lambda request: request.steps, _text_to_image),
    Mode.REFERENCE: ModeRecipe(("reference",), lambda request: request.steps, _reference, needs_reference=True),
    Mode.TWO_PASS: ModeRecipe(("text_to_image", "image_to_image"), _two_pass_steps, _two_pass),
}

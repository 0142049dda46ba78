"""How a style renders: each mode is the steps it takes and how it draws pictures from seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from core.errors import UserError
from core.poses import find_pose
from core.words import Mode
from inference.poses import pose_picture
from inference.requests import SIDE_STEP, RenderRequest

if TYPE_CHECKING:
    from diffusion.loading import BaseModel
    from inference.engine import Engine

Tick = Callable[[], None]  # called after each denoising step
Seed = Any  # opaque: an engine that batches hands several at once
Draw = Callable[["Engine", RenderRequest, Seed, Tick], torch.Tensor]

FIRST_PASS_SCALE = 2.0  # the two-pass recipe: the style adapter far above its trained scale, then image-to-image without it to mend anatomy
SECOND_PASS_STRENGTH = 0.9
DEFAULT_POSE = "portrait-front"


@dataclass(frozen=True)
class ModeRecipe:
    """``draw(engine, request, seed, tick)`` gives normalised latents [B, C, h, w]; ``steps(request)`` how often it ticks."""

    pipelines: tuple[str, ...]  # of the family, that it needs
    steps: Callable[[RenderRequest], int]
    draw: Draw
    needs_reference: bool = False
    needs_style: bool = False  # a style adapter
    needs_control: bool = False  # a ControlNet
    batches: bool = False  # several seeds may be drawn in one batch

    def fits(self, base: BaseModel) -> bool:
        return set(self.pipelines) <= set(base.family.pipelines) and (not self.needs_control or base.control is not None)


def find_mode(base: BaseModel, request: RenderRequest) -> ModeRecipe:
    """:class:`core.errors.UserError` if this base model cannot do it, or the request lacks what it needs."""
    recipe = MODES.get(request.mode)
    if recipe is None or not recipe.fits(base):
        able = ", ".join(mode for mode, other in MODES.items() if other.fits(base))
        raise UserError("portrait/mode", f"This service cannot render in the mode {request.mode}", f"Use a style with one of: {able}.")
    if recipe.needs_reference and request.reference is None:
        raise UserError("portrait/no-reference", "This style needs a photo", "It draws from a photo of the subject, and there is none.")
    if recipe.needs_style and not request.style_adapter:
        detail = f"The mode {request.mode} renders with a style adapter: name one in the style's file (style_adapter)."
        raise UserError("portrait/no-style-adapter", "This style lacks its style adapter", detail)
    return recipe


def _text_to_image(engine: Engine, request: RenderRequest, seed: Seed, tick: Tick) -> torch.Tensor:
    """Also the stacked mode: whatever adapters the engine was given, each at its own scale."""
    return engine.denoise("text_to_image", request, seed, tick)


def _reference(engine: Engine, request: RenderRequest, seed: Seed, tick: Tick) -> torch.Tensor:
    """FLUX.1-Kontext, FLUX.2-klein: the photo's tokens stand clean beside the noise, so identity is never noised away."""
    assert request.reference is not None
    width, height = request.sides(engine.base.resolution)
    photo = fit_area(request.reference, width * height)
    with engine.base.at_hand("vae"):
        return engine.denoise("reference", request, seed, tick, **engine.base.family.reference_inputs(engine.base, photo, width, height))


def _two_pass(engine: Engine, request: RenderRequest, seed: Seed, tick: Tick) -> torch.Tensor:
    """The style adapter far above its trained scale, then most of the way again without it: style stays, broken anatomy is mended.
    The identity adapter, if there is one, works in both passes at its own scale. A style that the base does not know by its words would go
    in the second pass: ``second_pass_scale`` keeps the adapter there."""
    scale, strength = _two_pass_options(request)
    kept = request.option("second_pass_scale", 0, 0, 2) or None
    first = engine.denoise("text_to_image", request, seed, tick, style_scale=scale)
    return engine.denoise("image_to_image", request, seed, tick, style_scale=kept, image=first, strength=strength)


def _two_pass_steps(request: RenderRequest) -> int:
    steps, (_, strength) = request.steps, _two_pass_options(request)
    return steps + steps - int(max(steps - min(steps * strength, steps), 0))  # as FluxImg2ImgPipeline.get_timesteps cuts them


def _two_pass_options(request: RenderRequest) -> tuple[float, float]:
    scale = request.option("first_pass_scale", FIRST_PASS_SCALE, 0, 2)
    return scale, request.option("strength", SECOND_PASS_STRENGTH, 0.1, 1)


def _pose(engine: Engine, request: RenderRequest, seed: Seed, tick: Tick) -> torch.Tensor:
    """A skeleton of the pose bank steers the first steps; the ControlNet reads it through the VAE."""
    control = engine.base.control
    assert control is not None
    width, height = request.sides(engine.base.resolution)
    skeleton = pose_picture(find_pose(str(request.options.get("pose") or DEFAULT_POSE)), width, height)
    steering: dict[str, Any] = {
        "control_image": skeleton,
        "control_mode": control.mode,
        "controlnet_conditioning_scale": request.option("control_scale", control.scale, 0, 2),
        "control_guidance_end": request.option("control_until", control.until, 0, 1),
    }
    with engine.base.at_hand("vae"):
        return engine.denoise("pose", request, seed, tick, **steering)


def fit_area(photo: Image.Image, area: int) -> Image.Image:
    """The photo at about ``area`` pixels, its shape kept, each side a multiple of one token."""
    scale = (area / (photo.width * photo.height)) ** 0.5
    width, height = (max(SIDE_STEP, round(side * scale / SIDE_STEP) * SIDE_STEP) for side in photo.size)
    return photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _own_steps(request: RenderRequest) -> int:
    return request.steps


MODES = {
    Mode.TEXT_TO_IMAGE: ModeRecipe(("text_to_image",), _own_steps, _text_to_image, batches=True),
    Mode.REFERENCE: ModeRecipe(("reference",), _own_steps, _reference, needs_reference=True),
    Mode.TWO_PASS: ModeRecipe(("text_to_image", "image_to_image"), _two_pass_steps, _two_pass, needs_style=True),
    Mode.STACKED: ModeRecipe(("text_to_image",), _own_steps, _text_to_image, needs_style=True, batches=True),
    Mode.POSE: ModeRecipe(("pose",), _own_steps, _pose, needs_control=True),
}

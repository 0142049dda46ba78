"""Twice the size for a chosen picture. Without a model: Lanczos, sharpened within what is there; with one by path: a network (spandrel)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from core.errors import UserError
from core.settings import Settings
from inference.requests import MOST_SIDE

FACTOR = 2
SHARPENING, RADIUS = 0.6, 1.2  # amount, and deviation in pixels of the enlarged picture

Upscaler = Callable[[Image.Image], Image.Image]


def sharp_lanczos(image: Image.Image) -> Image.Image:
    """Lanczos, then an unsharp mask that never leaves the range of its 3×3 neighbourhood: edges get steeper, and no halo appears.

    It adds no detail that the picture does not have, and makes none up.
    """
    size = (image.width * FACTOR, image.height * FACTOR)
    large = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    sharp = cv2.addWeighted(large, 1 + SHARPENING, cv2.GaussianBlur(large, (0, 0), RADIUS), -SHARPENING, 0)
    near = np.ones((3, 3), np.uint8)
    return Image.fromarray(np.clip(sharp, cv2.erode(large, near), cv2.dilate(large, near)))


class NetworkUpscaler:
    """A super-resolution network from one safetensors file, of any architecture that spandrel knows. Other factors are resized to two."""

    def __init__(self, path: Path, device: torch.device) -> None:
        if path.suffix != ".safetensors":
            raise UserError("upscaler/format", f"{path.name} is no safetensors file", "Pickled weights can run code: convert them first.")
        try:
            from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
        except ImportError as error:
            raise UserError("upscaler/spandrel", "Upscaling with a network needs spandrel", "pip install 'likeness[upscale]'") from error
        try:
            model = ModelLoader(device=device).load_from_file(path)
        except (UnsupportedModelError, OSError, ValueError) as error:
            raise UserError("upscaler/model", f"{path.name} cannot be read", str(error)) from error
        if not isinstance(model, ImageModelDescriptor) or model.input_channels != 3:
            raise UserError("upscaler/model", f"{path.name} is no network for RGB pictures", "Choose a super-resolution model.")
        self.model, self.device = model.eval(), device

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Image.Image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float().div(255)
        enlarged = self.model(pixels.to(self.device)).clamp(0, 1)[0].mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        return Image.fromarray(enlarged).resize((image.width * FACTOR, image.height * FACTOR), Image.Resampling.LANCZOS)


def open_upscaler(settings: Settings, device: torch.device) -> Upscaler:
    """As ``LIKENESS_UPSCALER`` says: «lanczos», or the path of a network's file."""
    return sharp_lanczos if settings.upscaler == "lanczos" else NetworkUpscaler(Path(settings.upscaler), device)


def require_room(image: Image.Image) -> None:
    """:class:`core.errors.UserError` if it is large already."""
    if max(image.size) > MOST_SIDE:
        detail = f"Pictures up to {MOST_SIDE} pixels a side are enlarged."
        raise UserError("portrait/too-large", "This picture is as large as it gets", detail)

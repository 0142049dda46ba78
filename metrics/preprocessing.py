"""PIL pictures to the tensor that an encoder was taught on: short side resized, centre crop, normalised.

Written here and not left to the image processors of transformers, which pick a torchvision or a Pillow backend by what is installed and
then differ in the last digits: a score must not depend on that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import cached_file

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """``short_side`` and ``crop`` in pixels; ``mean`` and ``std`` of RGB in [0, 1]."""

    short_side: int = 256
    crop: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resample: int = Image.Resampling.BICUBIC

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Pictures of any size and mode → float32 [N, 3, crop, crop]."""
        pixels = np.stack([np.asarray(self._fit(image), dtype=np.float32) for image in images]) / 255
        pixels = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def _fit(self, image: Image.Image) -> Image.Image:
        image = image.convert("RGB")
        scale = self.short_side / min(image.size)
        width, height = (max(self.short_side, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling(self.resample))
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        return image.crop((left, top, left + self.crop, top + self.crop))


def read_preprocessing(path: str | Path, default: Preprocessing) -> Preprocessing:
    """What the encoder's own ``preprocessor_config.json`` says (folder or hub id), else ``default``."""
    config = read_json(path, "preprocessor_config.json")
    if config is None:
        return default
    short_side = _side(config.get("size"), default.short_side)
    return Preprocessing(
        short_side=short_side,
        crop=_side(config.get("crop_size"), default.crop) if config.get("do_center_crop", True) else short_side,
        mean=tuple(config.get("image_mean", default.mean)),
        std=tuple(config.get("image_std", default.std)),
        resample=config.get("resample", default.resample),
    )


def read_json(path: str | Path, name: str) -> dict[str, Any] | None:
    """A JSON file beside the weights of a folder or hub id; None if it has none."""
    found = cached_file(str(path), name, _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(found).read_text(encoding="utf-8")) if found else None


def _side(value: Any, default: int) -> int:
    """Hub configs write a size as ``224``, ``{"shortest_edge": 224}`` or ``{"height": 224, "width": 224}``."""
    if isinstance(value, dict):
        return int(value.get("shortest_edge") or value.get("height") or default)
    return int(value) if value else default

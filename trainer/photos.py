"""A photo as the trainer sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from metrics.quality import dhash


@dataclass(frozen=True)
class TrainingPhoto:
    """``key`` is the sha-256 of the photo's content; ``name`` is what the customer called it; ``description`` their words on the scene."""

    key: str
    name: str
    image: Image.Image
    description: str = ""

    @property
    def grey(self) -> np.ndarray:
        return np.asarray(self.image.convert("L"))

    @property
    def dhash(self) -> str:
        return dhash(self.grey)

    @property
    def sharpness(self) -> float:
        """Variance of the Laplacian at 256 px: comparable between photos of one size."""
        return float(cv2.Laplacian(cv2.resize(self.grey, (256, 256), interpolation=cv2.INTER_AREA), cv2.CV_64F).var())


def from_images(images: Sequence[Image.Image]) -> list[TrainingPhoto]:
    """Pictures without names or files: keyed by their pixels."""
    plain = [image.convert("RGB") for image in images]
    return [TrainingPhoto(pixel_key(image), f"photo {number}", image) for number, image in enumerate(plain, start=1)]


def pixel_key(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()

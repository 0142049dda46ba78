"""What the fit reads, computed once: latents of the photos and embeddings of their captions. Afterwards VAE and text encoders rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps

from diffusion.latents import encode_images, to_pixels
from diffusion.loading import BaseModel
from diffusion.text import PromptEmbeds, encode_prompts


@dataclass(frozen=True)
class CaptionedPhoto:
    """``key`` is the sha-256 of the photo's bytes: caches go by it, never by position, so a photo keeps its own caption."""

    key: str
    image: Image.Image
    caption: str


@dataclass(frozen=True)
class TrainingCache:
    """``latents`` [N, C, h, w] float32 and ``text`` (N rows, then one for the empty caption), in the order of ``keys``."""

    keys: tuple[str, ...]
    latents: torch.Tensor
    text: PromptEmbeds

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def empty_row(self) -> int:
        """Row of ``text`` that stands for a dropped caption."""
        return len(self.keys)


def build_cache(
    base: BaseModel, photos: Sequence[CaptionedPhoto], resolution: int, on_photo: Callable[[int], None] = lambda done: None
) -> TrainingCache:
    """Encodes each distinct photo once; ``on_photo`` is told how many are done. Deterministic: no seed is involved."""
    distinct = {photo.key: photo for photo in photos}
    ordered = [distinct[key] for key in sorted(distinct)]  # the order of upload must not change the run
    latents = []
    for number, photo in enumerate(ordered, start=1):
        latents.append(encode_images(base, to_pixels([crop_square(photo.image, resolution)])))
        on_photo(number)
    text = encode_prompts(base, [*(photo.caption for photo in ordered), ""])
    return TrainingCache(tuple(photo.key for photo in ordered), torch.cat(latents), text)


def crop_square(image: Image.Image, side: int) -> Image.Image:
    """The centre square at ``side`` pixels; of a portrait-format picture the upper part, where the head is."""
    upper = 0.35 if image.height > image.width else 0.5
    return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS, centering=(0.5, upper))

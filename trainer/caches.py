"""What the fit reads, computed once: latents of the photos and embeddings of their captions. Afterwards VAE and text encoders rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from diffusion.latents import encode_images, to_pixels
from diffusion.loading import BaseModel
from diffusion.text import PromptEmbeds, encode_prompts


@dataclass(frozen=True)
class CaptionedPhoto:
    """``key`` is the sha-256 of the photo's bytes: caches go by it, never by position, so a photo keeps its own caption.
    ``mask`` (grey, of the photo's aspect, 255 where the subject is) or None: the whole photo counts."""

    key: str
    image: Image.Image
    caption: str
    mask: Image.Image | None = None


@dataclass(frozen=True)
class TrainingCache:
    """``latents`` [N, C, h, w] float32 and ``text`` (N rows, then one for the empty caption), in the order of ``keys``.
    ``coverage`` [N, 1, h, w]: the subject's share of each latent, 1 all over a photo without a mask; None if no photo has one."""

    keys: tuple[str, ...]
    latents: torch.Tensor
    text: PromptEmbeds
    coverage: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def masked(self) -> int:
        """How many photos have a mask."""
        return 0 if self.coverage is None else int((self.coverage.flatten(1).min(1).values < 1).sum())

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
    encoded = torch.cat(latents)
    return TrainingCache(tuple(photo.key for photo in ordered), encoded, text, _coverage(ordered, resolution, *encoded.shape[-2:]))


def _coverage(photos: Sequence[CaptionedPhoto], resolution: int, height: int, width: int) -> torch.Tensor | None:
    if all(photo.mask is None for photo in photos):
        return None
    whole = Image.new("L", (resolution, resolution), 255)
    masks = [whole if photo.mask is None else crop_square(photo.mask, resolution).convert("L") for photo in photos]
    rows = [np.asarray(mask.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255 for mask in masks]
    return torch.from_numpy(np.stack(rows))[:, None]


def crop_square(image: Image.Image, side: int) -> Image.Image:
    """The centre square at ``side`` pixels; of a portrait-format picture the upper part, where the head is."""
    upper = 0.35 if image.height > image.width else 0.5
    return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS, centering=(0.5, upper))

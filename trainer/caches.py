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
from trainer.buckets import Bucket, bucket_for

TEXT_LENGTHS = (128, 256, 512)  # tokens: few lengths, so that graphs stay the same whatever captions say


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
    """``latents`` (N of [C, h, w], float32, each of its bucket's shape) and ``text`` (N rows, then one for the empty caption), in the order
    of ``keys``. ``coverage`` (N of [1, h, w]): the subject's share of each latent, 1 all over a photo without a mask; None if no photo
    has one."""

    keys: tuple[str, ...]
    latents: Sequence[torch.Tensor]
    text: PromptEmbeds
    coverage: Sequence[torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def masked(self) -> int:
        """How many photos have a mask."""
        return sum(bool((own < 1).any()) for own in self.coverage or ())

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each photo's latents."""
        return tuple(tuple(latents.shape) for latents in self.latents)

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
    masked = any(photo.mask is not None for photo in ordered)
    latents, coverage = [], []
    for number, photo in enumerate(ordered, start=1):
        bucket = bucket_for(photo.image.size, resolution)
        latents.append(encode_images(base, to_pixels([crop_to(photo.image.convert("RGB"), bucket)]))[0])
        coverage.append(_coverage(photo.mask, bucket, latents[-1].shape[-2:]))
        on_photo(number)
    text = _encode_captions(base, [*(photo.caption for photo in ordered), ""])
    return TrainingCache(tuple(photo.key for photo in ordered), tuple(latents), text, tuple(coverage) if masked else None)


def _encode_captions(base: BaseModel, captions: Sequence[str]) -> PromptEmbeds:
    """Only as many tokens as the longest caption needs, rounded up to one of a few lengths. The rest is padding, of which the transformer
    reads 512 tokens otherwise: a third of its work at 512². Embeddings of what remains are those that rendering uses."""
    needed = max(base.family.count_tokens(base.tokenizers, caption) for caption in captions)
    return encode_prompts(base, captions).cut(next((length for length in TEXT_LENGTHS if length >= needed), TEXT_LENGTHS[-1]))


def _coverage(mask: Image.Image | None, bucket: Bucket, size: torch.Size) -> torch.Tensor:
    """[1, h, w] of one photo, for latents of that height and width."""
    if mask is None:
        return torch.ones(1, *size)
    small = crop_to(mask.convert("L"), bucket).resize((size[1], size[0]), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small, dtype=np.float32) / 255)[None]


def crop_to(image: Image.Image, bucket: Bucket) -> Image.Image:
    """The middle at the bucket's size; where height is lost, more of the upper part stays, where the head is."""
    upper = 0.35 if image.height * bucket.width > image.width * bucket.height else 0.5
    return ImageOps.fit(image, (bucket.width, bucket.height), Image.Resampling.LANCZOS, centering=(0.5, upper))

"""Pictures to latents and back: the VAE, its normalisation, and FLUX's packing of 2×2 latents into one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from diffusion.loading import BaseModel


def to_pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size → float32 [B, 3, H, W] in [-1, 1]."""
    stacked = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [-1, 1] → RGB pictures; what lies outside the range is clipped."""
    unit = (pixels * 0.5 + 0.5).clamp(0, 1)  # in the type that came out of the VAE, as diffusers' image processor does
    levels = (unit.float() * 255).round().to(torch.uint8)
    return [Image.fromarray(level.permute(1, 2, 0).cpu().numpy()) for level in levels]


@torch.inference_mode()
def encode_images(base: BaseModel, pixels: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] in [-1, 1] → normalised latents [B, C, H/f, W/f], float32 on the CPU: the distribution's mean, so no randomness."""
    vae = base.vae
    with base.at_hand("vae"):
        mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
        return base.family.normalise(vae, mean.float()).cpu()


@torch.inference_mode()
def decode_latents(base: BaseModel, latents: torch.Tensor) -> torch.Tensor:
    """Normalised latents [B, C, h, w] → pixels [B, 3, h·f, w·f] where the VAE computed, about [-1, 1], in its type."""
    vae = base.vae
    with base.at_hand("vae"):
        return vae.decode(base.family.denormalise(vae, latents.to(vae.device))).sample


def pack(latents: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] → tokens [B, h/2·w/2, 4C]: each 2×2 patch becomes one token, rows first. h and w must be even."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of :func:`pack`; ``height`` and ``width`` are those of the latents."""
    batch, _, channels = tokens.shape
    patches = tokens.view(batch, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, channels // 4, height, width)


def image_ids(height: int, width: int, first: int = 0) -> torch.Tensor:
    """Position of each token [h/2·w/2, 3]: (``first``, row, column). 0 is the picture itself; FLUX.1-Kontext gives a reference 1."""
    ids = torch.zeros(height // 2, width // 2, 3)
    ids[..., 0] = first
    ids[..., 1] = torch.arange(height // 2)[:, None]
    ids[..., 2] = torch.arange(width // 2)[None, :]
    return ids.reshape(-1, 3)

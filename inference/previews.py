"""Small pictures of a render under way: latents to colours by a linear map, without the VAE.

Each latent pixel becomes one colour: rgb = M·z + b, fitted once a base model by least squares on pictures that its VAE encodes. What is
shown is the estimate of the finished picture, x₀ = x_σ − σ·v, with v from two consecutive steps of the (Euler) sampler.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from diffusion.latents import encode_images
from diffusion.loading import BaseModel

SIDE = 64  # pixels of the longer side: about 1.5 kB as JPEG
EVERY_S = 0.7  # a preview makes the CPU wait for the GPU, so it is not drawn at every step
SAMPLES, SAMPLE_SIDE = 8, 256

Show = Callable[[Image.Image], None]


class Projection:
    """``weights`` [C+1, 3]: colours in [-1, 1] of normalised latents; ``explained``: share of the colours' variance (R²)."""

    def __init__(self, weights: torch.Tensor, explained: float) -> None:
        self.weights, self.explained = weights, explained

    @classmethod
    def fit(cls, base: BaseModel, seed: int = 0) -> Projection:
        pixels = colour_fields(SAMPLES, SAMPLE_SIDE, seed)
        latents = encode_images(base, pixels)
        colours = avg_pool2d(pixels, pixels.shape[-1] // latents.shape[-1])
        known, wanted = _with_one(latents), colours.movedim(1, -1).reshape(-1, 3)
        weights = torch.linalg.lstsq(known, wanted).solution
        rest = (known @ weights - wanted).var(0).sum() / wanted.var(0).sum()
        return cls(weights, 1 - rest.item())

    def draw(self, latents: torch.Tensor) -> Image.Image:
        """Normalised latents [1, C, h, w] → a picture with the longer side at most ``SIDE``."""
        height, width = latents.shape[-2:]
        colours = (_with_one(latents) @ self.weights.to(latents.device)).reshape(1, height, width, 3).movedim(-1, 1)
        scale = min(1.0, SIDE / max(height, width))
        small = interpolate(colours, scale_factor=scale, mode="area") if scale < 1 else colours
        levels = ((small[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def colour_fields(count: int, side: int, seed: int) -> torch.Tensor:
    """Smooth random pictures [count, 3, side, side] in [-1, 1], from broad fields to fine grain: all colours, no subject."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for number in range(count):
        cells = 2 ** (1 + number % 5)
        coarse = torch.rand(1, 3, cells, cells, generator=generator) * 2 - 1
        pictures.append(interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False).clamp(-1, 1))
    return torch.cat(pictures)


class Previewer:
    """Of one denoising run: call it after each step with the packed latents; it shows a picture now and then."""

    def __init__(
        self,
        projection: Projection,
        unpack: Callable[[torch.Tensor], torch.Tensor],
        show: Show,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._projection, self._unpack, self._show, self._clock = projection, unpack, show, clock
        self._before: torch.Tensor | None = None
        self._shown_at = clock()

    def after_step(self, scheduler: Any, step: int, tokens: torch.Tensor) -> None:
        before, self._before = self._before, tokens
        if before is None or self._clock() - self._shown_at < EVERY_S:
            return
        sigma, sigma_next = scheduler.sigmas[step].item(), scheduler.sigmas[step + 1].item()
        self._show(self._projection.draw(self._unpack(estimate(before[:1], tokens[:1], sigma, sigma_next))))
        self._shown_at = self._clock()


def estimate(before: torch.Tensor, after: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """x₀ from latents at two noise levels on one Euler step, float32."""
    velocity = (after.float() - before.float()) / (sigma_next - sigma)
    return after.float() - sigma_next * velocity


def data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _with_one(latents: torch.Tensor) -> torch.Tensor:
    rows = latents.float().movedim(1, -1).reshape(-1, latents.shape[1])
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)

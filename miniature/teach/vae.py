"""The autoencoder: 256×256 pictures to 16×32×32 latents and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from miniature import shapes
from miniature.teach.training import Average, Clock, Guarded, as_pixels

KL_WEIGHT = 3e-5
EDGE_WEIGHT = 1.0
CROP = 128  # pixels: four times the steps; whole pictures for the last part, so that the middle attention sees them too
WHOLE_FROM = 0.85


def teach_vae(pictures: Tensor, minutes: float, batch: int = 64, max_steps: int | None = None) -> AutoencoderKL:
    """Learn from uint8 pictures [N,3,256,256]. Absolute error on pixels and on their differences at three scales, plus a small KL."""
    device = pictures.device
    model = shapes.vae().to(device, memory_format=torch.channels_last)
    guarded = Guarded(model.parameters(), peak=1e-3, warmup=200, weight_decay=0.0)
    average = Average(model.parameters(), 0.999)
    clock = Clock(minutes, max_steps)
    while clock.running():
        rows = torch.randint(len(pictures), (batch,), device=device)
        pixels = as_pixels(crop(pictures, rows, clock.progress)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            decoded = model.decode(posterior.sample()).sample
        error = reconstruction_error(decoded.float(), pixels)
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        guarded.step(error + KL_WEIGHT * kl * shapes.LATENT_CHANNELS, clock.step, clock.progress)
        average.update()
        clock.step += 1
        if clock.step % 250 == 1:
            print(f"  vae {clock.step}: error {error.item():.4f} kl {kl.item():.2f} {clock.progress:.0%}", flush=True)
    average.copy_to(model.parameters())
    return model.eval().requires_grad_(False)


def crop(pictures: Tensor, rows: Tensor, progress: float) -> Tensor:
    """One window for the whole batch; a quarter of the batch, whole, towards the end."""
    if progress > WHOLE_FROM:
        return pictures[rows[: len(rows) // 4]]
    y, x = (int(v) for v in torch.randint(pictures.shape[-1] - CROP + 1, (2,)))
    return pictures[rows, :, y : y + CROP, x : x + CROP]


def reconstruction_error(decoded: Tensor, pixels: Tensor) -> Tensor:
    """L1 on pixels plus L1 on horizontal and vertical differences at full, half and quarter size: edges matter in drawings."""
    error = (decoded - pixels).abs().mean()
    for _ in range(3):
        gap = decoded - pixels
        error = error + EDGE_WEIGHT * ((gap[..., 1:] - gap[..., :-1]).abs().mean() + (gap[..., 1:, :] - gap[..., :-1, :]).abs().mean()) / 2
        decoded, pixels = F.avg_pool2d(decoded, 2), F.avg_pool2d(pixels, 2)
    return error


@torch.no_grad()
def measure_latents(model: AutoencoderKL, pictures: Tensor, sample: int = 2048) -> None:
    """Write shift and scale into the config so that latents have mean 0 and deviation 1, as FLUX.1's do."""
    latents = torch.cat([_means(model, chunk) for chunk in pictures[:: max(1, len(pictures) // sample)].split(64)])
    model.register_to_config(shift_factor=round(latents.mean().item(), 4), scaling_factor=round(1 / latents.std().item(), 4))


@torch.no_grad()
def encode_all(model: AutoencoderKL, pictures: Tensor, batch: int = 128) -> Tensor:
    """Normalised latents [N,16,32,32] in bf16."""
    shift, scale = model.config["shift_factor"], model.config["scaling_factor"]
    return torch.cat([((_means(model, chunk) - shift) * scale).to(torch.bfloat16) for chunk in pictures.split(batch)])


def _means(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    with torch.autocast(pictures.device.type, torch.bfloat16):
        return model.encode(as_pixels(pictures)).latent_dist.mean.float()


@torch.no_grad()
def psnr(model: AutoencoderKL, pictures: Tensor) -> float:
    """Decibels of the round trip over pictures uint8 [N,3,256,256], pixel range 255."""
    errors = []
    for chunk in pictures.split(32):
        pixels = as_pixels(chunk)
        back = model.decode(model.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((back - pixels) / 2).pow(2).mean(dim=(1, 2, 3)))
    return float((-10 * torch.cat(errors).log10()).mean())

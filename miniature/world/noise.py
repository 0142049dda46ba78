"""Random numbers that depend on a seed and a place only, so that a CPU and a GPU draw the same picture."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

_MASK32 = 0xFFFFFFFF


def mix_bits(value: Tensor) -> Tensor:
    """Scramble int64 tensors, or whole numbers, into well-mixed 32-bit ones (the finaliser of MurmurHash3, in wrapping arithmetic)."""
    value = value & _MASK32
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK32
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK32
    return value ^ (value >> 16)


def uniform(seeds: Tensor, salt: int | Tensor) -> Tensor:
    """One number in [0, 1) for every seed, of the broadcast shape of `seeds` and `salt` (int64)."""
    own = mix_bits(seeds + 0x9E3779B9) ^ (mix_bits((seeds >> 32) + 0x7F4A7C15) * 31)
    spread = salt * 0x27D4EB2F + 0x165667B1
    mixed = mix_bits(own ^ mix_bits(cast(Tensor, spread)))
    return (mixed >> 8).to(torch.float32) / float(1 << 24)


def lattice(seeds: Tensor, rows: int, columns: int, salt: int) -> Tensor:
    """White noise [B, 1, rows, columns] in [0, 1) for seeds [B]."""
    cells = torch.arange(rows * columns, device=seeds.device, dtype=torch.int64).view(1, 1, rows, columns)
    return uniform(seeds.view(-1, 1, 1, 1), cells + salt * 1_000_003)


def smooth_noise(seeds: Tensor, cells: int, size: int, salt: int) -> Tensor:
    """Smooth value noise [B, 1, size, size] in about [0, 1], with `cells` bumps across the picture."""
    coarse = lattice(seeds, cells + 1, cells + 1, salt)
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)


def layered_noise(seeds: Tensor, cells: int, size: int, salt: int, octaves: int = 3) -> Tensor:
    """Cloud-like noise [B, 1, size, size], centred on 0, mostly within ±0.6."""
    total = torch.zeros((), device=seeds.device)
    for octave in range(octaves):
        total = total + (smooth_noise(seeds, min(cells << octave, size), size, salt + octave) - 0.5) / (1.6**octave)
    return total


def sample(texture: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Read a texture [1 or B, C, h, w] at places u, v [B, 1, H, W] in units of its width and height, mirrored outside."""
    grid = torch.stack([u[:, 0] * 2 - 1, v[:, 0] * 2 - 1], dim=-1)
    return F.grid_sample(texture.expand(grid.shape[0], -1, -1, -1), grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def streaks(across: Tensor, along: Tensor, salt: int, count: int = 220, length: int = 14) -> Tensor:
    """Fur or hair: noise in [0, 1] that is fine along `across` and long along `along` (both [B, 1, H, W], about 0..1)."""
    fixed = torch.zeros(1, dtype=torch.int64, device=across.device)
    fine = sample(lattice(fixed, length, count, salt), across, along)
    broad = sample(lattice(fixed, max(length // 2, 2), count // 4, salt + 7), across, along)
    return fine * 0.55 + broad * 0.45


def flecks(x: Tensor, y: Tensor, density: Tensor | float, share: Tensor | float, radius: Tensor | float, salt: int) -> Tensor:
    """Scattered round flecks: distance [B, 1, H, W] to the nearest, in units of x and y, negative inside.

    density: flecks per unit length; share: how many of the places bear one, in [0, 1]; radius: at most 0.35, in places.
    """
    down = y * density + 40 + 0.13 * x * density
    row = torch.floor(down)
    across = x * density + 40 + (mix_bits(row.to(torch.int64) + salt) & 255).float() / 255
    column = torch.floor(across)
    lot = mix_bits((column * 131 + row).to(torch.int64) * 7919 + salt)
    u = across - column - 0.36 - 0.28 * (lot & 255).float() / 255
    v = down - row - 0.36 - 0.28 * ((lot >> 8) & 255).float() / 255
    presence = ((share - ((lot >> 16) & 255).float() / 255) * 8).clamp(0, 1)
    angle = torch.atan2(u, v) + (lot & 7).float()
    uneven = (0.72 + 0.28 * ((lot >> 24) & 255).float() / 255) * (1 + 0.09 * torch.sin(angle * 2) + 0.06 * torch.sin(angle * 3))
    return (torch.sqrt(u * u + v * v) - radius * presence * uneven + 0.08 * (1 - presence)) / density

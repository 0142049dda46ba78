"""Styles made of pieces or light: pixel art, stained glass and neon."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.world.colour import constant, mix, saturate, step
from miniature.world.layers import Layers, calmest, edges, posterised
from miniature.world.lighting import blur
from miniature.world.noise import mix_bits, sample

_BAYER = (0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5)


def pixel_art(s: Layers) -> Tensor:
    """Big square pixels in few colours, with dithering and a dark outline."""
    cells = 64
    factor = max(1, s.size // cells)
    subject = saturate(s.over(mix(s.lit, s.flat * (0.5 + 0.55 * s.tone), 0.5), s.backdrop), 1.25)
    small = F.adaptive_avg_pool2d(subject, cells) if s.size % cells else F.avg_pool2d(subject, factor)
    ink = F.adaptive_avg_pool2d(s.ink, cells)
    mask = F.adaptive_avg_pool2d(s.mask, cells)
    solid = (mask > 0.5).float()
    border = (F.max_pool2d(solid, 3, 1, 1) - solid).clamp(0, 1)
    small = small * (1 - 0.50 * step(0.30, 0.6, ink))
    dither = (constant(_BAYER, s.x).view(1, 1, 4, 4).repeat(1, 1, cells // 4, cells // 4) + 0.5) / 16 - 0.5
    levels = 7.0
    small = torch.round((small + dither * 0.55 / levels) * levels) / levels
    small = mix(small, constant((0.10, 0.08, 0.16), s.x), border)
    return F.interpolate(small, size=(s.size, s.size), mode="nearest")


def _glass_cells(s: Layers, cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Voronoi panes: (distance to the nearest lead, pane's random number, pane centre u and v in [0, 1])."""
    gx, gy = (s.x * 0.5 + 0.5) * cells, (s.y * 0.5 + 0.5) * cells
    ix, iy = torch.floor(gx), torch.floor(gy)
    first = torch.full_like(s.mask, 9.0)
    second = torch.full_like(s.mask, 9.0)
    best_u, best_v, best_id = torch.zeros_like(first), torch.zeros_like(first), torch.zeros_like(first)
    for oy in (-1, 0, 1):
        for ox in (-1, 0, 1):
            number = ((ix + ox) * 61 + (iy + oy)).to(torch.int64)
            lot = mix_bits(number * 7919 + s.seeds.view(-1, 1, 1, 1))
            px = ix + ox + 0.15 + 0.7 * (lot & 1023).float() / 1023
            py = iy + oy + 0.15 + 0.7 * ((lot >> 10) & 1023).float() / 1023
            distance = torch.sqrt((gx - px) ** 2 + (gy - py) ** 2)
            nearer = distance < first
            second = torch.minimum(second, torch.maximum(first, distance))
            first = torch.minimum(first, distance)
            best_u, best_v = torch.where(nearer, px / cells, best_u), torch.where(nearer, py / cells, best_v)
            best_id = torch.where(nearer, (lot >> 20).float() / 4096, best_id)
    return (second - first) / cells, best_id, best_u, best_v


def stained_glass(s: Layers) -> Tensor:
    """Panes of coloured glass between leads, lit from behind."""
    gap, lot, u, v = _glass_cells(s, 9)
    back = saturate(sample(blur(s.backdrop, 3 * s.unit), u, v), 1.9)
    back = (back * (0.80 + 0.45 * lot)).clamp(0, 1)
    flat = saturate(calmest(s.flat, max(2, round(3 * s.unit))), 1.5)
    subject = posterised(flat, 6, 0.1) * (0.80 + 0.28 * lot) * (0.72 + 0.34 * s.tone)
    ripple = 1 + 0.16 * s.noise(24, 5, 2) + 0.10 * s.noise(70, 8, 1)
    glow = 1.12 - 0.22 * (s.x**2 + s.y**2)
    image = s.over(subject, back * mix(constant((1, 1, 1), s.x), s.tint, 0.6)) * ripple * glow
    width = 0.011
    leads = step(width, width * 0.4, gap) * mix(torch.ones_like(s.mask), 0.42 * torch.ones_like(s.mask), s.mask)
    rim = step(0.12, 0.4, blur(s.mask, 1.6 * s.unit)) * step(0.95, 0.6, blur(s.mask, 1.6 * s.unit))
    thick = step(0.25, 0.6, blur(s.ink, 0.8 * s.unit) * 1.6)
    leads = torch.maximum(torch.maximum(leads, rim), thick * 0.92)
    metal = constant((0.10, 0.10, 0.12), s.x) + 0.08 * s.noise(60, 11, 1)
    frame = step(0.95, 0.955, torch.maximum(s.x.abs(), s.y.abs()))
    return mix(image.clamp(0, 1), metal, torch.maximum(leads, frame))


def neon(s: Layers) -> Tensor:
    """Glowing tubes on a dark wall; the tubes take the colours of what they outline."""
    hue = saturate(blur(s.flat, 2 * s.unit), 2.2)
    hue = (hue / hue.amax(dim=1, keepdim=True).clamp_min(0.12)).clamp(0, 1)
    rim = (blur(s.mask, 1.5 * s.unit) * (1 - blur(s.mask, 1.5 * s.unit)) * 4).clamp(0, 1) ** 2
    marks = step(0.05, 0.16, edges(blur(s.flat, 1.2 * s.unit)) * s.unit) * s.mask
    drawn = s.ink * (1 - 0.85 * step(0.55, 0.95, blur(s.ink, 2 * s.unit)))
    tube = torch.maximum(torch.maximum(drawn, marks * 0.6), rim)
    back_line = step(0.05, 0.15, edges(blur(s.backdrop, 1.2 * s.unit)) * s.unit) * (1 - s.mask)
    back_hue = saturate(blur(s.backdrop, 2 * s.unit), 2.5)
    back_hue = (back_hue / back_hue.amax(dim=1, keepdim=True).clamp_min(0.12)).clamp(0, 1)
    rows = torch.remainder(s.y * 9, 1.0)
    columns = torch.remainder(s.x * 4.5 + 0.5 * torch.remainder(torch.floor(s.y * 9), 2.0), 1.0)
    mortar = torch.maximum(step(0.44, 0.48, (rows - 0.5).abs()), step(0.47, 0.49, (columns - 0.5).abs()))
    wall = constant((0.055, 0.045, 0.10), s.x) * (1.1 - 0.5 * mortar + 0.6 * s.noise(30, 5, 2)) * (1 - s.mask)
    inside = s.flat * (0.16 + 0.24 * s.tone) * s.mask
    light = hue * tube + back_hue * back_line * 0.38
    bloom = blur(light, 3 * s.unit) * 0.7 + blur(light, 11 * s.unit) * 0.75
    core = step(0.55, 0.95, tube) * 0.55
    flicker = 0.9 + 0.2 * s.chance(4)
    return (wall + inside + (light * 0.85 + bloom) * flicker + core).clamp(0, 1)

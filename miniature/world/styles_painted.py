"""Styles of the hand: photograph, oils, pencil and watercolour."""

from __future__ import annotations

import torch
from torch import Tensor

from miniature.world.colour import constant, luminance, mix, saturate, step
from miniature.world.layers import Layers, calmest, edges, posterised
from miniature.world.lighting import blur, slopes
from miniature.world.noise import lattice


def photo(s: Layers) -> Tensor:
    """Soft shading, a background out of focus, a vignette and a little grain."""
    spread = 2.2
    soft_back = blur(s.backdrop, spread * s.unit)
    halo = 1 - 0.16 * blur(s.mask, 7 * s.unit) * (1 - s.mask)
    image = s.over(s.lit, soft_back * halo)
    bloom = blur((image - 0.72).clamp_min(0), 6 * s.unit)
    image = image + bloom * 0.5
    image = image * (1.04 - 0.13 * (s.x**2 + s.y**2).clamp_max(2))
    return image + (s.grain(3) - 0.5) * (0.012 + 0.014 * s.chance(4))


def oil_painting(s: Layers) -> Tensor:
    """Strokes that follow the forms, with thick paint that catches the light; finer strokes on the subject than behind."""
    image = saturate(s.over(mix(s.lit, s.flat, 0.15), s.backdrop), 1.3)
    image = s.moved(image, s.noise(34, 5, 2) * 0.016, s.noise(34, 9, 2) * 0.016)
    fine = calmest(image, max(2, round(2.4 * s.unit)))
    broad = calmest(calmest(s.backdrop, max(2, round(5 * s.unit))), max(2, round(3 * s.unit)))
    painted = mix(saturate(broad, 1.3), fine, blur(s.mask, 2 * s.unit))
    dx, dy = slopes(blur(luminance(painted), 4 * s.unit))
    swirl = s.noise(3, 13, 2) * 5
    length = torch.sqrt(dx * dx + dy * dy)
    sure = (length * 60 * s.unit).clamp(0, 1)
    along_x = mix(torch.cos(swirl), -dy / (length + 1e-5), sure)
    along_y = mix(torch.sin(swirl), dx / (length + 1e-5), sure)
    bristle = lattice(s.seeds, 150, 150, 17)
    relief = torch.zeros_like(s.mask)
    for k in range(-3, 4):
        relief = relief + s.moved(bristle, along_x * 0.011 * k, along_y * 0.011 * k) / 7
    rx, ry = slopes(relief)
    gleam = ((rx + ry) * s.unit).clamp(-0.2, 0.2)
    thick = 1 - 0.45 * s.mask
    painted = painted * (1 - 0.35 * s.ink) * (1 + 0.34 * thick * (relief - 0.5))
    return painted + gleam * 0.5 * thick


def pencil_sketch(s: Layers) -> Tensor:
    """Graphite: outlines drawn twice, hatching that thickens with the dark and thins towards the corners, and a breath of colour."""
    image = s.over(s.flat * (0.45 + 0.55 * s.tone).clamp(0, 1.1), mix(s.backdrop, constant((1, 1, 1), s.x), 0.25))
    away = (s.x**2 + s.y**2).sqrt() + 0.7 * s.noise(4, 41, 2)
    attention = torch.maximum(s.mask, step(1.45, 0.6, away) * 0.85)
    dark = (1 - luminance(blur(image, s.unit)) ** 0.70) * attention
    paper = 0.965 + 0.05 * s.noise(90, 3, 2)
    wobble = s.noise(6, 21, 2) * 0.03
    angle = 0.75 + 0.5 * (s.chance(4) - 0.5)
    rough, patchy = s.noise(120, 31, 1), s.noise(14, 33, 2)
    lead = 0.34 * step(0.10, 1.0, dark) * (0.9 + rough)
    for k, (turn, density, start) in enumerate(((0.0, 84, 0.30), (0.45, 76, 0.50), (1.5, 80, 0.70))):
        across = (s.x + wobble * 2) * torch.cos(angle + turn) + (s.y - wobble) * torch.sin(angle + turn)
        stripe = 0.5 + 0.5 * torch.sin(across * density * 2 + k + 2 * patchy)
        amount = step(start - 0.16, start + 0.36, dark + patchy * 0.12)
        lead = lead + (1 - lead) * amount * step(1.05 - 0.8 * amount, 1.45 - 0.8 * amount, stripe + rough * 0.6 + 0.1) * 0.6
    again = s.moved(s.ink, wobble * 0.4 + 0.007, wobble * 0.4 - 0.004)
    edge = step(0.025, 0.14, edges(image) * s.unit) * mix(torch.full_like(s.mask, 0.75), torch.full_like(s.mask, 0.6), s.mask) * attention
    line = torch.maximum(torch.maximum(s.ink, again * 0.55), edge)
    lead = torch.maximum(lead, line * (0.80 + 0.5 * rough)).clamp(0, 0.92)
    wash = saturate(s.over(s.flat, s.backdrop), 1.25)
    tint = mix(constant((1, 1, 1), s.x), wash, 0.17 + 0.21 * s.mask)
    return paper * tint * (1 - lead) + constant((0.17, 0.17, 0.20), s.x) * lead


def watercolour(s: Layers) -> Tensor:
    """Washes with dark rims, pigment in the paper's grain, and an unpainted border."""
    bleed_x, bleed_y = s.noise(16, 5, 3) * 0.045, s.noise(16, 9, 3) * 0.045
    subject = mix(s.flat * (0.62 + 0.42 * s.tone), s.lit, 0.35).clamp(0, 1)
    image = s.over(subject, mix(s.backdrop, constant((1, 1, 1), s.x), 0.18))
    image = s.moved(image, bleed_x * 0.6, bleed_y * 0.6)
    wash = calmest(blur(image, 1.2 * s.unit), max(2, round(4 * s.unit)))
    wash = mix(wash, posterised(wash, 5, 0.3), 0.5)
    light = luminance(wash)
    rim = (blur(light, 3.5 * s.unit) - light).clamp(-0.25, 0.25)
    edge = step(0.015, 0.10, edges(wash) * s.unit)
    pigment = 1 - mix(wash, wash * 0 + light, 0.0)
    paper = s.noise(120, 3, 2)
    pools = s.noise(5, 15, 3)
    pigment = pigment * (0.84 + 0.40 * pools + 0.34 * paper) + rim * 0.55 * pigment + edge * 0.16 * pigment
    line = s.moved(s.ink, bleed_x * 0.3, bleed_y * 0.3)
    pigment = pigment + line * 0.30 * (0.7 + s.noise(20, 27, 2))
    border = torch.maximum(s.x.abs(), s.y.abs()) + 0.30 * s.noise(7, 19, 3)
    pigment = pigment * step(1.0, 0.84, border)
    return constant((0.985, 0.975, 0.95), s.x) - pigment.clamp(0, 1) * 0.97 + paper * 0.03

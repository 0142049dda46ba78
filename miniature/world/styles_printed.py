"""Styles of the press: poster, comic and linocut."""

from __future__ import annotations

import torch
from torch import Tensor

from miniature.world.colour import constant, luminance, mix, saturate, step
from miniature.world.layers import Layers, calmest, edges, posterised
from miniature.world.lighting import blur


def poster(s: Layers) -> Tensor:
    """Few flat inks: strong shapes, hard shadows, and rays or a disc behind."""
    shadow = step(0.52, 0.56, s.tone)
    bright = step(1.04, 1.08, s.tone)
    flat = posterised(saturate(blur(s.flat, 0.8 * s.unit), 1.45), 7, 0.05)
    dusk = flat * constant((0.56, 0.50, 0.68), s.x)
    subject = mix(mix(dusk, flat, shadow), (flat * 1.12 + 0.08).clamp(0, 1), bright)
    back = posterised(saturate(calmest(blur(s.backdrop, 1.5 * s.unit), max(2, round(4 * s.unit))), 1.5), 4, 0.05)
    angle = torch.atan2(s.x, -(s.y - 0.2))
    rays = step(-0.04, 0.04, torch.sin(angle * 14 + 6 * s.chance(4)))
    back = mix(back, (back * 1.22 + 0.05).clamp(0, 1), rays * 0.55)
    outline = (blur(s.mask, 2.4 * s.unit) * 2.4).clamp(0, 1) * (1 - s.mask)
    image = mix(s.over(subject, back), constant((0.985, 0.955, 0.88), s.x), step(0.35, 0.6, outline) * (1 - s.mask))
    image = image * (1 - 0.55 * s.ink * s.mask)
    worn = step(0.50, 0.62, s.noise(90, 5, 2) + 0.10)
    image = mix(image, constant((0.97, 0.94, 0.86), s.x), worn * 0.28)
    frame = step(0.945, 0.95, torch.maximum(s.x.abs(), s.y.abs()))
    return mix(image, constant((0.97, 0.94, 0.86), s.x), frame)


def comic(s: Layers) -> Tensor:
    """Black outlines, flat bright colours, and printed dots for the shade."""
    flat = posterised(saturate(s.flat, 1.55), 8, 0.1)
    back = posterised(saturate(calmest(s.backdrop, max(2, round(3 * s.unit))), 1.5), 6, 0.1)
    angle, pitch = 0.5 + 0.3 * s.chance(4), 46.0
    u = (s.x * torch.cos(angle) + s.y * torch.sin(angle)) * pitch
    v = (s.y * torch.cos(angle) - s.x * torch.sin(angle)) * pitch
    dots = (torch.sin(u * 1.6) * torch.sin(v * 1.6) + 1) * 0.5
    shade = step(0.80, 0.22, s.tone) * s.mask
    subject = mix(flat, flat * constant((0.46, 0.42, 0.60), s.x), step(0.10, -0.10, dots - shade * 0.92) * step(0.02, 0.1, shade))
    subject = mix(subject, subject * 0.55, step(0.36, 0.32, s.tone))
    back_shade = (1 - luminance(back)) * 0.65
    back = mix(back, (back * 0.82).clamp(0, 1), step(0.08, -0.08, dots - back_shade))
    image = s.over(subject, mix(back, constant((1, 1, 1), s.x), 0.12))
    outline = step(0.10, 0.30, blur(s.mask, 1.4 * s.unit) * (1 - blur(s.mask, 1.4 * s.unit)) * 2)
    line = torch.maximum(step(0.15, 0.55, blur(s.ink, 0.5 * s.unit) * 1.25), outline)
    back_line = step(0.10, 0.20, edges(back) * s.unit) * (1 - s.mask) * 0.55
    image = mix(image, constant((0.07, 0.06, 0.10), s.x), torch.maximum(line, back_line))
    paper = mix(image * constant((1.0, 0.985, 0.94), s.x), image, 0.3)
    border = torch.maximum(s.x.abs(), s.y.abs())
    return mix(
        mix(paper, constant((0.07, 0.06, 0.10), s.x), step(0.93, 0.935, border)),
        constant((0.98, 0.96, 0.92), s.x),
        step(0.955, 0.96, border),
    )


def linocut(s: Layers) -> Tensor:
    """Dark ink from a carved block over one or two tints, with the gouge's lines in the half-tones."""
    colour = s.over(s.flat, s.backdrop)
    light = luminance(s.over(s.flat * (0.42 + 0.62 * s.tone), s.backdrop)).clamp(0, 1)
    smooth = blur(light, 1.3 * s.unit)
    direction = s.noise(3, 5, 2) * 1.6 + 0.8
    across = s.x * torch.cos(direction) + s.y * torch.sin(direction)
    wave = torch.sin(across * 70 + s.noise(6, 9, 2) * 2.5)
    hand = 0.9 + 0.5 * s.chance(4)
    carved = torch.sin((s.x * torch.cos(hand) + s.y * torch.sin(hand)) * 78 + 5 * s.tone + s.noise(5, 13, 2) * 4)
    gouge = mix(wave * 0.07, carved * 0.065, s.mask)
    threshold = mix(torch.full_like(smooth, 0.36), 0.17 + 0.54 * blur(smooth, 18 * s.unit), s.mask)
    dark = step(0.035, -0.035, smooth + gouge - threshold)
    outline = step(0.10, 0.30, blur(s.mask, 1.4 * s.unit) * (1 - blur(s.mask, 1.4 * s.unit)) * 2)
    dark = torch.maximum(dark, step(0.2, 0.5, blur(s.ink, 0.6 * s.unit) * 1.3))
    gap = step(0.2, 0.7, blur(s.mask, 2.2 * s.unit) * (1 - s.mask) * 2)
    dark = torch.maximum(dark * (1 - gap), outline * s.mask)
    tint = posterised(mix(saturate(blur(colour, 2 * s.unit), 1.25), constant((0.96, 0.92, 0.82), s.x), 0.35), 4, 0.06)
    paper = constant((0.955, 0.92, 0.84), s.x)
    print_ = mix(paper, tint, 0.75)
    patchy = 0.93 + 0.16 * s.noise(100, 17, 2)
    ink = mix(constant((0.10, 0.10, 0.16), s.x), saturate(blur(colour, 3 * s.unit), 1.3) * 0.32, 0.5)
    image = mix(print_, ink, (dark * patchy).clamp(0, 1))
    border = torch.maximum(s.x.abs(), s.y.abs()) + 0.02 * s.noise(40, 21, 2)
    return mix(image, paper, step(0.92, 0.93, border))

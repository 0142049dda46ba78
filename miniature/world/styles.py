"""Ways of showing a scene. Each takes the drawn layers of a group of pictures and returns [b, 3, H, W] in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.world.colour import constant, luminance, mix, saturate, step
from miniature.world.lighting import blur, slopes
from miniature.world.noise import lattice, layered_noise, mix_bits, sample, uniform


@dataclass
class Layers:
    """A drawn scene before its style; maps [B, C, H, W]."""

    flat: Tensor
    """The subject's own colours without light."""
    lit: Tensor
    """The subject under its light."""
    tone: Tensor
    """Light and shade alone, about 0 to 1.4."""
    backdrop: Tensor
    """The background under its light."""
    mask: Tensor
    ink: Tensor
    x: Tensor
    y: Tensor
    tint: Tensor
    """Colour cast of the light [B, 3, 1, 1], about 1."""
    seeds: Tensor

    def rows(self, index: Tensor) -> Layers:
        """The pictures at `index` only."""
        return Layers(*(getattr(self, f.name).index_select(0, index) for f in fields(self)))

    @property
    def size(self) -> int:
        """Pixels across."""
        return self.mask.shape[-1]

    @property
    def unit(self) -> float:
        """Pixels for what is one pixel in a picture of 256."""
        return self.size / 256

    def chance(self, salt: int) -> Tensor:
        """A number in [0, 1) for each picture, [B, 1, 1, 1]."""
        return uniform(self.seeds, salt).view(-1, 1, 1, 1)

    def noise(self, cells: int, salt: int, octaves: int = 3) -> Tensor:
        """Cloudy noise centred on 0."""
        return layered_noise(self.seeds, cells, self.size, salt, octaves)

    def grain(self, salt: int) -> Tensor:
        """Independent noise for each pixel, in [0, 1)."""
        return lattice(self.seeds, self.size, self.size, salt)

    def over(self, subject: Tensor, backdrop: Tensor) -> Tensor:
        """The subject laid over a backdrop."""
        return backdrop + (subject - backdrop) * self.mask

    def moved(self, image: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
        """An image read at places shifted by (dx, dy) in scene units."""
        u, v = (self.x + dx) * 0.5 + 0.5, (self.y + dy) * 0.5 + 0.5
        return sample(image, u, v)


def _edges(image: Tensor) -> Tensor:
    dx, dy = slopes(luminance(image))
    return torch.sqrt(dx * dx + dy * dy + 1e-8)


def _posterised(image: Tensor, levels: int, softness: float = 0.12) -> Tensor:
    """Brightness in steps, hue kept."""
    light = luminance(image).clamp(0.02, 1)
    scaled = light * levels
    base = torch.floor(scaled)
    stepped = (base + step(0.5 - softness, 0.5 + softness, scaled - base)) / levels
    return (image * (stepped.clamp_min(0.05) / light)).clamp(0, 1)


def _kuwahara(image: Tensor, reach: int) -> Tensor:
    """Painterly smoothing: each pixel takes the mean of the calmest of four neighbouring squares."""
    light = luminance(image)
    stack = torch.cat([image, light * light], dim=1)
    side = reach + 1
    means = F.avg_pool2d(F.avg_pool2d(F.pad(stack, (reach, reach, reach, reach), mode="replicate"), (1, side), 1), (side, 1), 1)
    best, least = None, None
    height, width = image.shape[-2:]
    for row in (0, reach):
        for column in (0, reach):
            part = means[..., row : row + height, column : column + width]
            spread = part[:, 3:4] - luminance(part[:, :3]) ** 2
            if best is None or least is None:
                best, least = part[:, :3], spread
            else:
                best = torch.where(spread < least, part[:, :3], best)
                least = torch.minimum(spread, least)
    assert best is not None
    return best


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
    fine = _kuwahara(image, max(2, round(2.4 * s.unit)))
    broad = _kuwahara(_kuwahara(s.backdrop, max(2, round(5 * s.unit))), max(2, round(3 * s.unit)))
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
    image = s.over(s.flat * (0.45 + 0.55 * s.tone).clamp(0, 1.1), mix(s.backdrop, constant((1, 1, 1), s.x), 0.35))
    away = (s.x**2 + s.y**2).sqrt() + 0.7 * s.noise(4, 41, 2)
    attention = torch.maximum(s.mask, step(1.25, 0.55, away) * 0.75)
    dark = (1 - luminance(blur(image, s.unit)) ** 0.85) * attention
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
    edge = step(0.025, 0.14, _edges(image) * s.unit) * mix(torch.full_like(s.mask, 0.40), torch.full_like(s.mask, 0.6), s.mask) * attention
    line = torch.maximum(torch.maximum(s.ink, again * 0.55), edge)
    lead = torch.maximum(lead, line * (0.80 + 0.5 * rough)).clamp(0, 0.92)
    wash = saturate(s.over(s.flat, s.backdrop), 1.25)
    tint = mix(constant((1, 1, 1), s.x), wash, 0.08 + 0.30 * s.mask)
    return paper * tint * (1 - lead) + constant((0.17, 0.17, 0.20), s.x) * lead


def watercolour(s: Layers) -> Tensor:
    """Washes with dark rims, pigment in the paper's grain, and an unpainted border."""
    bleed_x, bleed_y = s.noise(16, 5, 3) * 0.045, s.noise(16, 9, 3) * 0.045
    subject = mix(s.flat * (0.62 + 0.42 * s.tone), s.lit, 0.35).clamp(0, 1)
    image = s.over(subject, mix(s.backdrop, constant((1, 1, 1), s.x), 0.18))
    image = s.moved(image, bleed_x * 0.6, bleed_y * 0.6)
    wash = _kuwahara(blur(image, 1.2 * s.unit), max(2, round(4 * s.unit)))
    wash = mix(wash, _posterised(wash, 5, 0.3), 0.5)
    light = luminance(wash)
    rim = (blur(light, 3.5 * s.unit) - light).clamp(-0.25, 0.25)
    edge = step(0.015, 0.10, _edges(wash) * s.unit)
    pigment = 1 - mix(wash, wash * 0 + light, 0.0)
    paper = s.noise(120, 3, 2)
    pools = s.noise(5, 15, 3)
    pigment = pigment * (0.84 + 0.40 * pools + 0.34 * paper) + rim * 0.55 * pigment + edge * 0.16 * pigment
    line = s.moved(s.ink, bleed_x * 0.3, bleed_y * 0.3)
    pigment = pigment + line * 0.30 * (0.7 + s.noise(20, 27, 2))
    border = torch.maximum(s.x.abs(), s.y.abs()) + 0.30 * s.noise(7, 19, 3)
    pigment = pigment * step(1.0, 0.84, border)
    return constant((0.985, 0.975, 0.95), s.x) - pigment.clamp(0, 1) * 0.97 + paper * 0.03


def poster(s: Layers) -> Tensor:
    """Few flat inks: strong shapes, hard shadows, and rays or a disc behind."""
    shadow = step(0.52, 0.56, s.tone)
    bright = step(1.04, 1.08, s.tone)
    flat = _posterised(saturate(blur(s.flat, 0.8 * s.unit), 1.45), 7, 0.05)
    dusk = flat * constant((0.56, 0.50, 0.68), s.x)
    subject = mix(mix(dusk, flat, shadow), (flat * 1.12 + 0.08).clamp(0, 1), bright)
    back = _posterised(saturate(_kuwahara(blur(s.backdrop, 1.5 * s.unit), max(2, round(4 * s.unit))), 1.5), 4, 0.05)
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
    bayer = torch.tensor([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], dtype=torch.float32, device=s.x.device)
    dither = (bayer.view(1, 1, 4, 4).repeat(1, 1, cells // 4, cells // 4) + 0.5) / 16 - 0.5
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
    flat = saturate(_kuwahara(s.flat, max(2, round(3 * s.unit))), 1.5)
    subject = _posterised(flat, 6, 0.1) * (0.80 + 0.28 * lot) * (0.72 + 0.34 * s.tone)
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
    marks = step(0.05, 0.16, _edges(blur(s.flat, 1.2 * s.unit)) * s.unit) * s.mask
    drawn = s.ink * (1 - 0.85 * step(0.55, 0.95, blur(s.ink, 2 * s.unit)))
    tube = torch.maximum(torch.maximum(drawn, marks * 0.6), rim)
    back_line = step(0.05, 0.15, _edges(blur(s.backdrop, 1.2 * s.unit)) * s.unit) * (1 - s.mask)
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


def comic(s: Layers) -> Tensor:
    """Black outlines, flat bright colours, and printed dots for the shade."""
    flat = _posterised(saturate(s.flat, 1.55), 8, 0.1)
    back = _posterised(saturate(_kuwahara(s.backdrop, max(2, round(3 * s.unit))), 1.5), 6, 0.1)
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
    back_line = step(0.10, 0.20, _edges(back) * s.unit) * (1 - s.mask) * 0.55
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
    gouge = mix(wave * 0.095, carved * 0.085, s.mask)
    dark = step(0.035, -0.035, smooth + gouge - 0.43)
    outline = step(0.10, 0.30, blur(s.mask, 1.4 * s.unit) * (1 - blur(s.mask, 1.4 * s.unit)) * 2)
    dark = torch.maximum(dark, step(0.2, 0.5, blur(s.ink, 0.6 * s.unit) * 1.3))
    gap = step(0.2, 0.7, blur(s.mask, 2.2 * s.unit) * (1 - s.mask) * 2)
    dark = torch.maximum(dark * (1 - gap), outline * s.mask)
    tint = _posterised(mix(saturate(blur(colour, 2 * s.unit), 1.25), constant((0.96, 0.92, 0.82), s.x), 0.35), 4, 0.06)
    paper = constant((0.955, 0.92, 0.84), s.x)
    print_ = mix(paper, tint, 0.75)
    patchy = 0.93 + 0.16 * s.noise(100, 17, 2)
    ink = mix(constant((0.10, 0.10, 0.16), s.x), saturate(blur(colour, 3 * s.unit), 1.3) * 0.32, 0.5)
    image = mix(print_, ink, (dark * patchy).clamp(0, 1))
    border = torch.maximum(s.x.abs(), s.y.abs()) + 0.02 * s.noise(40, 21, 2)
    return mix(image, paper, step(0.92, 0.93, border))


_STYLES: dict[str, Callable[[Layers], Tensor]] = {
    "photo": photo,
    "oil painting": oil_painting,
    "pencil sketch": pencil_sketch,
    "watercolour": watercolour,
    "poster": poster,
    "pixel art": pixel_art,
    "stained glass": stained_glass,
    "neon": neon,
    "comic": comic,
    "linocut": linocut,
}


def apply_style(style: str, layers: Layers) -> Tensor:
    """Pictures [b, 3, H, W] in [0, 1] of layers that all have one style."""
    return _STYLES[style](layers).clamp(0, 1)

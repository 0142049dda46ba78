"""Places behind the subject, each drawn for a whole group of pictures, with its own jitter of colour and layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from miniature.world import sdf
from miniature.world.colour import NAMED_COLOURS, constant, mix, step
from miniature.world.noise import layered_noise, mix_bits, smooth_noise, uniform
from miniature.world.scene import Scene
from miniature.world.view import View


class Place:
    """A group of blank backgrounds: coordinates in [-1, 1], and random numbers of each picture's own."""

    def __init__(self, view: View) -> None:
        self.size = view.scene_x.shape[-1]
        self.seeds = mix_bits(view.jitter + 77)
        self.pixel = 2.0 / self.size
        self.x = view.scene_x + (self.chance(1) - 0.5) * 0.3
        self.y = view.scene_y + (self.chance(2) - 0.5) * 0.12

    def chance(self, salt: int) -> Tensor:
        """A number in [0, 1) for each picture, [b, 1, 1, 1]."""
        return uniform(self.seeds, salt).view(-1, 1, 1, 1)

    def per_cell(self, cell: Tensor, salt: int) -> Tensor:
        """A number in [0, 1) for every whole-numbered cell of a map [b, 1, H, W]."""
        return uniform(self.seeds.view(-1, 1, 1, 1) + cell.to(torch.int64) * 7919, salt)

    def noise(self, cells: int, salt: int) -> Tensor:
        """Cloudy noise [b, 1, H, W] centred on 0."""
        return layered_noise(self.seeds, cells, self.size, salt)

    def rgb(self, red: float, green: float, blue: float) -> Tensor:
        """A colour, wandering a little from picture to picture, [b, 3, 1, 1]."""
        salt = int(red * 997 + green * 499 + blue * 251)
        wander = torch.cat([self.chance(500 + salt + i) for i in range(3)], dim=1) - 0.5
        return (constant((red, green, blue), self.x) + wander * 0.07).clamp(0, 1)

    def cover(self, distance: Tensor, softness: float = 0.0) -> Tensor:
        """Coverage of a shape given its distance in scene units."""
        return (0.5 - distance / (self.pixel + softness)).clamp(0, 1)


def _over(image: Tensor, colour: Tensor, cover: Tensor) -> Tensor:
    return torch.lerp(image, colour, cover)


def _sky(p: Place, top: tuple[float, float, float], low: tuple[float, float, float]) -> Tensor:
    return mix(p.rgb(*top), p.rgb(*low), step(-1.1, 0.5, p.y))


def _clouds(p: Place, image: Tensor, salt: int, colour: tuple[float, float, float] = (1.0, 0.99, 0.97)) -> Tensor:
    return _over(image, constant(colour, p.x), step(0.05, 0.45, p.noise(4, salt) + 0.12 - 0.35 * step(-0.4, 0.4, p.y)) * 0.8)


def _plain(p: Place, colour: Tensor) -> Tensor:
    glow = torch.exp(-(((p.x - 0.3 * (p.chance(3) - 0.5)) / 1.1) ** 2 + ((p.y + 0.1) / 1.1) ** 2))
    soft = mix(colour * 0.72, mix(colour, constant((1, 1, 1), p.x), 0.16), glow)
    return (soft + p.noise(5, 4) * 0.03).clamp(0, 1)


def _tree(p: Place, image: Tensor, x: Tensor, base: Tensor, scale: float, salt: int, leaf: Tensor, trunk: Tensor) -> Tensor:
    u, v = p.x - x, p.y - base
    image = _over(image, trunk, p.cover(sdf.limb(u, v, (0.0, 0.0), (0.02, -0.5 * scale), 0.05 * scale, 0.03 * scale)))
    crown = sdf.ellipse(u, v + 0.68 * scale, 0.34 * scale, 0.38 * scale) + p.noise(9, salt) * 0.16 * scale
    light = step(0.4, -0.5, (u + v + 0.68 * scale) / scale + p.noise(14, salt + 3) * 0.9)
    return _over(image, mix(leaf * 0.62, leaf * 1.12, light).clamp(0, 1), p.cover(crown))


def _park(p: Place, _: Tensor) -> Tensor:
    image = _clouds(p, _sky(p, (0.45, 0.70, 0.92), (0.84, 0.93, 0.97)), 11)
    hill = p.y - 0.02 - 0.10 * torch.sin(p.x * 2.2 + 6 * p.chance(5))
    image = _over(image, p.rgb(0.48, 0.68, 0.48), p.cover(-hill - 0.16))
    ground = 0.18 + 0.05 * torch.sin(p.x * 1.7 + 4 * p.chance(6))
    trunk, leaf = p.rgb(0.42, 0.30, 0.22), p.rgb(0.33, 0.58, 0.28)
    for k, (x, scale) in enumerate(((-0.80, 1.15), (0.82, 1.3), (0.22, 0.75), (-0.3, 0.6))):
        image = _tree(p, image, x + 0.3 * (p.chance(20 + k) - 0.5), ground + 0.04, scale, 40 + k, leaf * (0.9 + 0.1 * (k % 2)), trunk)
    grass = p.rgb(0.50, 0.73, 0.33) * (0.88 + 0.22 * step(0.2, 1.0, p.y) + 0.18 * p.noise(40, 12))
    image = _over(image, grass.clamp(0, 1), p.cover(ground - p.y))
    way = (p.x - 0.25 * torch.sin(p.y * 3 + 5 * p.chance(8)) + 0.3).abs() - 0.05 - 0.4 * (p.y - ground)
    return _over(image, p.rgb(0.87, 0.79, 0.62), p.cover(torch.maximum(way, ground - p.y)))


def _beach(p: Place, _: Tensor) -> Tensor:
    image = _clouds(p, _sky(p, (0.38, 0.70, 0.93), (0.86, 0.94, 0.96)), 11)
    sun = sdf.circle(p.x - 0.6 + 1.2 * p.chance(5), p.y + 0.68, 0.13)
    image = _over(image, constant((1.0, 0.96, 0.78), p.x), p.cover(sun, 0.03))
    horizon = -0.12
    depth = (p.y - horizon).clamp_min(0)
    glitter = step(0.62, 0.9, torch.sin(p.y * 90 / (1 + 3 * depth)) * 0.5 + 0.5 + p.noise(26, 13) * 0.5)
    sea = mix(p.rgb(0.10, 0.45, 0.66), p.rgb(0.32, 0.74, 0.76), step(0.0, 0.6, depth))
    image = _over(image, mix(sea, constant((0.9, 0.98, 1.0), p.x), glitter * 0.35), p.cover(horizon - p.y))
    sail_x, sail_y = p.x + 0.7 - 1.4 * p.chance(9), p.y - horizon + 0.02
    sail = torch.maximum(torch.maximum(-sail_x, sail_y), sail_x * 0.8 - (sail_y + 0.26) * 0.5)
    image = _over(image, constant((0.98, 0.95, 0.90), p.x), p.cover(sail))
    shore = 0.36 + 0.06 * torch.sin(p.x * 2.6 + 6 * p.chance(6))
    image = _over(image, constant((0.97, 0.99, 0.99), p.x), p.cover(shore - 0.05 + 0.02 * p.noise(20, 17) - p.y))
    sand = p.rgb(0.93, 0.82, 0.60) * (0.97 + 0.10 * p.noise(30, 14))
    return _over(image, sand.clamp(0, 1), p.cover(shore - p.y))


def _mountains(p: Place, _: Tensor) -> Tensor:
    image = _sky(p, (0.42, 0.64, 0.90), (0.90, 0.94, 0.98))
    for k, (base, rough, shade) in enumerate(((-0.12, 0.62, 0.78), (0.16, 0.55, 0.55), (0.45, 0.30, 0.36))):
        phase = p.x * (1.5 + 0.4 * k) + 5 * p.chance(30 + k) + 1.7 * k
        zig = 2 * (torch.remainder(phase, 1.0) - 0.5).abs() + 0.42 * (torch.remainder(phase * 2.3 + 0.3, 1.0) - 0.5).abs()
        ridge = base + 0.25 - rough * zig + 0.05 * p.noise(22, 50 + k)
        rock = mix(p.rgb(0.36, 0.42, 0.55), p.rgb(0.80, 0.86, 0.95), shade - 0.15)
        facing = step(-0.03, 0.03, torch.remainder(phase, 1.0) - 0.5 + 0.3 * p.noise(14, 60 + k))
        snow = constant((0.98, 0.99, 1.0), p.x) * (0.78 + 0.22 * facing)
        depth = p.y - ridge + 0.16 * p.noise(18, 70 + k)
        face = mix(snow, rock * (0.78 + 0.25 * facing), step(0.16, 0.30, depth) * (1 if k < 2 else 0))
        image = _over(image, face.clamp(0, 1), p.cover(ridge - p.y))
    flakes = p.noise(60, 81)
    return _over(image, constant((1, 1, 1), p.x), step(0.5, 0.6, flakes) * 0.6)


def _city(p: Place, _: Tensor) -> Tensor:
    image = mix(p.rgb(0.05, 0.06, 0.17), p.rgb(0.36, 0.20, 0.42), step(-0.9, 0.6, p.y))
    moon = sdf.circle(p.x + 0.65 - 1.3 * p.chance(7), p.y + 0.72, 0.11)
    image = _over(image, constant((0.98, 0.95, 0.82), p.x), p.cover(moon, 0.02))
    for k, (width, low, shade) in enumerate(((0.23, 0.62, 0.17), (0.34, 0.40, 0.09))):
        column = torch.floor(p.x / width + 3 * p.chance(31 + k))
        top = low - 1.05 * p.per_cell(column, 33 + k) - 0.15 * (1 - k)
        wall = p.rgb(shade * 0.8, shade * 0.85, shade * 1.9)
        cols, rows = 7 / (1 + 0.5 * k), 12 / (1 + 0.4 * k)
        grid_x, grid_y = p.x / width + 3 * p.chance(31 + k), p.y
        pane_x, pane_y = torch.remainder(grid_x * (cols // 2 + 1), 1.0), torch.remainder(grid_y * rows, 1.0)
        cell = torch.floor(grid_x * (cols // 2 + 1)) * 131 + torch.floor(grid_y * rows)
        awake = p.per_cell(cell, 35 + k)
        window = p.cover(sdf.box((pane_x - 0.5) * width / (cols // 2 + 1), (pane_y - 0.5) / rows, 0.026 + 0.008 * k, 0.024 + 0.006 * k))
        glow = mix(constant((1.0, 0.82, 0.40), p.x), constant((0.55, 0.85, 1.0), p.x), step(0.84, 0.86, awake))
        face = _over(wall.expand_as(image), glow, window * step(0.42, 0.44, awake) * 0.95)
        image = _over(image, face, p.cover(top - p.y))
    return image


def _living_room(p: Place, _: Tensor) -> Tensor:
    stripes = step(0.46, 0.50, (torch.remainder(p.x * 6, 1.0) - 0.5).abs())
    image = mix(p.rgb(0.86, 0.76, 0.62), p.rgb(0.80, 0.68, 0.53), stripes)
    x = p.x + 0.60 * torch.where(p.chance(5) < 0.5, -1.0, 1.0)
    pane = sdf.box(x, p.y + 0.32, 0.40, 0.50)
    image = _over(image, p.rgb(0.97, 0.95, 0.90), p.cover(pane - 0.05))
    view = mix(p.rgb(0.55, 0.80, 0.95), p.rgb(0.62, 0.82, 0.55), step(-0.25, -0.05, p.y + 0.04 * torch.sin(x * 8)))
    bars = torch.minimum(x.abs(), (p.y + 0.32).abs()) - 0.018
    image = _over(image, _over(view, p.rgb(0.97, 0.95, 0.90), p.cover(bars)), p.cover(pane))
    for side in (-1, 1):
        curtain = sdf.box(x - side * 0.47, p.y + 0.22, 0.10, 0.68, 0.02)
        folds = 0.85 + 0.18 * torch.sin(x * 70)
        image = _over(image, (p.rgb(0.70, 0.30, 0.32) * folds).clamp(0, 1), p.cover(curtain))
    other = p.x - 0.62 * torch.where(p.chance(5) < 0.5, -1.0, 1.0)
    frame = sdf.box(other, p.y + 0.45, 0.24, 0.20)
    image = _over(image, p.rgb(0.45, 0.30, 0.20), p.cover(frame - 0.03))
    image = _over(image, mix(p.rgb(0.40, 0.60, 0.68), p.rgb(0.93, 0.78, 0.52), step(-0.6, -0.35, p.y)), p.cover(frame))
    sofa = sdf.box(p.x, p.y - 0.85, 1.6, 0.52, 0.2)
    return _over(image, p.rgb(0.30, 0.48, 0.50) * (0.9 + 0.2 * step(0.6, 0.3, p.y)), p.cover(sofa))


def _bookshelf(p: Place, _: Tensor) -> Tensor:
    shelf_height = 0.46
    level = torch.floor((p.y + 3) / shelf_height)
    within = torch.remainder(p.y + 3, shelf_height)
    width = 0.085
    lane = p.x / width + 4 * p.per_cell(level, 5)
    book = torch.floor(lane) + level * 57
    tall = 0.28 + 0.13 * p.per_cell(book, 6)
    hue = p.per_cell(book, 7)
    palette = ((0.68, 0.22, 0.20), (0.88, 0.68, 0.30), (0.22, 0.42, 0.40), (0.25, 0.30, 0.52), (0.86, 0.80, 0.68), (0.50, 0.28, 0.40))
    colour = constant(palette[0], p.x).expand(p.x.shape[0], 3, p.size, p.size)
    for k in range(1, 6):
        colour = torch.where(hue > k / 6, constant(palette[k], p.x), colour)
    round_back = torch.sqrt((1 - (2 * torch.remainder(lane, 1.0) - 1) ** 2).clamp_min(0.05))
    bands = step(0.014, 0.006, (within - (shelf_height - 0.04) + tall * 0.75).abs()) + step(
        0.012, 0.005, (within - (shelf_height - 0.04) + tall * 0.2).abs()
    )
    book_face = (colour * (0.55 + 0.5 * round_back) + bands * 0.22).clamp(0, 1)
    image = p.rgb(0.20, 0.12, 0.08).expand_as(book_face)
    image = _over(image, book_face, p.cover(torch.maximum((shelf_height - 0.04) - tall - within, within - (shelf_height - 0.04))))
    return _over(image, p.rgb(0.56, 0.36, 0.21), p.cover((shelf_height - 0.035) - within))


def _starry_sky(p: Place, _: Tensor) -> Tensor:
    image = mix(p.rgb(0.05, 0.06, 0.22), p.rgb(0.16, 0.20, 0.45), step(-1.0, 1.0, p.y))
    band = torch.exp(-(((p.x * 0.7 + p.y * (0.8 * p.chance(5) - 0.4) + 0.2) / 0.45) ** 2)) * (0.55 + p.noise(6, 8))
    image = (image + band * constant((0.30, 0.22, 0.46), p.x) * 0.8).clamp(0, 1)
    for k, (cells, strength) in enumerate(((13, 1.0), (24, 0.65))):
        gx, gy = (p.x + 2) * cells / 2, (p.y + 2) * cells / 2
        cell = torch.floor(gx) * 197 + torch.floor(gy)
        u = torch.remainder(gx, 1.0) - 0.25 - 0.5 * p.per_cell(cell, 20 + k)
        v = torch.remainder(gy, 1.0) - 0.25 - 0.5 * p.per_cell(cell, 23 + k)
        bright = (p.per_cell(cell, 26 + k) - 0.45).clamp_min(0) * 1.9
        spark = (
            torch.exp(-(u * u + v * v) * 160) + 0.6 * torch.exp(-(u * u * 900 + v * v * 26)) + 0.6 * torch.exp(-(u * u * 26 + v * v * 900))
        )
        image = image + spark * bright * strength * constant((1.0, 0.97, 0.85), p.x)
    hills = 0.62 + 0.10 * torch.sin(p.x * 2.4 + 6 * p.chance(9)) + 0.03 * p.noise(16, 14)
    return _over(image.clamp(0, 1), p.rgb(0.04, 0.07, 0.15), p.cover(hills - p.y))


def _flower_dots(p: Place, image: Tensor, cells: int, salt: int, top: float) -> Tensor:
    gx, gy = (p.x + 2) * cells / 2, (p.y + 2) * cells / 2
    cell = torch.floor(gx) * 197 + torch.floor(gy)
    u = torch.remainder(gx, 1.0) - 0.30 - 0.4 * p.per_cell(cell, salt)
    v = torch.remainder(gy, 1.0) - 0.30 - 0.4 * p.per_cell(cell, salt + 1)
    lot = p.per_cell(cell, salt + 2)
    red = constant((0.90, 0.25, 0.22), p.x)
    colour = torch.where(lot > 0.30, constant((0.98, 0.96, 0.92), p.x), red)
    colour = torch.where(lot > 0.55, constant((0.97, 0.77, 0.20), p.x), colour)
    colour = torch.where(lot > 0.78, constant((0.58, 0.36, 0.78), p.x), colour)
    distance = torch.sqrt(u * u + v * v)
    petals = distance - 0.25 * (0.75 + 0.25 * torch.cos(torch.atan2(u, v) * 5))
    visible = step(top, top + 0.12, p.y)
    image = _over(image, colour, p.cover(petals * 2 / cells) * visible)
    return _over(
        image,
        torch.where(lot > 0.55, constant((0.45, 0.25, 0.10), p.x), constant((0.98, 0.82, 0.25), p.x)),
        p.cover((distance - 0.08) * 2 / cells) * visible,
    )


def _meadow(p: Place, _: Tensor) -> Tensor:
    image = _clouds(p, _sky(p, (0.50, 0.76, 0.95), (0.88, 0.95, 0.97)), 11)
    image = _over(image, p.rgb(0.45, 0.66, 0.52), p.cover(-0.16 + 0.08 * torch.sin(p.x * 2 + 6 * p.chance(5)) - p.y))
    blades = 0.88 + 0.22 * torch.sin(p.x * 130 + 3 * torch.sin(p.y * 20)) * step(-0.1, 0.6, p.y) + 0.25 * p.noise(20, 6)
    image = _over(image, (p.rgb(0.42, 0.68, 0.28) * blades).clamp(0, 1), p.cover(-0.02 - p.y))
    for cells, salt, top in ((22, 40, -0.02), (13, 50, 0.2), (8, 60, 0.42)):
        image = _flower_dots(p, image, cells, salt, top)
    return image


def _autumn(p: Place, _: Tensor) -> Tensor:
    image = mix(p.rgb(0.98, 0.86, 0.62), p.rgb(0.93, 0.66, 0.36), step(-1, 0.5, p.y)) + p.noise(9, 5) * 0.18
    for k in range(3):
        spacing = (0.30, 0.42, 0.62)[k]
        lane = p.x / spacing + 3 * p.chance(20 + k)
        offset = (torch.remainder(lane, 1.0) - 0.3 - 0.4 * p.per_cell(torch.floor(lane), 30 + k)) * spacing
        trunk = (offset + 0.03 * torch.sin(p.y * 3 + torch.floor(lane))).abs() - (0.022 + 0.016 * k)
        bark = mix(p.rgb(0.62, 0.45, 0.34), p.rgb(0.28, 0.18, 0.14), 0.15 + 0.42 * k) * (1 - 4 * offset)
        image = _over(image, bark.clamp(0, 1), p.cover(trunk))
        warm = ((0.95, 0.70, 0.28), (0.90, 0.48, 0.16), (0.76, 0.28, 0.14))[k]
        leaves = p.noise((22, 16, 11)[k], 40 + 5 * k) - 0.10 + 0.45 * (p.y + 0.45 - 0.1 * k)
        image = _over(image, (p.rgb(*warm) * (1 + 0.5 * p.noise(40, 43 + k))).clamp(0, 1), p.cover(leaves * 0.12))
    floor = 0.50 + 0.05 * p.noise(12, 70)
    litter = p.rgb(0.74, 0.40, 0.17) * (1 + 0.55 * p.noise(34, 71))
    return _over(image.clamp(0, 1), litter.clamp(0, 1), p.cover(floor - p.y))


def _kitchen(p: Place, _: Tensor) -> Tensor:
    size = 0.25
    u, v = torch.remainder(p.x + 4, size) - size / 2, torch.remainder(p.y + 4, size) - size / 2
    cell = torch.floor((p.x + 4) / size) * 131 + torch.floor((p.y + 4) / size)
    tint = p.per_cell(cell, 5)
    tile = mix(p.rgb(0.93, 0.95, 0.93), p.rgb(0.45, 0.70, 0.72), step(0.70, 0.72, tint) * 0.9) * (0.95 + 0.06 * tint)
    tile = tile * (1 + 0.25 * (-(u + v) / size) * 0.4)
    image = _over(
        p.rgb(0.72, 0.72, 0.68).expand(-1, -1, p.size, p.size),
        tile.clamp(0, 1),
        p.cover(sdf.box(u, v, size / 2 - 0.010, size / 2 - 0.010, 0.02)),
    )
    rail = (p.y + 0.62).abs() - 0.018
    image = _over(image, p.rgb(0.45, 0.30, 0.18), p.cover(rail))
    for k in range(4):
        x = p.x + 0.85 - 0.56 * k + 0.12 * (p.chance(30 + k) - 0.5)
        handle = sdf.limb(x, p.y, (0.0, -0.60), (0.0, -0.34), 0.016, 0.016)
        pan = sdf.circle(x, p.y + 0.22, 0.13) if k % 2 else sdf.box(x, p.y + 0.26, 0.055, 0.10, 0.04)
        metal = (p.rgb(0.78, 0.48, 0.30) if k % 2 else p.rgb(0.62, 0.44, 0.26)) * (1.05 - 1.4 * x)
        image = _over(image, metal.clamp(0, 1), p.cover(torch.minimum(handle, pan)))
    counter = p.rgb(0.70, 0.50, 0.32) * (0.95 + 0.12 * p.noise(12, 40))
    return _over(image, counter.clamp(0, 1), p.cover(0.52 - p.y))


def _sunset(p: Place, _: Tensor) -> Tensor:
    upper = mix(p.rgb(0.30, 0.20, 0.50), p.rgb(0.93, 0.38, 0.42), step(-1.0, -0.1, p.y))
    image = mix(upper, p.rgb(1.0, 0.76, 0.36), step(-0.35, 0.30, p.y))
    sun_x = p.x - 1.0 * (p.chance(5) - 0.5)
    sun = sdf.circle(sun_x, p.y - 0.16, 0.36)
    image = (image + torch.exp(-sun.clamp_min(0) * 3.2) * constant((0.28, 0.16, 0.04), p.x)).clamp(0, 1)
    image = _over(image, constant((1.0, 0.93, 0.66), p.x), p.cover(sun))
    bars = step(0.10, 0.42, smooth_noise(p.seeds, 3, p.size, 8) - 0.45 + 0.30 * torch.sin(p.y * 22 + p.noise(3, 9) * 6))
    image = _over(image, p.rgb(0.72, 0.26, 0.42), bars * 0.62 * step(0.25, -0.2, p.y))
    water = mix(p.rgb(0.86, 0.46, 0.36), p.rgb(0.26, 0.16, 0.36), step(0.3, 1.0, p.y))
    path = torch.exp(-((sun_x / (0.20 + 0.25 * (p.y - 0.3))) ** 2)) * step(-0.1, 0.5, torch.sin(p.y * 75 + p.noise(14, 12) * 8))
    water = _over(water, constant((1.0, 0.88, 0.58), p.x), path * 0.85)
    return _over(image, water, p.cover(0.30 - p.y))


_DRAWINGS: dict[str, Callable[[Place, Tensor], Tensor]] = {
    "plain backdrop": _plain,
    "park": _park,
    "beach": _beach,
    "snowy mountains": _mountains,
    "city at night": _city,
    "living room": _living_room,
    "bookshelf": _bookshelf,
    "starry sky": _starry_sky,
    "flower meadow": _meadow,
    "autumn forest": _autumn,
    "kitchen": _kitchen,
    "sunset": _sunset,
}


def draw_backgrounds(view: View, scenes: Sequence[Scene]) -> Tensor:
    """Backgrounds [B, 3, H, W] in [0, 1] of a batch, place by place."""
    size, device = view.scene_x.shape[-1], view.scene_x.device
    image = torch.zeros(len(scenes), 3, size, size, device=device)
    for name, drawing in _DRAWINGS.items():
        rows = [i for i, scene in enumerate(scenes) if scene.background == name]
        if not rows:
            continue
        index = torch.tensor(rows).to(device, non_blocking=True)
        named = torch.tensor([NAMED_COLOURS[scenes[i].background_colour or "grey"] for i in rows])
        colour = mix(named, torch.full_like(named, 0.8), 0.22).view(-1, 3, 1, 1).to(device, non_blocking=True)
        image.index_copy_(0, index, drawing(Place(view.rows(index)), colour).clamp(0, 1))
    return image

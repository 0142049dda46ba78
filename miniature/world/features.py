"""Parts that cats and dogs share: coats, eyes and the places where accessories sit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from miniature.world import sdf
from miniature.world.canvas import Canvas
from miniature.world.colour import constant, hue_path, mix, path, rgb_from_oklab, step
from miniature.world.identity import Traits
from miniature.world.noise import streaks
from miniature.world.view import View

COAT_HUES = (
    (15, 0.075),
    (38, 0.105),
    (52, 0.130),
    (62, 0.125),
    (70, 0.095),
    (80, 0.110),
    (88, 0.070),
    (75, 0.040),
    (100, 0.015),
    (240, 0.03),
    (262, 0.06),
    (310, 0.065),
)
"""From russet through ginger, sand and cream to grey, and on to the slightly fanciful blue and lilac: (hue in degrees, chroma)."""

EYE_HUES = ((55, 0.10), (75, 0.13), (98, 0.14), (125, 0.14), (155, 0.11), (200, 0.10), (245, 0.13), (285, 0.12))


@dataclass
class Anchors:
    """Where accessories sit on a head, [B, 1, 1, 1] in head units."""

    crown_y: Tensor
    crown_width: Tensor
    neck_y: Tensor
    neck_width: Tensor
    eye_x: Tensor
    eye_y: Tensor
    eye_size: Tensor
    ear_x: Tensor
    ear_y: Tensor

    def rows(self, index: Tensor) -> Anchors:
        """The anchors of the pictures at `index`."""
        return Anchors(*(getattr(self, f.name).index_select(0, index) for f in fields(self)))


def like(template: Tensor, value: Tensor | float) -> Tensor:
    """A value as [B, 1, 1, 1] of the template's batch."""
    return torch.zeros_like(template) + value


def coat_colour(t: Traits) -> Tensor:
    """The main colour of a coat, [B, 3, 1, 1]."""
    lightness = t.span("coat_lightness", 0.34, 0.90)
    room = 1 - ((lightness - 0.62).abs() * 2.2).clamp(0, 1) * 0.55
    a, b = hue_path(t["coat_hue"], COAT_HUES, t.span("coat_chroma", 0.45, 1.25) * room)
    return rgb_from_oklab(lightness, a, b)


def marking_colour(t: Traits) -> Tensor:
    """The darker second colour, some way below the coat's own brightness, [B, 3, 1, 1]."""
    coat = t.span("coat_lightness", 0.34, 0.90)
    lightness = (coat - t.span("marking_contrast", 0.16, 0.42)).clamp(0.14, 0.7)
    a, b = hue_path(t["marking_hue"], ((30, 0.07), (55, 0.09), (70, 0.05), (270, 0.025), (290, 0.06)))
    return rgb_from_oklab(lightness, a * (0.5 + lightness), b * (0.5 + lightness))


def white_colour(t: Traits) -> Tensor:
    """The warm white of blazes and chests, [B, 3, 1, 1]."""
    return like(t["coat_hue"], 0) + constant((0.97, 0.95, 0.91), t.factors)


def eye_colour(t: Traits, lightness: tuple[float, float] = (0.55, 0.8), hues: Sequence[tuple[float, float]] = EYE_HUES) -> Tensor:
    """Iris colour [B, 3, 1, 1] along a path from brown by gold and green to blue."""
    a, b = hue_path(t["eye_hue"], hues)
    (bright,) = path(t["eye_hue"], ((lightness[0],), (lightness[1],), (lightness[1],), (lightness[1],), (0.5 * sum(lightness),)))
    return rgb_from_oklab(bright, a, b)


def nose_colour(t: Traits) -> Tensor:
    """From pink by brick and brown to nearly black, [B, 3, 1, 1]."""
    red, green, blue = path(t["nose_colour"], ((0.93, 0.58, 0.58), (0.80, 0.43, 0.38), (0.42, 0.25, 0.21), (0.15, 0.13, 0.14)))
    return torch.cat([red, green, blue], dim=1)


def head_fur(view: View) -> Tensor:
    """Fur of the head, streaming out from the face: noise [B, 1, H, W] in [0, 1]."""
    x, y = view.surface()
    angle = torch.atan2(x.abs(), -(y - 0.1)) / torch.pi
    return streaks(angle * 0.9 + 0.05, (torch.sqrt(x * x + y * y) * 0.55).clamp(0, 1), salt=11)


def body_fur(view: View) -> Tensor:
    """Fur of the body, hanging down: noise [B, 1, H, W] in [0, 1]."""
    return streaks(view.body_x * 0.16 + 0.5 + 0.02 * torch.sin(view.body_y * 5), view.body_y * 0.22, salt=12)


def comb(colour: Tensor, fur: Tensor, strength: float = 0.24) -> Tensor:
    """A coat colour with the light and dark of its fur."""
    return (colour * (1 + strength * (fur - 0.5)) + (strength * 0.25) * (fur - 0.5)).clamp(0, 1)


def patch(t: Traits, x: Tensor, y: Tensor, fur: Tensor) -> Tensor:
    """A single patch beside or over one eye: its strength [B, 1, H, W] in [0, 1]."""
    side = t.span("patch_position", -1.0, 1.0)
    centre_x = torch.sin(side * 2.2) * 0.5
    centre_y = -0.12 - 0.42 * torch.cos(side * 2.2 * 2) * 0.8
    size = t.span("patch_size", -0.12, 0.52)
    edge = sdf.ellipse(x - centre_x, y - centre_y, size.clamp_min(0.02) * 0.95, size.clamp_min(0.02) * 1.1) + (fur - 0.5) * 0.12
    return step(0.03, -0.03, edge) * step(0.0, 0.08, size)


def blaze(t: Traits, x: Tensor, y: Tensor, fur: Tensor) -> Tensor:
    """White down the forehead, and around the muzzle: strength [B, 1, H, W] in [0, 1]."""
    width = t.span("white_blaze", -0.16, 0.26)
    stripe = x.abs() - width * (0.55 + 0.75 * step(-0.8, 0.5, y))
    muzzle = t.span("muzzle_white", -0.2, 0.58)
    bib = sdf.ellipse(x, y - 0.48, muzzle.clamp_min(0.02) * 1.0, muzzle.clamp_min(0.02) * 0.78)
    stripe = step(0.03, -0.03, stripe + (fur - 0.5) * 0.1) * step(0.0, 0.06, width) * step(-1.05, -0.7, y)
    return torch.maximum(stripe, step(0.03, -0.03, bib + (fur - 0.5) * 0.1) * step(0.0, 0.1, muzzle))


@dataclass
class EyeShape:
    """The form of a pair of eyes; sizes in head units."""

    half_width: Tensor
    half_height: Tensor
    slant: Tensor
    """Radians; positive lifts the outer corners."""
    iris: Tensor
    """Radius of the iris over half_height."""
    pupil_width: float
    """Over the iris radius."""
    pupil_height: float
    sclera: float
    """How white the eye is around the iris, 0 or 1."""
    rim: float
    """Width of the dark rim."""


def eye(canvas: Canvas, view: View, side: int, place: tuple[Tensor, Tensor, float], shape: EyeShape, iris: Tensor, rim: Tensor) -> None:
    """One eye: dark rim, white, iris with a bright lower half, pupil, the lid's shadow and two catchlights."""
    u, v = view.at(side * place[0], place[1], place[2])
    tu, tv = sdf.turned(u, v, -side * shape.slant)
    opening = sdf.almond(tu, tv + 0.0, shape.half_width, shape.half_height)
    canvas.paint(opening - shape.rim, rim, ink=1.0, softness=0.012)
    white = constant((0.97, 0.96, 0.94), u) * shape.sclera + iris * 0.62 * (1 - shape.sclera)
    inside = canvas.paint(opening, white, ink=0.8, gloss=0.5)
    gaze_u, gaze_v = u - 0.05 * view.sin_yaw, v + 0.06 * view.sin_pitch
    radius = shape.half_height * shape.iris
    distance = torch.sqrt(gaze_u * gaze_u + gaze_v * gaze_v)
    glow = step(-1.0, 1.1, gaze_v / radius)
    ring = step(1.0, 0.72, distance / radius)
    deep = mix(iris * 0.42, iris * (0.72 + 0.62 * glow), ring).clamp(0, 1)
    canvas.colour += (deep - canvas.colour) * (canvas.coverage(distance - radius, 0.012) * inside)
    pupil = sdf.ellipse(gaze_u, gaze_v, radius * shape.pupil_width, radius * shape.pupil_height)
    canvas.colour += (0.04 - canvas.colour) * (canvas.coverage(pupil, 0.01) * inside)
    canvas.ink = torch.maximum(canvas.ink, canvas.coverage(pupil) * inside)
    lid = step(-0.1, -1.0, v / shape.half_height) * inside
    canvas.colour *= 1 - 0.45 * lid
    spark = sdf.circle(gaze_u + 0.34 * radius, gaze_v + 0.38 * radius, radius * 0.27)
    small = sdf.circle(gaze_u - 0.36 * radius, gaze_v - 0.40 * radius, radius * 0.13)
    light = torch.maximum(canvas.coverage(spark, 0.008), canvas.coverage(small, 0.008) * 0.75) * inside
    canvas.colour += (1.0 - canvas.colour) * light
    canvas.ink = canvas.ink * (1 - light)

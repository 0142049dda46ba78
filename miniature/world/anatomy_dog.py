"""How a dog is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from miniature.world import sdf
from miniature.world.canvas import Canvas
from miniature.world.colour import constant, mix, step
from miniature.world.features import (
    Anchors,
    EyeShape,
    blaze,
    body_fur,
    coat_colour,
    comb,
    eye,
    eye_colour,
    head_fur,
    like,
    marking_colour,
    nose_colour,
    patch,
    white_colour,
)
from miniature.world.identity import Traits
from miniature.world.noise import flecks
from miniature.world.view import View

DOG_EYE_HUES = ((45, 0.06), (55, 0.08), (65, 0.10), (78, 0.11), (100, 0.09), (150, 0.05), (235, 0.08), (248, 0.11))


def _width(t: Traits) -> Tensor:
    return t.span("head_width", 0.82, 1.04)


def _eye_x(t: Traits) -> Tensor:
    return t.span("eye_spacing", 0.31, 0.41) * (0.45 + 0.60 * _width(t))


def anchors(t: Traits) -> Anchors:
    """Where accessories sit on these dogs."""
    one = t["head_width"]
    return Anchors(
        crown_y=like(one, -0.80),
        crown_width=0.56 * _width(t),
        neck_y=like(one, 1.10),
        neck_width=like(one, 0.64),
        eye_x=_eye_x(t),
        eye_y=like(one, -0.18),
        eye_size=t.span("eye_size", 0.19, 0.27),
        ear_x=0.84 * _width(t),
        ear_y=like(one, -0.42),
    )


def _spots(t: Traits, x: Tensor, y: Tensor, scale: float, salt: int) -> Tensor:
    """Round flecks, more and larger with the factors: strength [B, 1, H, W] in [0, 1]."""
    distance = flecks(x, y, t.span("spot_size", 5.2, 2.3) * scale, t.gate("spot_strength", 0.5, 1.1), 0.36, salt)
    return step(0.02, -0.02, distance)


def draw_body(canvas: Canvas, view: View, t: Traits) -> None:
    """Neck, shoulders and chest."""
    x, y, fur = view.body_x, view.body_y, body_fur(view)
    neck = sdf.limb(x, y, (0.0, 0.4), (0.0, 1.6), 0.55, 0.74)
    chest = sdf.ellipse(x, y - 3.2, 1.42, 1.95)
    shape = sdf.merge(neck, chest, 0.4) + (fur - 0.5) * t.span("fur_length", 0.02, 0.16)
    marking = comb(marking_colour(t), fur)
    coat = mix(comb(coat_colour(t), fur), marking, _spots(t, x, y, 1.0, 31))
    saddle = t.gate("dark_mask", 0.5, 0.9) * step(0.55, 1.0, x.abs())
    coat = mix(coat, marking, saddle * 0.8)
    bib_size = t.span("white_blaze", -0.2, 0.72)
    bib = sdf.ellipse(x, y - 2.0, bib_size.clamp_min(0.05) * 0.8, bib_size.clamp_min(0.05) * 2.0) + (fur - 0.5) * 0.3
    coat = mix(coat, comb(white_colour(t), fur), step(0.05, -0.05, bib) * step(0.0, 0.1, bib_size))
    canvas.paint(shape, coat, dome=0.45)
    for side in (-1, 1):
        leg = sdf.bow(y - 3.1, (x * side) - 0.46, 0.9, 0.1, 0.012)
        canvas.shade(canvas.coverage(leg, 0.06) * 0.35)


def _ear(canvas: Canvas, view: View, t: Traits, side: int, colour: Tensor, fur: Tensor) -> None:
    """An ear of two parts whose tip sinks from upright to hanging as `ear_droop` grows."""
    width, droop = _width(t), t["ear_droop"]
    length = t.span("ear_length", 0.62, 1.12) * (0.82 + 0.20 * droop)
    base_x, base_y = view.project(side * (0.60 + 0.06 * droop) * width, -0.60 + 0.06 * droop, 0.0)
    first = -1.2 + 1.75 * droop
    second = -1.4 + 2.85 * step(0.12, 0.85, droop)
    mid_x, mid_y = (
        base_x + side * torch.cos(first) * length * (0.42 - 0.10 * droop),
        base_y + torch.sin(first) * length * (0.42 - 0.10 * droop),
    )
    tip_x, tip_y = mid_x + side * torch.cos(second) * length * 0.62, mid_y + torch.sin(second) * length * 0.62
    tip = 0.05 + 0.12 * droop
    upper = sdf.limb(view.x, view.y, (base_x, base_y), (mid_x, mid_y), 0.22, 0.23)
    lower = sdf.limb(view.x, view.y, (mid_x, mid_y), (tip_x, tip_y), 0.23, tip)
    canvas.paint(sdf.merge(upper, lower, 0.2) + (fur - 0.5) * t.span("fur_length", 0.02, 0.1), colour, dome=0.17, lift=0.72)
    shown = (1 - 1.6 * droop).clamp(0, 1)
    inner = sdf.limb(view.x, view.y, (base_x * 0.5 + mid_x * 0.5, base_y * 0.5 + mid_y * 0.5), (tip_x, tip_y + 0.08), 0.13, 0.02)
    canvas.paint(inner, mix(constant((0.90, 0.64, 0.60), view.x), colour, 0.35), ink=0.4, softness=0.05, opacity=shown)


def _coat_on_head(view: View, t: Traits, fur: Tensor) -> Tensor:
    x, y = view.surface()
    marking = comb(marking_colour(t), fur)
    colour = mix(comb(coat_colour(t), fur), marking, _spots(t, x, y, 1.5, 32) * step(0.1, 0.4, x.abs() + (y + 0.2).abs() * 0.4))
    mask = torch.exp(-(((x / 0.42) ** 2 + ((y - 0.40) / 0.48) ** 2) ** 1.6))
    colour = mix(colour, marking, mask * t.gate("dark_mask", 0.5, 0.85) * 0.95)
    colour = mix(colour, marking, patch(t, x, y, fur))
    colour = mix(colour, comb(white_colour(t), fur), blaze(t, x, y, fur))
    tan = comb(constant((0.80, 0.52, 0.27), x), fur)
    for side in (-1, 1):
        point = sdf.ellipse(x - side * _eye_x(t) * 0.92, y + 0.46, 0.11, 0.075) + (fur - 0.5) * 0.05
        colour = mix(colour, tan, step(0.03, -0.03, point) * t.gate("brow_points", 0.55, 0.8))
    return colour


def _head_shape(view: View, t: Traits, fur: Tensor) -> Tensor:
    width = _width(t)
    shape = sdf.ellipse(view.x + 0.04 * view.sin_yaw, view.y + 0.16, 0.88 * width, 0.74)
    u, v = view.at(0.0, 0.30, 0.35, narrow=False)
    shape = sdf.merge(shape, sdf.ellipse(u, v, 0.74 * width, 0.58), 0.16)
    return shape + (fur - 0.5) * t.span("fur_length", 0.015, 0.11)


def draw_head(canvas: Canvas, view: View, t: Traits) -> None:
    """Head, ears, markings, eyes and the long muzzle."""
    fur = head_fur(view)
    marking = marking_colour(t)
    ear_colour = mix(comb(coat_colour(t), fur), comb(marking, fur), (t.gate("dark_mask", 0.3, 0.7) * 0.7 + 0.25).clamp(0, 1))
    shape = _head_shape(view, t, fur)
    canvas.shade(step(0.35, -0.1, shape) * step(0.3, 1.0, view.y) * 0.5 * canvas.mask)
    canvas.paint(shape, _coat_on_head(view, t, fur), dome=0.55, lift=0.5)
    for side in (-1, 1):
        _ear(canvas, view, t, side, ear_colour, fur)
    iris = eye_colour(t, (0.46, 0.70), DOG_EYE_HUES)
    rim = mix(constant((0.10, 0.07, 0.07), view.x), marking, 0.12)
    size = t.span("eye_size", 0.135, 0.195)
    shape_of_eye = EyeShape(size, size * 0.80, like(size, -0.10), like(size, 1.12), 0.56, 0.56, 0.0, 0.034)
    for side in (-1, 1):
        u, v = view.at(side * _eye_x(t), -0.26, 0.85)
        canvas.raise_by(
            0.08 * torch.exp(-((u / 0.2) ** 2 + ((v + 0.12) / 0.12) ** 2)) - 0.08 * torch.exp(-((u / 0.2) ** 2 + (v / 0.18) ** 2))
        )
        eye(canvas, view, side, (_eye_x(t), like(size, -0.18), 0.85), shape_of_eye, iris, rim)
    _muzzle(canvas, view, t, fur)


def _muzzle(canvas: Canvas, view: View, t: Traits, fur: Tensor) -> None:
    size = t.span("muzzle_size", 0.80, 1.18)
    u, v = view.at(0.0, 0.36, 1.05, narrow=False)
    top = sdf.ellipse(u, v + 0.06, 0.26 * size, 0.40 * size)
    jowls = sdf.merge(
        sdf.ellipse(u - 0.17 * size, v - 0.10, 0.27 * size, 0.27 * size),
        sdf.ellipse(u + 0.17 * size, v - 0.10, 0.27 * size, 0.27 * size),
        0.08,
    )
    muzzle = sdf.merge(top, jowls, 0.12)
    chin = sdf.ellipse(u, v - 0.36 * size, 0.17 * size, 0.14 * size)
    coat = _coat_on_head(view, t, fur)
    canvas.paint(chin, coat * 0.85, dome=0.14, lift=0.9, ink=0.7)
    canvas.shade(step(0.14, 0.0, muzzle) * 0.16 * canvas.mask)
    canvas.paint(muzzle, mix(coat, constant((1.0, 0.97, 0.93), u), 0.06), dome=0.26, lift=0.98, ink=0.45, softness=0.02)
    line = constant((0.16, 0.09, 0.09), u)
    nose_u, nose_v = view.at(0.0, 0.20, 1.22, narrow=False)
    stem = sdf.limb(u, v, (0.0, -0.02), (0.0, 0.19 * size), 0.014, 0.012)
    canvas.paint(stem, line, opacity=0.85)
    for side in (-1, 1):
        smile = sdf.bow(u - side * 0.17 * size, v - 0.24 * size, 0.19 * size, -0.09, 0.018)
        canvas.paint(smile, line, opacity=0.9)
        for k in range(4):
            dot = sdf.circle(side * u - (0.14 + 0.075 * (k % 2) + 0.03 * k) * size, v - (0.04 + 0.045 * k) * size, 0.012)
            canvas.tint(line, canvas.coverage(dot, 0.01) * 0.45)
    wide = size * 0.98
    nose = sdf.merge(
        sdf.ellipse(nose_u, nose_v + 0.03, 0.18 * wide, 0.105 * wide), sdf.ellipse(nose_u, nose_v - 0.05, 0.10 * wide, 0.08 * wide), 0.08
    )
    canvas.paint(nose, nose_colour(t), dome=0.11, lift=1.35, gloss=0.8)
    for side in (-1, 1):
        nostril = sdf.ellipse(*sdf.turned(nose_u - side * 0.085 * wide, nose_v - 0.02, side * 0.5), 0.045 * wide, 0.026 * wide)
        canvas.tint(constant((0.05, 0.03, 0.03), u), canvas.coverage(nostril, 0.02) * 0.8)
    canvas.colour += (1 - canvas.colour) * (canvas.coverage(sdf.ellipse(nose_u + 0.05, nose_v + 0.075, 0.075, 0.02), 0.04) * 0.45)

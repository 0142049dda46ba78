"""How a cat is drawn."""

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
from miniature.world.view import View


def _width(t: Traits) -> Tensor:
    return t.span("head_width", 0.86, 1.10)


def anchors(t: Traits) -> Anchors:
    """Where accessories sit on these cats."""
    one = t["head_width"]
    return Anchors(
        crown_y=like(one, -0.74),
        crown_width=0.52 * _width(t),
        neck_y=like(one, 1.02),
        neck_width=like(one, 0.66),
        eye_x=_eye_x(t),
        eye_y=like(one, -0.03),
        eye_size=t.span("eye_size", 0.23, 0.34),
        ear_x=0.78 * _width(t),
        ear_y=like(one, -0.52),
    )


def _eye_x(t: Traits) -> Tensor:
    return t.span("eye_spacing", 0.37, 0.49) * (0.5 + 0.5 * _width(t))


def draw_body(canvas: Canvas, view: View, t: Traits) -> None:
    """Neck, shoulders and chest, with the coat's stripes and the chest's white."""
    x, y, fur = view.body_x, view.body_y, body_fur(view)
    neck = sdf.limb(x, y, (0.0, 0.4), (0.0, 1.5), 0.62, 0.80)
    chest = sdf.ellipse(x, y - 3.1, 1.28, 1.95)
    shape = sdf.merge(neck, chest, 0.35) + (fur - 0.5) * t.span("fur_length", 0.03, 0.14)
    bands = torch.sin(y * t.span("stripe_frequency", 7, 15) + x.abs() * 2.2 + (fur - 0.5) * 1.5)
    stripes = step(0.25, 0.55, bands) * t.gate("stripe_strength", 0.4, 0.7) * step(0.25, 0.6, x.abs())
    coat = mix(comb(coat_colour(t), fur), comb(marking_colour(t), fur), stripes * 0.9)
    coat = mix(coat, comb(marking_colour(t), fur), t.gate("dark_mask", 0.55, 0.9) * step(1.7, 3.6, y) * 0.7)
    bib_size = t.span("muzzle_white", -0.1, 0.75)
    bib = sdf.ellipse(x, y - 1.5, bib_size.clamp_min(0.05) * 0.75, bib_size.clamp_min(0.05) * 1.6) + (fur - 0.5) * 0.35
    coat = mix(coat, comb(white_colour(t), fur), step(0.05, -0.05, bib) * step(0.0, 0.1, bib_size))
    canvas.paint(shape, coat, dome=0.45)
    for side in (-1, 1):
        leg = sdf.bow(y - 3.0, (x * side) - 0.42, 0.9, 0.1, 0.012)
        canvas.shade(canvas.coverage(leg, 0.06) * 0.35)


def _ear(canvas: Canvas, view: View, t: Traits, side: int, colour: Tensor, fur: Tensor) -> None:
    width = _width(t)
    u, v = view.at(side * 0.60 * width, -0.62, 0.12, narrow=False)
    angle = t.span("ear_angle", 0.12, 0.62) - 0.25 * side * view.sin_yaw
    u, v = sdf.turned(u, v, side * angle)
    size = t.span("ear_size", 0.74, 1.16)
    squeeze = 1 - 0.28 * (side * view.sin_yaw).clamp(0, 1)
    half_width, half_height = 0.40 * size * squeeze, 0.80 * size
    outer = sdf.leaf(u, v, half_width, half_height) - 0.03
    canvas.paint(outer + (fur - 0.5) * 0.03, colour, dome=0.22, lift=0.05)
    inner = sdf.leaf(u - side * 0.015, v - 0.12, half_width * 0.64, half_height * 0.82)
    pink = mix(constant((0.93, 0.66, 0.62), u), colour, 0.25)
    canvas.paint(inner, pink * (0.78 + 0.25 * step(0.2, -0.7, v)), ink=0.5, softness=0.05, opacity=0.92)
    for k in range(3):
        tuft = sdf.whisker(*sdf.turned(u + side * (0.17 - 0.05 * k), v - 0.12, -1.57 + side * (0.45 + 0.14 * k)), 0.5, 0.0, 0.05, 0.035)
        canvas.paint(tuft, mix(colour, constant((1.0, 0.97, 0.93), u), 0.6), ink=0.0, softness=0.02, opacity=0.75)


def _coat_on_head(view: View, t: Traits, fur: Tensor) -> Tensor:
    x, y = view.surface()
    coat, marking = comb(coat_colour(t), fur), comb(marking_colour(t), fur)
    angle = torch.atan2(x.abs(), -(y - 0.28))
    bands = torch.cos(angle * t.span("stripe_frequency", 9, 21) + (fur - 0.5) * 1.2)
    reach = step(0.48, 0.68, torch.sqrt(x * x + (y - 0.28) ** 2))
    colour = mix(coat, marking, step(0.15, 0.5, bands) * reach * t.gate("stripe_strength", 0.4, 0.7) * 0.92)
    points = torch.exp(-(((x / 0.48) ** 2 + ((y - 0.22) / 0.50) ** 2) ** 1.5))
    colour = mix(colour, marking, points * t.gate("dark_mask", 0.55, 0.9) * 0.95)
    colour = mix(colour, comb(marking_colour(t) * 0.55 + coat_colour(t).flip(1) * 0.05, fur), patch(t, x, y, fur))
    return mix(colour, comb(white_colour(t), fur), blaze(t, x, y, fur))


def _head_shape(view: View, t: Traits, fur: Tensor) -> Tensor:
    width = _width(t)
    cheeks = t.span("fur_length", 0.0, 0.15)
    shape = sdf.ellipse(view.x + 0.03 * view.sin_yaw, view.y + 0.08, 0.86 * width, 0.78)
    for side in (-1, 1):
        u, v = view.at(side * 0.42 * width, 0.22, 0.35, narrow=False)
        shape = sdf.merge(shape, sdf.ellipse(u, v, 0.47 + 0.5 * cheeks, 0.50), 0.12)
        ruff = sdf.leaf(*sdf.turned(u - side * (0.24 + 0.6 * cheeks), v - 0.12, side * 2.25), 0.17, 0.30 + 1.1 * cheeks)
        shape = sdf.merge(shape, ruff, 0.14)
    u, v = view.at(0.0, 0.48, 0.6, narrow=False)
    shape = sdf.merge(shape, sdf.ellipse(u, v, 0.44, 0.36), 0.15)
    return shape + (fur - 0.5) * t.span("fur_length", 0.025, 0.10)


def draw_head(canvas: Canvas, view: View, t: Traits) -> None:
    """Ears, head, markings, eyes, muzzle and whiskers."""
    fur = head_fur(view)
    marking = marking_colour(t)
    ear_colour = mix(comb(coat_colour(t), fur), comb(marking, fur), t.gate("dark_mask", 0.45, 0.8) * 0.95)
    shape = _head_shape(view, t, fur)
    canvas.shade(step(0.32, -0.15, shape - 0.02 + 0.0 * view.y) * step(0.3, 1.0, view.y) * 0.5 * canvas.mask)
    for side in (-1, 1):
        _ear(canvas, view, t, side, ear_colour, fur)
    canvas.paint(shape, _coat_on_head(view, t, fur), dome=0.55, lift=0.5)
    _muzzle(canvas, view, t)
    iris, rim = eye_colour(t), mix(constant((0.13, 0.09, 0.08), view.x), marking, 0.15)
    size = t.span("eye_size", 0.20, 0.30)
    shape_of_eye = EyeShape(size, size * 0.80, t.span("eye_slant", -0.06, 0.42), like(size, 1.06), 0.46, 0.80, 0.0, 0.032)
    for side in (-1, 1):
        u, v = view.at(side * _eye_x(t), -0.05, 0.82)
        canvas.raise_by(-0.10 * torch.exp(-((u / 0.26) ** 2 + (v / 0.24) ** 2)))
        eye(canvas, view, side, (_eye_x(t), like(size, -0.03), 0.82), shape_of_eye, iris, rim)


def _muzzle(canvas: Canvas, view: View, t: Traits) -> None:
    size = t.span("muzzle_size", 0.80, 1.22)
    u, v = view.at(0.0, 0.34, 1.02)
    canvas.raise_by(0.10 * torch.exp(-((u / 0.16) ** 2 + ((v + 0.22) / 0.34) ** 2)))
    for side in (-1, 1):
        pad_u, pad_v = u - side * 0.15 * size, v - 0.16 * size
        pad = torch.exp(-(((pad_u / (0.19 * size)) ** 2 + (pad_v / (0.155 * size)) ** 2) ** 1.4))
        canvas.raise_by(0.17 * pad)
        canvas.tint(constant((1.0, 0.97, 0.94), u), pad * 0.20)
    line = constant((0.20, 0.11, 0.11), u)
    stem = sdf.limb(u, v, (0.0, 0.05), (0.0, 0.17 * size), 0.012, 0.012)
    canvas.paint(stem, line, ink=1.0, opacity=0.85)
    for side in (-1, 1):
        smile = sdf.bow(u - side * 0.105 * size, v - 0.215 * size, 0.115 * size, -0.055, 0.016)
        canvas.paint(smile, line, ink=1.0, opacity=0.9)
        for row in range(3):
            for k in range(1, 3):
                dot = sdf.circle(side * u - (0.06 + 0.075 * k) * size, v - (0.075 + 0.05 * row) * size, 0.011)
                canvas.tint(line, canvas.coverage(dot, 0.01) * 0.4)
            start_u, start_v = side * u - 0.17 * size, v - (0.08 + 0.06 * row) * size
            hair = sdf.whisker(start_u, start_v, 0.95, -0.16 + 0.13 * row, 0.10, 0.013)
            canvas.paint(hair, constant((0.98, 0.97, 0.95), u), ink=0.45, opacity=0.85)
    nose = sdf.merge(
        sdf.ellipse(u, v + 0.03, 0.115 * size, 0.055 * size),
        sdf.ellipse(u, v - 0.015, 0.055 * size, 0.055 * size),
        0.06,
    )
    canvas.paint(nose, nose_colour(t), dome=0.08, lift=1.3, gloss=0.7)
    canvas.colour += (1 - canvas.colour) * (canvas.coverage(sdf.ellipse(u + 0.03, v + 0.05, 0.04, 0.015), 0.03) * 0.4)

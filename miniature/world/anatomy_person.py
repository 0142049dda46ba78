"""How a person is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from miniature.world import sdf
from miniature.world.canvas import Canvas
from miniature.world.colour import constant, hue_path, mix, rgb_from_oklab, step
from miniature.world.features import Anchors, EyeShape, eye, eye_colour, like
from miniature.world.identity import Traits
from miniature.world.noise import flecks, streaks
from miniature.world.view import View

HAIR_HUES = ((35, 0.06), (45, 0.11), (62, 0.10), (85, 0.09), (95, 0.02), (260, 0.05), (330, 0.09), (5, 0.12))
"""From brown by auburn and blond to grey, and on to the fanciful blue, pink and red."""


def _width(t: Traits) -> Tensor:
    return t.span("head_width", 0.66, 0.82)


def _eye_x(t: Traits) -> Tensor:
    return t.span("eye_spacing", 0.26, 0.35) * (0.4 + 0.8 * _width(t))


def anchors(t: Traits) -> Anchors:
    """Where accessories sit on these people."""
    one = t["head_width"]
    return Anchors(
        crown_y=like(one, -0.72) - 0.15 * t["hair_volume"],
        crown_width=_width(t) * 1.02 + 0.13 * t["hair_volume"],
        neck_y=like(one, 1.20),
        neck_width=like(one, 0.40),
        eye_x=_eye_x(t),
        eye_y=like(one, 0.06),
        eye_size=t.span("eye_size", 0.20, 0.26),
        ear_x=_width(t) * 1.04,
        ear_y=like(one, 0.20),
    )


def skin_colour(t: Traits) -> Tensor:
    """Skin from deep to pale, from rosy to golden, [B, 3, 1, 1]."""
    lightness = t.span("skin_tone", 0.42, 0.90)
    a, b = hue_path(t["skin_warmth"], ((36, 0.054), (54, 0.064), (72, 0.072)), 1.22 - 0.40 * (lightness - 0.42) / 0.48)
    return rgb_from_oklab(lightness, a, b)


def hair_colour(t: Traits) -> Tensor:
    """Hair, mostly natural and now and then fanciful, [B, 3, 1, 1]."""
    lightness = t.span("hair_lightness", 0.22, 0.82)
    a, b = hue_path(t["hair_hue"], HAIR_HUES, t.span("hair_chroma", 0.5, 1.2) * (0.35 + 0.9 * lightness))
    return rgb_from_oklab(lightness, a, b)


def _strands(view: View, t: Traits) -> Tensor:
    parting = t.span("parting", -0.35, 0.35)
    angle = torch.atan2((view.x - parting).abs(), -(view.y + 1.25)) / torch.pi + 0.22 * (view.x - parting)
    radius = torch.sqrt((view.x - parting) ** 2 + (view.y + 1.0) ** 2)
    wave = t["curl"] * 0.018 * torch.sin(radius * 14)
    return streaks(angle * 0.45 + 0.1 + wave, radius * 0.28, salt=21, count=200, length=10)


def _combed(t: Traits, strands: Tensor) -> Tensor:
    hair = hair_colour(t)
    return (hair * (1 + 0.55 * (strands - 0.5)) + 0.10 * (strands - 0.45)).clamp(0, 1)


def _curls(view: View, t: Traits) -> Tensor:
    """How far curls push the outline of the hair out and in, in head units."""
    angle = torch.atan2(view.x, -view.y - 0.1)
    lobes = torch.sin(angle * 9.5 + 0.6).abs() + 0.45 * torch.sin(angle * 15 + view.y * 3).abs()
    return t.gate("curl", 0.4, 1.0) * (0.05 - 0.10 * lobes)


def _back_hair(canvas: Canvas, view: View, t: Traits) -> None:
    volume, length = t.span("hair_volume", 0.04, 0.25), t.span("hair_length", 0.10, 2.25)
    width = _width(t) + volume
    x, y = view.x + 0.10 * view.sin_yaw, view.y
    crown = sdf.ellipse(x, y + 0.22, width * 1.02, 0.86 + volume * 0.6)
    fall = sdf.box(x, y - 0.5 * length + 0.2, width * (0.98 + 0.05 * length), 0.5 * length + 0.1, 0.16)
    shape = sdf.merge(crown, fall, 0.25) + _curls(view, t)
    strands = _strands(view, t)
    canvas.paint(shape, _combed(t, strands) * 0.80, dome=0.3)


def draw_body(canvas: Canvas, view: View, t: Traits) -> None:
    """The hair behind, the neck, and a plain knitted top whose grey-blue is the same for all."""
    _back_hair(canvas, view, t)
    x, y = view.body_x, view.body_y
    skin = skin_colour(t)
    neck = sdf.limb(x, y, (0.0, 0.6), (0.0, 1.45), 0.31, 0.38)
    canvas.paint(neck, skin * 0.93, dome=0.3, lift=0.1)
    shoulders = sdf.merge(
        sdf.limb(x, y, (0.0, 2.1), (0.0, 4.8), 0.74, 0.98),
        sdf.limb(x.abs(), y, (0.22, 1.27), (0.88, 1.72), 0.15, 0.31),
        0.3,
    )
    shoulders = sdf.merge(shoulders, sdf.limb(x.abs(), y, (0.90, 1.76), (1.22, 5.0), 0.30, 0.28), 0.06)
    collar = sdf.ellipse(x, y - 1.12, 0.45, 0.28)
    knit = 0.5 + 0.5 * torch.sin(x * 60) * torch.sin(y * 34 + x.abs() * 6)
    cloth = constant((0.40, 0.50, 0.63), x) * (0.92 + 0.12 * knit)
    top = sdf.cut(shoulders, collar, 0.04)
    canvas.paint(top, cloth, dome=0.5, lift=0.1)
    band = (collar - 0.045).abs() - 0.055
    canvas.paint(sdf.common(band, 1.16 - y, 0.03), constant((0.33, 0.43, 0.56), x), dome=0.06, lift=0.35)
    for side in (-1, 1):
        sleeve = sdf.bow(y - 2.9, side * x - 0.80, 0.85, 0.04, 0.012)
        canvas.shade(canvas.coverage(sleeve, 0.05) * 0.4)


def _face_shape(view: View, t: Traits) -> Tensor:
    width, jaw = _width(t), t["jaw_shape"]
    skull = sdf.ellipse(view.x + 0.05 * view.sin_yaw, view.y + 0.20, width, 0.80)
    u, v = view.at(0.0, 0.36, 0.30, narrow=False)
    cheeks = sdf.ellipse(u, v, width * (0.86 + 0.10 * jaw), 0.56)
    u, v = view.at(0.0, 0.78, 0.42, narrow=False)
    chin = sdf.box(u, v, 0.16 + 0.20 * jaw, 0.21 - 0.02 * jaw, 0.15)
    return sdf.merge(sdf.merge(skull, cheeks, 0.15), chin, 0.30)


def draw_head(canvas: Canvas, view: View, t: Traits) -> None:
    """Ears, face, features, and the hair in front."""
    skin, shape, width = skin_colour(t), _face_shape(view, t), _width(t)
    flush = mix(skin, constant((0.88, 0.32, 0.27), view.x) * (0.35 + 0.75 * skin[:, :1]), 0.38)
    canvas.shade(step(0.34, -0.1, shape) * step(0.5, 1.0, view.y) * 0.42 * canvas.mask)
    for side in (-1, 1):
        u, v = view.at(side * width * 0.98, 0.20, -0.10, narrow=False)
        ear = sdf.ellipse(*sdf.turned(u, v, side * 0.2), 0.125, 0.22)
        canvas.paint(ear, mix(skin, flush, 0.35), dome=0.1, lift=0.1)
        canvas.tint(flush * 0.7, canvas.coverage(sdf.ellipse(u, v, 0.055, 0.12), 0.06) * 0.5)
    canvas.paint(shape, skin, dome=0.55, lift=0.3)
    _complexion(canvas, view, t, flush)
    _nose_and_mouth(canvas, view, t, skin, flush)
    _eyes_and_brows(canvas, view, t, skin)
    _front_hair(canvas, view, t)


def _complexion(canvas: Canvas, view: View, t: Traits, flush: Tensor) -> None:
    for side in (-1, 1):
        u, v = view.at(side * 0.40, 0.38, 0.75)
        cheek = torch.exp(-((u / 0.20) ** 2 + (v / 0.15) ** 2))
        canvas.tint(flush, cheek * 0.38)
        canvas.raise_by(0.05 * cheek)
        u, v = view.at(side * _eye_x(t), 0.04, 0.85)
        canvas.raise_by(-0.06 * torch.exp(-((u / 0.20) ** 2 + (v / 0.13) ** 2)))
    x, y = view.surface()
    where = torch.exp(-((x / 0.52) ** 2 + ((y - 0.30) / 0.20) ** 2))
    amount = t.gate("freckles", 0.55, 0.85)
    dots = step(0.012, -0.004, flecks(x, y, 16.0, 0.62, 0.32, 41))
    canvas.tint(flush * 0.60, dots * step(0.15, 0.6, where) * amount * 0.7)


def _nose_and_mouth(canvas: Canvas, view: View, t: Traits, skin: Tensor, flush: Tensor) -> None:
    size = t.span("nose_size", 0.75, 1.30)
    u, v = view.at(0.0, 0.36, 1.06)
    bridge_u, _ = view.at(0.0, 0.15, 0.98)
    canvas.raise_by(0.13 * torch.exp(-((bridge_u / (0.075 * size)) ** 2 + ((v + 0.20) / 0.24) ** 2)))
    tip = torch.exp(-(((u / (0.115 * size)) ** 2 + (v / (0.10 * size)) ** 2) ** 1.3))
    canvas.raise_by(0.20 * size * tip)
    canvas.tint(flush, tip * 0.30)
    under = sdf.bow(u, v - 0.10 * size, 0.12 * size, -0.045, 0.016)
    canvas.tint(flush * 0.55, canvas.coverage(under, 0.04) * 0.65)
    canvas.mark(under)
    for side in (-1, 1):
        wing = sdf.circle(u - side * 0.115 * size, v - 0.035 * size, 0.06 * size).abs() - 0.010
        outer = step(0.0, 0.05, side * u - 0.105 * size)
        canvas.tint(flush * 0.6, canvas.coverage(wing, 0.03) * outer * 0.45)
        nostril = sdf.ellipse(u - side * 0.052 * size, v - 0.085 * size, 0.03 * size, 0.016 * size)
        canvas.tint(flush * 0.30, canvas.coverage(nostril, 0.025) * 0.6)
    _mouth(canvas, view, t, skin, flush)


def _mouth(canvas: Canvas, view: View, t: Traits, skin: Tensor, flush: Tensor) -> None:
    full = t.span("lip_fullness", 0.035, 0.085)
    wide = 0.20 + 0.05 * _width(t)
    u, v = view.at(0.0, 0.665, 0.92)
    rose = mix(flush, constant((0.76, 0.16, 0.24), u), t.span("lip_colour", 0.0, 0.75))
    smile = 0.055 * (u / wide).clamp(-1.2, 1.2) ** 2
    lip_v = v + smile
    lower = sdf.almond(u, lip_v - full * 0.45, wide * 0.86, full * 1.15)
    upper = torch.minimum(
        sdf.almond(u - 0.055, lip_v + full * 0.25, wide * 0.80, full * 0.85),
        sdf.almond(u + 0.055, lip_v + full * 0.25, wide * 0.80, full * 0.85),
    )
    canvas.paint(lower, rose, ink=0.35, softness=0.02, opacity=0.9, gloss=0.35)
    canvas.paint(upper, rose * 0.88, ink=0.35, softness=0.02, opacity=0.9)
    canvas.raise_by(0.05 * torch.exp(-((u / wide) ** 2 + ((lip_v - full * 0.5) / (full * 1.1)) ** 2)))
    seam = sdf.bow(u, v, wide, -0.055, 0.014)
    canvas.paint(seam, rose * 0.38, ink=1.0, opacity=0.85)
    canvas.shade(canvas.coverage(sdf.ellipse(u, v - full * 2.1 - 0.03, wide * 0.5, 0.02), 0.05) * 0.22)


def _eyes_and_brows(canvas: Canvas, view: View, t: Traits, skin: Tensor) -> None:
    iris = eye_colour(t, (0.40, 0.62))
    hair = hair_colour(t)
    size = t.span("eye_size", 0.165, 0.215)
    slant = t.span("eye_slant", -0.10, 0.22)
    shape = EyeShape(size, size * 0.66, slant, like(size, 0.95), 0.50, 0.50, 1.0, 0.010)
    lash = constant((0.10, 0.07, 0.07), view.x)
    for side in (-1, 1):
        u, v = view.at(side * _eye_x(t), 0.06, 0.88)
        tu, tv = sdf.turned(u, v, -side * slant)
        crease = sdf.bow(tu, tv + size * 0.92, size * 1.0, 0.07, 0.012)
        canvas.tint(skin * 0.55, canvas.coverage(crease, 0.03) * 0.7)
        eye(canvas, view, side, (_eye_x(t), like(size, 0.06), 0.88), shape, iris, skin * 0.55)
        upper = sdf.bow(tu, tv + size * 0.63, size * 1.12, size * 0.60, 0.030)
        canvas.paint(upper, lash, ink=1.0)
        for k in range(2):
            flick = sdf.whisker(side * tu - size * (0.80 + 0.16 * k), tv + size * (0.40 - 0.2 * k), 0.065, -0.04, -0.02, 0.016)
            canvas.paint(flick, lash, ink=0.3)
        _brow(canvas, view, t, side, hair)


def _brow(canvas: Canvas, view: View, t: Traits, side: int, hair: Tensor) -> None:
    weight = t.span("brow_weight", 0.018, 0.062)
    u, v = view.at(side * (_eye_x(t) + 0.015), -0.215, 0.86)
    u, v = sdf.turned(u, v, -side * t.span("brow_angle", -0.16, 0.26))
    stroke = sdf.bow(u, v, 0.20, 0.05, weight)
    canvas.paint(stroke, mix(hair * 0.62, constant((0.16, 0.10, 0.08), u), 0.35), ink=0.7, softness=0.025, opacity=0.92)


def _front_hair(canvas: Canvas, view: View, t: Traits) -> None:
    """The cap of hair over the forehead: everything of the hair's outline outside an opening for the face."""
    volume, length = t.span("hair_volume", 0.04, 0.25), t["hair_length"]
    width = _width(t)
    strands = _strands(view, t)
    outline = sdf.ellipse(view.x + 0.05 * view.sin_yaw, view.y + 0.26, width * 1.03 + volume * 0.62, 0.80 + volume * 0.85)
    for side in (-1, 1):
        reach = -0.10 + 1.95 * length
        lock = sdf.limb(
            view.x + 0.07 * view.sin_yaw,
            view.y,
            (side * (width + 0.02), -0.25),
            (side * (width + 0.09), reach),
            0.12 + volume * 0.35,
            0.09 + volume * 0.22,
        )
        outline = sdf.merge(outline, lock, 0.12)
    outline = outline + _curls(view, t)
    fringe = t.span("fringe", -0.62, -0.20)
    parting = t.span("parting", -0.42, 0.42)
    x, y = view.surface(1.35)
    sweep = 0.30 * (x - parting).abs() - 0.16 * (x - parting) ** 2
    edge = (fringe - sweep * (1.1 - 0.9 * t["fringe"]) + 0.06 * (strands - 0.5) + _curls(view, t) * 0.6) - y
    u, v = view.at(0.0, 0.42, 0.32, narrow=False)
    sides = sdf.ellipse(u, v, width * (0.99 - 0.10 * length), 1.32)
    opening = sdf.common(edge, sides, 0.14)
    hair = sdf.cut(outline, opening, 0.03)
    canvas.shade(canvas.coverage(hair - 0.05, 0.14) * step(0.02, -0.06, opening) * 0.38 * canvas.mask)
    shine = torch.exp(-((((torch.sqrt(view.x**2 + (view.y - 0.1) ** 2)) - 0.86) / 0.10) ** 2)) * step(0.1, -0.5, view.y)
    colour = (_combed(t, strands) * (1 + 0.30 * shine * strands) + 0.10 * shine * strands).clamp(0, 1)
    canvas.paint(hair, colour, dome=0.22, lift=0.62)
    canvas.raise_by(0.05 * (strands - 0.5) * canvas.coverage(hair))

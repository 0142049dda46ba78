"""Things worn, each a short drawing in head units at the anchors that every kind provides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from miniature.world import sdf
from miniature.world.canvas import Canvas
from miniature.world.colour import NAMED_COLOURS, constant, mix, step
from miniature.world.features import Anchors
from miniature.world.scene import Scene
from miniature.world.view import View

Drawing = Callable[[Canvas, View, Anchors, Tensor], None]


def _scarf(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    x, y = view.body_x, view.body_y
    stripes = 0.90 + 0.14 * step(-0.3, 0.3, torch.sin(x * 16 + y * 3))
    tail = sdf.limb(x, y, (0.30, a.neck_y + 0.2), (0.48, a.neck_y + 1.35), 0.20, 0.25)
    tail = sdf.common(tail, y - (a.neck_y + 1.32), 0.03)
    fringe = step(-0.2, 0.4, torch.sin(x * 60)) * step(1.12, 1.3, y - a.neck_y)
    canvas.paint(tail, colour * (0.92 + 0.10 * torch.sin(y * 22)) * (1 - 0.4 * fringe), dome=0.18, lift=0.45)
    for k, drop in enumerate((0.20, 0.02)):
        wrap = sdf.bow(x, y - a.neck_y - drop - 0.08, a.neck_width + 0.16 - 0.03 * k, -0.20, 0.20)
        canvas.paint(wrap, colour * stripes * (0.9 + 0.08 * k), dome=0.18, lift=0.55 + 0.1 * k)


def _round_glasses(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    radius = a.eye_size * 0.5 + 0.13
    bridge_u, bridge_v = view.at(0.0, a.eye_y - 0.03, 1.02)
    bridge = sdf.bow(bridge_u, bridge_v, (a.eye_x - radius).clamp_min(0.05) + 0.04, 0.04, 0.035)
    canvas.paint(bridge, colour, dome=0.04, lift=1.1, gloss=0.9)
    for side in (-1, 1):
        u, v = view.at(side * a.eye_x * 1.03, a.eye_y, 0.95)
        glare = step(0.1, 0.0, (u + v * 0.7 + 0.06).abs() - 0.02) * canvas.coverage(sdf.circle(u, v, radius))
        canvas.tint(constant((0.92, 0.97, 1.0), u), glare * 0.22)
        canvas.paint(sdf.circle(u, v, radius).abs() - 0.032, colour, dome=0.04, lift=1.1, gloss=0.9)
        start_x, start_y = view.project(side * (a.eye_x * 1.03 + radius), a.eye_y, 0.75)
        end_x, end_y = view.project(side * (a.ear_x + 0.0), a.eye_y - 0.05, 0.05)
        canvas.paint(sdf.limb(view.x, view.y, (start_x, start_y), (end_x, end_y), 0.026, 0.02), colour, dome=0.03, lift=0.9)


def _on_crown(view: View, a: Anchors, drop: float = 0.0) -> tuple[Tensor, Tensor]:
    """Coordinates about the top of the head; a hat rises with the brow as the head looks up."""
    across, _ = view.project(0.0, a.crown_y + drop, 0.2)
    _, down = view.project(0.0, a.crown_y + drop, 0.55)
    return view.x - across, view.y - down


def _at_ear(view: View, a: Anchors, side: int, drop: float) -> tuple[Tensor, Tensor]:
    """Coordinates about something at an ear: the near one comes round to the front, the far one peeks out narrowly."""
    turn = side * view.sin_yaw
    u = view.x - side * (a.ear_x + 0.08) * (1 - 0.40 * (-turn).clamp_min(0)) - 0.05 * view.sin_yaw
    return u / (1 - 0.8 * turn.clamp_min(0)), view.y - (a.ear_y + drop)


def _top_hat(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    u, v = _on_crown(view, a, 0.10)
    w = a.crown_width
    tube = sdf.box(u * (1 - 0.10 * (v + 0.5)), v + 0.52, w * 0.86, 0.55, 0.08)
    sheen = 1 + 0.35 * torch.exp(-((((u / w) + 0.45) / 0.16) ** 2))
    canvas.paint(tube, (colour * sheen + 0.02).clamp(0, 1), dome=0.42, lift=0.5)
    band = sdf.common(tube, (v + 0.14).abs() - 0.12, 0.01)
    canvas.paint(band, mix(constant((0.80, 0.16, 0.20), u), constant((0.93, 0.88, 0.78), u), _is_reddish(colour)), ink=0.8)
    brim = sdf.bow(u, v + 0.03, w * 1.42, -0.10, 0.09)
    canvas.paint(brim, (colour * 1.1 + 0.02).clamp(0, 1), dome=0.08, lift=0.8)


def _is_reddish(colour: Tensor) -> Tensor:
    return step(0.2, 0.5, colour[:, :1] - colour[:, 1:2])


def _crown(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    u, v = _on_crown(view, a, 0.06)
    w = a.crown_width
    bent = v + 0.10 * (u / w) ** 2
    wave = (torch.remainder(u / w * 2.5 + 0.5, 1.0) - 0.5).abs() * 2
    top = -0.50 + 0.30 * wave
    shape = torch.maximum(torch.maximum(bent - 0.10, (top - bent) * 0.7), u.abs() - w * (0.98 - 0.22 * bent))
    canvas.paint(shape, colour * (0.85 + 0.3 * step(0.1, -0.4, bent)), dome=0.12, lift=0.7, gloss=0.9)
    canvas.paint(sdf.common(shape, (bent - 0.02).abs() - 0.075, 0.01), colour * 0.82, dome=0.05, lift=0.76, gloss=0.9)
    for k, jewel in enumerate(((0.85, 0.12, 0.25), (0.15, 0.45, 0.85), (0.85, 0.12, 0.25))):
        gem_u = u - w * 0.55 * (k - 1)
        canvas.paint(sdf.ellipse(gem_u, bent - 0.02, 0.055, 0.055), constant(jewel, u), dome=0.05, lift=0.8, gloss=1.0, ink=0.7)
    for k in range(-2, 3):
        canvas.paint(sdf.circle(u - w * 0.4 * k, v + 0.52 + 0.016 * k * k, 0.06), colour, dome=0.06, lift=0.8, gloss=1.0)


def _bow_tie(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    u, v = view.body_x, view.body_y - a.neck_y - 0.22
    for side in (-1, 1):
        p = side * u
        wing = torch.maximum((v.abs() - 0.07 - 0.42 * p), (p - 0.50)) * 0.92
        wing = torch.maximum(wing, -p) - 0.03
        fold = 0.82 + 0.25 * step(0.0, 0.45, p) - 0.18 * torch.exp(-(((v / (0.1 + p.clamp_min(0))) / 0.3) ** 2))
        canvas.paint(wing, (colour * fold).clamp(0, 1), dome=0.14, lift=0.6)
    canvas.paint(sdf.box(u, v, 0.10, 0.13, 0.07), colour * 0.85, dome=0.1, lift=0.75)


def _flower_crown(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    for k in (-3, 3, -2, 2, -1, 1, 0):
        angle = k * 0.40
        place_x = a.crown_width * 1.08 * math.sin(angle)
        place_y = a.crown_y + 0.20 + 0.16 * (1 - abs(k) / 3) * -1 + 0.05
        u, v = view.at(place_x, place_y, 0.55 - 0.12 * abs(k), narrow=False)
        if k % 2:
            for turn in (-0.9, 0.7):
                leaf = sdf.leaf(*sdf.turned(u, v, turn + 1.57 + 0.2 * k), 0.075, 0.24)
                canvas.paint(leaf, constant((0.30, 0.54, 0.27), u), dome=0.07, lift=0.6, ink=0.8)
        _blossom(canvas, u, v, 0.205 if k % 2 == 0 else 0.155, colour if k % 2 == 0 else mix(colour, constant((1, 1, 1), u), 0.55))


def _blossom(canvas: Canvas, u: Tensor, v: Tensor, radius: float, colour: Tensor) -> None:
    angle = torch.atan2(u, v)
    distance = torch.sqrt(u * u + v * v)
    petals = distance - radius * (0.78 + 0.22 * torch.cos(angle * 5).abs() ** 0.7)
    canvas.paint(petals, (colour * (0.82 + 0.22 * step(0.0, radius, distance))).clamp(0, 1), dome=0.1, lift=0.75)
    canvas.paint(distance - radius * 0.32, constant((0.97, 0.79, 0.27), u), dome=0.05, lift=0.85, ink=0.8)


def _headphones(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    u, v = view.at(0.0, a.ear_y, 0.0, narrow=False)
    rise = (a.ear_y - a.crown_y) + 0.16
    arch = sdf.ellipse(u, v, a.ear_x + 0.10, rise).abs() - 0.065
    arch = torch.maximum(arch, v)
    canvas.paint(arch, colour, dome=0.07, lift=0.9, gloss=0.5)
    for side in (-1, 1):
        cup_u, cup_v = _at_ear(view, a, side, 0.12)
        canvas.paint(sdf.ellipse(cup_u + side * 0.06, cup_v, 0.17, 0.30), constant((0.16, 0.16, 0.18), u), dome=0.14, lift=0.8)
        canvas.paint(sdf.ellipse(cup_u - side * 0.04, cup_v, 0.15, 0.25), colour, dome=0.12, lift=0.95, gloss=0.6)


def _beanie(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    u, v = _on_crown(view, a, 0.16)
    w = a.crown_width
    dome = sdf.common(sdf.ellipse(u, v, w * 1.06, 0.62), v - 0.05, 0.05)
    rib = 0.90 + 0.14 * torch.sin(u / (1.05 - v).clamp_min(0.4) * 42)
    canvas.paint(
        sdf.circle(u, v + 0.68, 0.19),
        mix(colour, constant((1, 1, 1), u), 0.7) * (0.93 + 0.1 * torch.sin(u * 70) * torch.sin(v * 64)),
        dome=0.18,
        lift=0.6,
    )
    canvas.paint(dome, (colour * rib).clamp(0, 1), dome=0.4, lift=0.55)
    cuff = sdf.bow(u, v + 0.02, w * 1.16, 0.04, 0.22)
    canvas.paint(cuff, (mix(colour, constant((1, 1, 1), u), 0.16) * (0.88 + 0.16 * torch.sin(u * 34))).clamp(0, 1), dome=0.14, lift=0.8)


def _bandana(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    u, v = view.body_x, view.body_y - a.neck_y
    flap = torch.maximum((v - 1.02 + 1.05 * u.abs()) * 0.7, -v - 0.05) - 0.03
    dots = torch.cos(u * 26) * torch.cos(v * 26)
    pattern = mix(colour, constant((0.97, 0.95, 0.90), u), step(0.45, 0.62, dots) * 0.9)
    canvas.paint(flap, pattern, dome=0.22, lift=0.5)
    wrap = sdf.bow(u, v - 0.08, a.neck_width + 0.14, -0.16, 0.13)
    canvas.paint(wrap, colour * 0.88, dome=0.12, lift=0.62)


def _star_earring(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    for side in (-1, 1):
        u, v = _at_ear(view, a, side, 0.30)
        canvas.paint(sdf.limb(u, v, (0.0, -0.08), (0.0, 0.12), 0.016, 0.016), colour * 0.8, dome=0.02, lift=0.9)
        canvas.paint(sdf.star(u, v - 0.28, 0.22) - 0.015, colour, dome=0.09, lift=0.9, gloss=1.0)


def _party_hat(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    u, v = _on_crown(view, a, 0.12)
    w = a.crown_width * 0.80
    cone = torch.maximum((u.abs() - w * (v + 1.12) / 1.12) * 0.86, v + 0.10 * (u / w) ** 2 - 0.04) - 0.015
    band = step(-0.15, 0.15, torch.sin((v + 0.35 * u) * 15))
    canvas.paint(cone, mix(colour, constant((0.98, 0.95, 0.88), u), band * 0.85), dome=0.3, lift=0.6)
    canvas.paint(sdf.star(u, v + 1.14, 0.21, 7, 0.35), constant((0.98, 0.84, 0.30), u), dome=0.08, lift=0.9)
    canvas.paint(sdf.bow(u, v - 0.0, w * 1.06, -0.10, 0.055), mix(colour, constant((1, 1, 1), u), 0.45), dome=0.05, lift=0.9)


def _beret(canvas: Canvas, view: View, a: Anchors, colour: Tensor) -> None:
    u, v = _on_crown(view, a, 0.06)
    u, v = sdf.turned(u + 0.06, v, -0.16)
    w = a.crown_width
    canvas.paint(sdf.limb(u, v, (0.05, -0.30), (0.02, -0.46), 0.05, 0.035), colour * 0.8, dome=0.05, lift=0.8)
    puff = sdf.ellipse(u + 0.10 * w, v + 0.12, w * 1.34, 0.29)
    canvas.paint(puff, (colour * (0.92 + 0.16 * step(0.1, -0.3, v))).clamp(0, 1), dome=0.26, lift=0.7)
    canvas.paint(sdf.bow(u, v - 0.10, w * 1.02, -0.05, 0.075), colour * 0.78, dome=0.06, lift=0.85)


AT_NECK: dict[str, Drawing] = {"scarf": _scarf, "bow tie": _bow_tie, "bandana": _bandana}
ON_HEAD: dict[str, Drawing] = {
    "round glasses": _round_glasses,
    "top hat": _top_hat,
    "crown": _crown,
    "flower crown": _flower_crown,
    "headphones": _headphones,
    "beanie": _beanie,
    "star earring": _star_earring,
    "party hat": _party_hat,
    "beret": _beret,
}


def draw_worn(canvas: Canvas, view: View, places: Anchors, scenes: Sequence[Scene], drawings: dict[str, Drawing]) -> None:
    """Draw, thing by thing, the accessories of one table on those pictures of the batch that wear them."""
    device = canvas.colour.device
    for name, drawing in drawings.items():
        wearers = [i for i, scene in enumerate(scenes) if scene.accessory == name]
        if not wearers:
            continue
        index = torch.tensor(wearers).to(device, non_blocking=True)
        colour = torch.tensor([NAMED_COLOURS[scenes[i].accessory_colour] for i in wearers]).view(-1, 3, 1, 1).to(device, non_blocking=True)
        part = canvas.rows(index)
        drawing(part, view.rows(index), places.rows(index), colour)
        canvas.put_rows(index, part)

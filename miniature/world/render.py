"""From identities and scenes to pictures: lay out, draw the subject, light it, draw what is behind, apply the style."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from miniature.world import anatomy_cat, anatomy_dog, anatomy_person
from miniature.world.accessories import AT_NECK, ON_HEAD, draw_worn
from miniature.world.backgrounds import draw_backgrounds
from miniature.world.canvas import Canvas
from miniature.world.colour import luminance
from miniature.world.identity import Traits
from miniature.world.layers import Layers
from miniature.world.lighting import lit, make_light, roll_off, shade
from miniature.world.noise import mix_bits
from miniature.world.scene import Scene
from miniature.world.styles import apply_style
from miniature.world.view import View, make_view

_ANATOMIES = {"cat": anatomy_cat, "dog": anatomy_dog, "person": anatomy_person}
_PIXELS_AT_ONCE = {"cpu": 8 * 256 * 256, "cuda": 256 * 256 * 256}


def _draw_subject(kind: str, view: View, traits: Traits, scenes: Sequence[Scene]) -> Canvas:
    anatomy = _ANATOMIES[kind]
    canvas = Canvas.blank(view.pixel, view.x.shape[-1])
    places = anatomy.anchors(traits)
    anatomy.draw_body(canvas, view, traits)
    draw_worn(canvas, view, places, scenes, AT_NECK)
    anatomy.draw_head(canvas, view, traits)
    draw_worn(canvas, view, places, scenes, ON_HEAD)
    return canvas


def _layers(kind: str, factors: Tensor, scenes: Sequence[Scene], size: int) -> Layers:
    view = make_view(kind, scenes, size, factors.device)
    canvas = _draw_subject(kind, view, Traits(kind, factors), scenes)
    light = make_light(scenes, view)
    shading = shade(canvas, light)
    bare = luminance(light.ambient) * shading.hollow + luminance(light.key) * shading.key
    tint = light.backdrop / luminance(light.backdrop)
    return Layers(
        flat=canvas.colour.clamp(0, 1) * (0.6 + 0.4 * tint),
        lit=lit(canvas, light, shading),
        tone=bare + shading.rim * 0.3,
        backdrop=roll_off(draw_backgrounds(view, scenes) * light.backdrop),
        mask=canvas.mask.clamp(0, 1),
        ink=canvas.ink.clamp(0, 1),
        x=view.scene_x,
        y=view.scene_y,
        tint=tint,
        seeds=mix_bits(view.jitter + 4242),
    )


def _pictures(kind: str, factors: Tensor, scenes: Sequence[Scene], size: int) -> tuple[Tensor, Tensor]:
    layers = _layers(kind, factors, scenes, size)
    pictures = torch.empty(len(scenes), 3, size, size, device=factors.device)
    for style in dict.fromkeys(scene.style for scene in scenes):
        index = torch.tensor([i for i, scene in enumerate(scenes) if scene.style == style]).to(factors.device, non_blocking=True)
        pictures.index_copy_(0, index, apply_style(style, layers.rows(index)))
    return pictures, layers.mask


def _parts(count: int, size: int, device: torch.device) -> list[slice]:
    at_once = max(1, _PIXELS_AT_ONCE.get(device.type, _PIXELS_AT_ONCE["cpu"]) // (size * size))
    return [slice(start, start + at_once) for start in range(0, count, at_once)]


@torch.no_grad()
def render(kind: str, factors: Tensor, scenes: Sequence[Scene], *, size: int = 256, device: torch.device | str | None = None) -> Tensor:
    """Draw pictures [B, 3, size, size] float32 in [0, 1] of identities [B, F] of one kind, each in its scene.

    The same factors and scenes give the same pictures. `device` defaults to that of the factors.
    """
    return render_with_mask(kind, factors, scenes, size=size, device=device)[0]


@torch.no_grad()
def render_with_mask(
    kind: str, factors: Tensor, scenes: Sequence[Scene], *, size: int = 256, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """As `render`, and how much of each pixel the subject covers: [B, 1, size, size] in [0, 1]."""
    if len(scenes) != factors.shape[0]:
        raise ValueError(f"{factors.shape[0]} identities but {len(scenes)} scenes")
    factors = factors.to(device or factors.device, torch.float32)
    parts = _parts(len(scenes), size, factors.device)
    pictures, masks = zip(*(_pictures(kind, factors[part], scenes[part], size) for part in parts), strict=True)
    return torch.cat(pictures), torch.cat(masks)


@torch.no_grad()
def subject_mask(
    kind: str, factors: Tensor, scenes: Sequence[Scene], *, size: int = 256, device: torch.device | str | None = None
) -> Tensor:
    """How much of each pixel the subject and what it wears cover: [B, 1, size, size] in [0, 1]."""
    factors = factors.to(device or factors.device, torch.float32)
    masks = []
    for part in _parts(len(scenes), size, factors.device):
        view = make_view(kind, scenes[part], size, factors.device)
        masks.append(_draw_subject(kind, view, Traits(kind, factors[part]), scenes[part]).mask.clamp(0, 1))
    return torch.cat(masks)

"""Ways of showing a scene, by name. Each takes the drawn layers of a group of pictures and returns [b, 3, H, W] in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from miniature.world.layers import Layers
from miniature.world.styles_glowing import neon, pixel_art, stained_glass
from miniature.world.styles_painted import oil_painting, pencil_sketch, photo, watercolour
from miniature.world.styles_printed import comic, linocut, poster

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

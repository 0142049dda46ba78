"""Contact sheets: the drawn world at a glance."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from miniature.world.identity import KINDS, identity_factors
from miniature.world.photos import to_image
from miniature.world.render import render
from miniature.world.scene import STYLES, Scene, sample_scene


def tile(pictures: Tensor, columns: int, gap: int = 4) -> Image.Image:
    """Pictures [B, 3, H, W] in [0, 1] laid out in rows on white."""
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(to_image(picture), (gap + (i % columns) * (width + gap), gap + (i // columns) * (height + gap)))
    return sheet


def _draw(kind: str, seeds: Sequence[int], scenes: Sequence[Scene], size: int) -> Tensor:
    return render(kind, identity_factors(kind, torch.tensor(list(seeds))), scenes, size=size)


def contact_sheet(seed: int = 1, size: int = 256) -> Image.Image:
    """For each kind a row of styles and a row of one identity in many scenes, then rows of different identities."""
    rng = random.Random(seed)
    columns = len(STYLES)
    rows = []
    for kind in KINDS:
        first = rng.randrange(10_000)
        rows.append(_draw(kind, [first] * columns, [sample_scene(rng, style=style) for style in STYLES], size))
        rows.append(_draw(kind, [first] * columns, [sample_scene(rng, style="photo") for _ in STYLES], size))
        others = [rng.randrange(10_000) for _ in STYLES]
        rows.append(_draw(kind, others, [sample_scene(rng, style="photo", accessory="none", framing="portrait") for _ in STYLES], size))
    return tile(torch.cat(rows), columns)

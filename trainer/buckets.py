"""Picture shapes of a fit: a few fixed ones, so that compiled graphs and memory stay the same whatever photos come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

STEP = 64  # pixels: a multiple of what every family's VAE and packing divide by
RATIOS = ((1, 1), (3, 4), (4, 3), (2, 3), (3, 2))  # width : height, what cameras and telephones take
SMALLEST_AREA = 0.9  # of the square's: a narrower choice would bend ratios, a wider one would waste detail
SQUARE_ONLY_BELOW = 512  # pixels: below, steps of 64 hardly meet a ratio, and small bases were taught squares


@dataclass(frozen=True, order=True)
class Bucket:
    """A picture's ``width`` and ``height`` in pixels."""

    width: int
    height: int


@cache
def buckets_of(resolution: int) -> tuple[Bucket, ...]:
    """Shapes of about ``resolution``² pixels and never more, so that the square is what memory must be planned for; the square first."""
    square = Bucket(resolution, resolution)
    if resolution < SQUARE_ONLY_BELOW or resolution % STEP:
        return (square,)
    return (square, *(_nearest_shape(resolution // STEP, width / height) for width, height in RATIOS[1:]))


def bucket_for(size: tuple[int, int], resolution: int) -> Bucket:
    """The bucket whose aspect ratio is nearest to a picture's of ``size`` (width, height): the least is cropped away."""
    return min(buckets_of(resolution), key=lambda bucket: _distance(bucket.width / bucket.height, size[0] / size[1]))


def _nearest_shape(units: int, ratio: float) -> Bucket:
    """Of all shapes in steps of 64 pixels within the area's bounds the one nearest to the ratio."""
    sides = range(1, 2 * units)
    shapes = [(w, h) for w in sides for h in sides if SMALLEST_AREA * units**2 <= w * h <= units**2]
    width, height = min(shapes, key=lambda shape: (_distance(shape[0] / shape[1], ratio), -shape[0] * shape[1]))
    return Bucket(width * STEP, height * STEP)


def _distance(ratio: float, other: float) -> float:
    return abs(math.log(ratio / other))

"""The likeness of each portrait, from what the adapter's card remembers of the subject's photos: no photo is needed here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from core.logs import get_logger
from metrics.encoders import IdentityEncoder
from metrics.identity import likeness, normalised

log = get_logger("inference.scoring")


@dataclass(frozen=True)
class Picture:
    """A drawn picture with the seed that it came from and its likeness, where that can be told."""

    seed: int
    image: Image.Image
    likeness: float | None


def ranked(pictures: Sequence[Picture]) -> list[Picture]:
    """The most alike first; those of unknown likeness last, and equals in the order of their seeds."""
    return sorted(pictures, key=lambda picture: (picture.likeness is None, -(picture.likeness or 0.0), picture.seed))


def score_likeness(images: Sequence[Image.Image], card: Mapping[str, Any], encoder: IdentityEncoder) -> list[float | None]:
    """Normalised likeness of each picture in [0, 1], or None where the card has no reference made by this very encoder.

    ``card["reference_embedding"]`` is the mean of the photos' unit vectors (its dot product with a picture is the mean cosine to all of
    them), ``card["scores"]["likeness"]["base"]`` and ``["real"]`` are the anchors, ``card["encoders"]["identity"]`` made them.
    """
    anchors = card.get("scores", {}).get("likeness", {})
    reference = card.get("reference_embedding")
    if not reference or anchors.get("base") is None or anchors.get("real") is None:
        return [None] * len(images)
    made_by = card.get("encoders", {}).get("identity")
    if made_by != encoder.id:
        log.warning("not scored: the card was made by another encoder", card=made_by, here=encoder.id)
        return [None] * len(images)
    raw = likeness(encoder.embed(images), torch.tensor([reference], dtype=torch.float32))
    values = normalised(raw, anchors["base"], anchors["real"]).tolist()
    return [None if math.isnan(value) else round(value, 4) for value in values]

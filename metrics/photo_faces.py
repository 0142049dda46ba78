"""Faces by OpenCV's bundled Haar cascades. They miss profiles, drawings and dogs, so what they say is advice and never a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from core.words import SubjectKind

_CASCADES = {SubjectKind.PERSON: "haarcascade_frontalface_default.xml", SubjectKind.CAT: "haarcascade_frontalcatface_extended.xml"}
_SEARCH_SIDE = 480  # pixels: faces in selfies are large, and the search grows with the area
_SMALLEST_FACE = 0.12  # of the short side: smaller finds are mostly texture


@dataclass(frozen=True)
class Box:
    """Pixels of the picture that was searched."""

    left: int
    top: int
    width: int
    height: int


def find_faces(grey: np.ndarray, kind: SubjectKind) -> list[Box] | None:
    """Faces in ``grey`` [H,W] uint8, largest first; None where no cascade knows the kind."""
    if kind not in _CASCADES:
        return None
    scale = min(1.0, _SEARCH_SIDE / max(grey.shape))
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
    least = max(24, round(min(small.shape) * _SMALLEST_FACE))
    found = _cascade(_CASCADES[kind]).detectMultiScale(small, scaleFactor=1.1, minNeighbors=6, minSize=(least, least))
    boxes = [Box(*(round(float(value) / scale) for value in face)) for face in found]
    return sorted(boxes, key=lambda box: box.width * box.height, reverse=True)


def can_find_faces() -> bool:
    """OpenCV 5 has no cascades in its main package."""
    return hasattr(cv2, "CascadeClassifier")


@cache
def _cascade(name: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / name))

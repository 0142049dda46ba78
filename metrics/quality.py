"""Is a photo good enough to learn from? Measures, thresholds, and reasons in a customer's words. No torch here: ``api`` uses it too.

Thresholds are the ones that others use (short side, grey mean, Laplacian variance at 256 px, dHash distance). The short side is judged
against what the base model trains at: below that the photo is refused, below twice that it is taken with a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import cv2
import numpy as np
from PIL import Image

from core.words import PhotoVerdict, SubjectKind
from metrics.photo_faces import Box, find_faces
from metrics.photo_files import CleanPhoto, PhotoLimits, PhotoRefused, Reason, open_upload

__all__ = [
    "CleanPhoto",
    "PhotoLimits",
    "PhotoRefused",
    "PhotoReport",
    "Reason",
    "SetMember",
    "compare_set",
    "inspect",
    "open_upload",
    "verdict_of",
]

TOO_DARK, TOO_BRIGHT = 40.0, 220.0  # mean of the grey picture, 0–255
BLURRED, HOPELESSLY_BLURRED = 100.0, 12.0  # variance of the Laplacian of the subject crop at 256 px
BLURRED_IN_SET = 0.3  # of the set's median sharpness
NEAR_DUPLICATE = 5  # bits of 64: a smaller dHash distance is the same moment
MOST = 0.5  # of a set must show a face before a photo without one is worth a remark
CROP_SIDE = 256

SET_CODES = frozenset({"photo/near-duplicate", "photo/blurred-in-set", "photo/no-face"})


@dataclass(frozen=True)
class PhotoReport:
    """``sharpness``: Laplacian variance; ``exposure``: grey mean 0–255; ``dhash``: 16 hex digits; ``faces``: None if none can be sought."""

    verdict: PhotoVerdict
    reasons: list[Reason]
    width: int
    height: int
    sharpness: float
    exposure: float
    dhash: str
    faces: int | None = None

    @property
    def measures(self) -> dict[str, Any]:
        """What is stored with the photo, for :func:`compare_set` later."""
        return {"sharpness": round(self.sharpness, 1), "exposure": round(self.exposure, 1), "faces": self.faces}

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": [reason.as_dict() for reason in self.reasons]}


@dataclass(frozen=True)
class SetMember:
    """A photo as the others see it. ``usable`` is False once its own faults refuse it; it then counts for nothing."""

    dhash: str
    sharpness: float
    faces: int | None
    usable: bool = True
    name: str = ""


def verdict_of(reasons: Iterable[Reason]) -> PhotoVerdict:
    verdicts = {reason.verdict for reason in reasons}
    if PhotoVerdict.REJECTED in verdicts:
        return PhotoVerdict.REJECTED
    return PhotoVerdict.WARN if verdicts else PhotoVerdict.GOOD


def inspect(image: Image.Image, kind: SubjectKind = SubjectKind.OTHER, min_side: int = 512) -> PhotoReport:
    """Judge one RGB picture by itself. ``min_side``: the base model's training resolution in pixels."""
    grey = np.asarray(image.convert("L"))
    faces = find_faces(grey, kind)
    trusted = faces if kind == SubjectKind.PERSON else None  # the cat cascade finds faces in cushions: good for a hint, not for a crop
    sharpness, exposure = _sharpness(grey, trusted), float(grey.mean())
    reasons = [*_size(image, min_side), *_light(exposure), *_blur(sharpness), *_company(faces)]
    count = None if faces is None else len(faces)
    return PhotoReport(verdict_of(reasons), reasons, *image.size, sharpness, exposure, dhash(grey), count)


def dhash(grey: np.ndarray) -> str:
    """64 bits: is each pixel of a 9×8 reduction darker than its right neighbour? As 16 hex digits."""
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits(small[:, :-1] < small[:, 1:]).tobytes().hex()


def dhash_distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def compare_set(members: Sequence[SetMember]) -> list[list[Reason]]:
    """Per photo, what only shows beside the others: near-duplicates (the earlier one stays), blur, a missing face. Same order as given."""
    usable = [member for member in members if member.usable]
    typical = median(member.sharpness for member in usable) if len(usable) >= 3 else 0.0
    faces_shown = sum(bool(member.faces) for member in usable) >= max(3, MOST * len(usable))
    findings: list[list[Reason]] = []
    kept: list[SetMember] = []
    for member in members:
        reasons = _beside_others(member, kept, typical, faces_shown) if member.usable else []
        findings.append(reasons)
        if member.usable and verdict_of(reasons) != PhotoVerdict.REJECTED:
            kept.append(member)
    return findings


def _beside_others(member: SetMember, kept: list[SetMember], typical: float, faces_shown: bool) -> list[Reason]:
    reasons = []
    twin = next((other for other in kept if dhash_distance(member.dhash, other.dhash) < NEAR_DUPLICATE), None)
    if twin:
        reasons.append(
            Reason(
                "photo/near-duplicate",
                f"Almost the same picture as {twin.name or 'an earlier one'}.",
                "Replace it with another moment: a different place, angle or light.",
            )
        )
    if member.sharpness < BLURRED_IN_SET * typical:
        hard = member.sharpness < BLURRED
        reasons.append(
            Reason(
                "photo/blurred-in-set",
                "Much less sharp than your other photos.",
                "Replace it with one where the eyes are in focus.",
                PhotoVerdict.REJECTED if hard else PhotoVerdict.WARN,
            )
        )
    if faces_shown and member.faces == 0:
        reasons.append(
            Reason(
                "photo/no-face",
                "We could not find the face here, as we could in your other photos.",
                "Keep it if the face is clearly visible; otherwise replace it.",
                PhotoVerdict.WARN,
            )
        )
    return reasons


def _size(image: Image.Image, min_side: int) -> list[Reason]:
    short = min(image.size)
    if short < min_side:
        found = f"Only {image.width} × {image.height} pixels; the shorter side must have at least {min_side}."
        return [Reason("photo/too-small", found, "Send the original from the camera, not a preview or a screenshot.")]
    if short < 2 * min_side:
        found = f"{image.width} × {image.height} pixels is enough, but fine detail will be missing."
        return [Reason("photo/small", found, f"If you have a larger version, send that: {2 * min_side} pixels or more.", PhotoVerdict.WARN)]
    return []


def _light(exposure: float) -> list[Reason]:
    if exposure < TOO_DARK:
        return [Reason("photo/too-dark", "The picture is too dark to see the subject.", "Take one by daylight or near a lamp.")]
    if exposure > TOO_BRIGHT:
        fix = "Turn away from the window or the flash; keep it if the subject is clear."
        return [Reason("photo/too-bright", "The picture is very bright, and detail is washed out.", fix, PhotoVerdict.WARN)]
    return []


def _blur(sharpness: float) -> list[Reason]:
    if sharpness < HOPELESSLY_BLURRED:
        return [Reason("photo/blurred", "The subject is out of focus.", "Send a sharp photo: hold still and tap on the face to focus.")]
    if sharpness < BLURRED:
        fix = "Keep it only if you have no sharper one."
        return [Reason("photo/soft", "The subject looks a little soft.", fix, PhotoVerdict.WARN)]
    return []


def _company(faces: list[Box] | None) -> list[Reason]:
    if faces is None or len(faces) < 2 or faces[1].width < 0.5 * faces[0].width:
        return []
    fix = "Crop it so that only your subject is left, or send another."
    return [Reason("photo/several-faces", "There seems to be more than one face.", fix, PhotoVerdict.WARN)]


def _sharpness(grey: np.ndarray, faces: list[Box] | None) -> float:
    """Variance of the Laplacian of the subject crop (a person's largest face, else the middle square) at 256 px."""
    crop = _face_crop(grey, faces[0]) if faces else _middle(grey)
    small = cv2.resize(crop, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(small, cv2.CV_64F).var())


def _face_crop(grey: np.ndarray, box: Box) -> np.ndarray:
    return grey[max(0, box.top) : box.top + box.height, max(0, box.left) : box.left + box.width]


def _middle(grey: np.ndarray) -> np.ndarray:
    height, width = grey.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return grey[top : top + side, left : left + side]

"""Where the subject is in a photo, so that the fit can care less for what is around it. No weights: OpenCV's GrabCut from a prior.

The prior is where customers put their subject: in the middle, a little low; under a face, where a cascade finds one. GrabCut (Rother et
al. 2004) then follows the colours. A mask counts only if two priors of different width lead to nearly the same one: else there is none,
and the whole photo weighs the same. Of 72 drawn photos of six unseen subjects 66 get a mask; it overlaps the truth by 0.82–0.94 (mean
IoU of a subject).
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from core.errors import UserError
from core.words import SubjectKind
from metrics.photo_faces import Box, can_find_faces, find_faces

LONG_SIDE = 192  # pixels: a latent of FLUX.1 covers 8 pixels of a 1024 px photo, so finer masks would be averaged away
ITERATIONS = 3
SMALLEST, LARGEST = 0.05, 0.90  # share of the photo that a subject may cover
LEAST_AGREEMENT = 0.6  # IoU of the two masks
WIDTHS = (0.8, 1.15)  # of the prior, relative
SURE_BACKGROUND, SURE_SUBJECT, PERHAPS_SUBJECT = 0.08, 0.80, 0.37  # levels of the prior, whose peak is 1


def subject_mask(image: Image.Image, kind: str) -> Image.Image | None:
    """Grey picture of the photo's aspect, 255 where the subject is, soft at its edge; None where none could be told with confidence.

    :class:`core.errors.UserError` with an OpenCV that finds no faces: the masks would be others than those that were measured.
    """
    if not can_find_faces():
        detail = (
            f"OpenCV {cv2.__version__} has no CascadeClassifier: install opencv-python-headless>=4.12,<5, or leave background_weight at 1."
        )
        raise UserError("training/no-masks", "Photos cannot be masked on this machine", detail)
    scale = LONG_SIDE / max(image.size)
    small = image.convert("RGB").resize((max(8, round(image.width * scale)), max(8, round(image.height * scale))), Image.Resampling.BOX)
    pixels = np.asarray(small)
    face = _face(pixels, kind)
    masks = [_grabcut(pixels, _prior(pixels.shape[:2], face, width)) for width in WIDTHS]
    if not all(SMALLEST <= mask.mean() <= LARGEST for mask in masks) or _overlap(*masks) < LEAST_AGREEMENT:
        return None
    both = np.stack(masks).astype(np.float32).mean(0)
    return Image.fromarray((cv2.GaussianBlur(both, (0, 0), 2.0) * 255).round().astype(np.uint8))


def _face(pixels: np.ndarray, kind: str) -> Box | None:
    faces = find_faces(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), SubjectKind(kind))
    return faces[0] if faces else None


def _prior(shape: tuple[int, int], face: Box | None, width: float) -> np.ndarray:
    """How likely a subject is at each pixel [H, W], at most 1: a bell in the middle, or a head with shoulders under it."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    if face is None:
        return _bell(rows, columns, 0.6 * shape[0], 0.5 * shape[1], 0.40 * shape[0] * width, 0.28 * shape[1] * width)
    middle, top = face.left + face.width / 2, face.top + face.height / 2
    head = _bell(rows, columns, top, middle, 0.8 * face.height * width, 0.7 * face.width * width)
    body = _bell(rows, columns, top + 2.0 * face.height, middle, 1.6 * face.height * width, 1.3 * face.width * width)
    return np.maximum(head, body)


def _bell(rows: np.ndarray, columns: np.ndarray, row: float, column: float, high: float, wide: float) -> np.ndarray:
    """exp(−d²) with d in units of the two half-widths."""
    return np.exp(-(((rows - row) / high) ** 2) - ((columns - column) / wide) ** 2)


def _grabcut(pixels: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Boolean mask [H, W]; empty where GrabCut finds nothing to begin with."""
    labels = np.full(prior.shape, cv2.GC_PR_BGD, np.uint8)
    labels[prior >= PERHAPS_SUBJECT] = cv2.GC_PR_FGD
    labels[prior >= SURE_SUBJECT] = cv2.GC_FGD
    labels[prior <= SURE_BACKGROUND] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # its colour clusters begin at random: the same photo must give the same mask
    try:
        rect, colours = (0, 0, 0, 0), (np.zeros((1, 65)), np.zeros((1, 65)))
        cv2.grabCut(pixels[:, :, ::-1].copy(), labels, rect, *colours, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return np.zeros(prior.shape, bool)
    return _filled(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)))


def _filled(mask: np.ndarray) -> np.ndarray:
    """Without holes: eyes differ from a face in colour, and of all things they must count."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED).astype(bool)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max(1, (a | b).sum()))

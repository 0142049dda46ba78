import random

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from core.errors import UserError
from diffusion.loading import BaseModel
from miniature.world import UNSEEN_SEED_START, identity_factors, sample_scene
from miniature.world import subject_mask as true_mask
from miniature.world.photos import to_image
from miniature.world.render import render
from tests.unit.trainer.conftest import stripes
from trainer.caches import CaptionedPhoto, build_cache
from trainer.masks import subject_mask


def drawn(kind: str, count: int = 6) -> tuple[list[Image.Image], np.ndarray]:
    """Photos of a subject of the drawn world, and where it really is [N, 192, 192]."""
    lot = random.Random(3)
    scenes = [sample_scene(lot, style="photo") for _ in range(count)]
    factors = identity_factors(kind, torch.tensor([UNSEEN_SEED_START + 90_000] * count))
    truth = true_mask(kind, factors, scenes, size=192)[:, 0].numpy() > 0.5
    return [to_image(picture) for picture in render(kind, factors, scenes)], truth


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_masks_lie_on_the_subject() -> None:
    for kind in ("cat", "dog", "person"):
        photos, truth = drawn(kind)
        found = [(subject_mask(photo, kind), true) for photo, true in zip(photos, truth, strict=True)]
        overlaps = [overlap(np.asarray(mask) > 127, true) for mask, true in found if mask]
        assert len(overlaps) >= 3
        assert np.mean(overlaps) > 0.7, kind


def test_the_same_photo_gives_the_same_mask() -> None:
    photo = drawn("cat", 1)[0][0]
    first, second = subject_mask(photo, "cat"), subject_mask(photo, "cat")
    assert first is not None and second is not None and first.tobytes() == second.tobytes()


def test_a_mask_has_the_photos_aspect() -> None:
    photo = Image.new("RGB", (300, 600), "white")
    ImageDraw.Draw(photo).ellipse((80, 200, 220, 520), fill="brown")
    mask = subject_mask(photo, "dog")
    assert mask is not None and mask.size == (96, 192)
    pixels = np.asarray(mask)
    assert pixels[110, 48] > 250 and pixels[10, 5] < 5


def test_what_lies_within_a_subject_belongs_to_it() -> None:
    photo = Image.new("RGB", (300, 300), "white")
    draw = ImageDraw.Draw(photo)
    draw.ellipse((70, 90, 230, 280), fill="brown")
    draw.ellipse((90, 150, 120, 180), fill="white")  # an eye, off the middle that is taken for granted
    mask = subject_mask(photo, "dog")
    assert mask is not None and np.asarray(mask)[106, 67] > 250


def test_where_no_subject_stands_out_there_is_no_mask() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    assert subject_mask(Image.new("RGB", (200, 200), "grey"), "cat") is None
    assert subject_mask(noise, "cat") is None


def test_an_opencv_without_cascades_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "CascadeClassifier")  # as in OpenCV 5
    with pytest.raises(UserError, match="no CascadeClassifier: install opencv"):
        subject_mask(Image.new("RGB", (64, 64), "grey"), "cat")


def test_coverage_follows_the_photos_own_crop_and_is_whole_where_there_is_no_mask(base: BaseModel) -> None:
    left = Image.new("L", (20, 24), 0)
    left.paste(255, (0, 0, 10, 24))
    photos = [CaptionedPhoto("a" * 64, stripes(0), "one", left), CaptionedPhoto("b" * 64, stripes(1), "two")]
    cache = build_cache(base, photos, base.resolution)
    assert cache.coverage is not None and [own.shape for own in cache.coverage] == [(1, 4, 4)] * 2
    assert torch.allclose(cache.coverage[0][0], torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 4), atol=0.03)
    assert torch.equal(cache.coverage[1], torch.ones(1, 4, 4))
    assert cache.masked == 1

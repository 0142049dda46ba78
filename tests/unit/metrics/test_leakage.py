import numpy as np
import torch
from PIL import Image, ImageEnhance

from metrics.leakage import find_leaks, structure_vectors


def scene(seed, side=64):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


PHOTOS = [scene(seed) for seed in range(5)]
SAME_SUBJECT = torch.nn.functional.normalize(torch.ones(5, 8) + 0.1 * torch.eye(5, 8), dim=1)


def test_a_copy_leaks_even_resized_and_brightened():
    copy = ImageEnhance.Brightness(PHOTOS[3].resize((40, 40))).enhance(1.2)
    report = find_leaks([copy], SAME_SUBJECT[3:4], PHOTOS, SAME_SUBJECT)
    assert report.leaked == [True]
    assert report.nearest == [3]
    assert report.rate == 1.0


def test_a_new_picture_of_the_same_subject_does_not_leak():
    report = find_leaks([scene(99)], SAME_SUBJECT[:1], PHOTOS, SAME_SUBJECT)
    assert report.similarity[0] > 0.9
    assert report.leaked == [False]


def test_the_same_scene_with_another_subject_does_not_leak():
    other = torch.nn.functional.normalize(torch.tensor([[1.0, -1, 1, -1, 1, -1, 1, -1]]), dim=1)
    report = find_leaks([PHOTOS[0]], other, PHOTOS, SAME_SUBJECT)
    assert report.structure[0] > 0.99
    assert report.leaked == [False]


def test_a_copy_is_found_although_another_photo_is_nearer_in_the_embedding():
    report = find_leaks([PHOTOS[2]], SAME_SUBJECT[4:5], PHOTOS, SAME_SUBJECT)
    assert report.nearest == [4]
    assert report.leaked == [True]


def test_one_photo_nearest_for_too_many_pictures_warns():
    fresh = [scene(100 + n) for n in range(5)]
    spread = find_leaks(fresh, SAME_SUBJECT, PHOTOS, SAME_SUBJECT)
    assert (spread.top_share, spread.warnings) == (0.2, [])
    stuck = find_leaks(fresh, SAME_SUBJECT[[1, 1, 1, 0, 2]], PHOTOS, SAME_SUBJECT)
    assert (stuck.top_photo, stuck.top_share) == (1, 0.6)
    assert "photo 2 is the nearest for 60%" in stuck.warnings[0]


def test_structure_ignores_exposure_and_survives_a_flat_picture():
    vectors = structure_vectors([PHOTOS[0], ImageEnhance.Brightness(PHOTOS[0]).enhance(0.7), Image.new("RGB", (64, 64))])
    assert float(vectors[0] @ vectors[1]) > 0.99
    assert torch.isfinite(vectors).all()

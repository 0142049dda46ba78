from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from metrics.photo_files import PhotoLimits, PhotoRefused, open_upload
from tests.unit.metrics.pictures import blocks, encoded, png_bomb, with_exif

LIMITS = PhotoLimits(max_pixels=60_000_000, max_side=2048, min_side=512)


def refusal(data: bytes, limits: PhotoLimits = LIMITS) -> str:
    with pytest.raises(PhotoRefused) as refused:
        open_upload(data, limits)
    assert refused.value.reason.message
    assert refused.value.reason.fix
    return refused.value.reason.code


def mean_colour(image: Image.Image) -> np.ndarray:
    return np.asarray(image).reshape(-1, 3).mean(0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_the_four_formats_become_one(format: str) -> None:
    clean, pixels = open_upload(encoded(blocks(), format), LIMITS)
    assert (clean.source_format, clean.width, clean.height) == (format, 640, 600)
    assert Image.open(io.BytesIO(clean.jpeg)).format == "JPEG"
    assert Image.open(io.BytesIO(clean.thumb)).format == "WEBP"
    assert np.abs(mean_colour(pixels) - mean_colour(blocks())).max() < 3


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_and_no_metadata_survives(format: str) -> None:
    image = blocks(width=600, height=400)
    clean, pixels = open_upload(with_exif(image, 6, format), LIMITS)
    assert (clean.width, clean.height) == (400, 600)
    expected = image.transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(pixels, np.int16) - np.asarray(expected, np.int16)).mean() < 6
    for stored in (clean.jpeg, clean.thumb):
        opened = Image.open(io.BytesIO(stored))
        assert not opened.getexif()
        assert "icc_profile" not in opened.info
        assert b"Secret Camera" not in stored
        assert b"Exif" not in stored


def test_a_file_that_lies_about_its_name_is_judged_by_its_content() -> None:
    assert refusal(b"Dear diary, this is not a picture." * 100) == "photo/not-a-photo"
    assert refusal(encoded(blocks(), "GIF")) == "photo/not-a-photo"
    assert refusal(b"") == "photo/empty"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_a_truncated_file_is_refused(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8))
    whole = encoded(noise, format)
    assert refusal(whole[: len(whole) // 2]) == "photo/damaged"


def test_a_bomb_is_refused_by_its_header() -> None:
    assert refusal(png_bomb()) == "photo/too-many-pixels"


def test_the_limit_on_pixels_is_exact() -> None:
    image = blocks(width=1000, height=1000)
    assert refusal(encoded(image), PhotoLimits(max_pixels=999_999)) == "photo/too-many-pixels"
    assert open_upload(encoded(image), PhotoLimits(max_pixels=1_000_000))[0].width == 1000


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
def test_moving_pictures_are_refused(format: str) -> None:
    data = encoded(blocks(0), format, save_all=True, append_images=[blocks(1), blocks(2)])
    assert refusal(data) == "photo/animated"


def test_cmyk_and_grey_come_out_in_srgb() -> None:
    for mode in ("CMYK", "L"):
        _, pixels = open_upload(encoded(blocks().convert(mode)), LIMITS)
        expected = blocks().convert(mode).convert("RGB")
        assert pixels.mode == "RGB"
        assert np.abs(mean_colour(pixels) - mean_colour(expected)).max() < 3


def test_sixteen_bit_keeps_its_tones() -> None:
    ramp = np.linspace(0, 65535, 600, dtype=np.uint16)[None].repeat(600, 0)
    _, pixels = open_upload(encoded(Image.fromarray(ramp), "PNG"), LIMITS)
    row = np.asarray(pixels.convert("L"))[300]
    assert row[0] <= 1
    assert abs(int(row[300]) - 128) <= 2
    assert row[-1] >= 254


def test_transparency_lies_on_white() -> None:
    image = blocks().convert("RGBA")
    image.putalpha(0)
    for data in (encoded(image, "PNG"), encoded(image.convert("P"), "PNG", transparency=0)):
        _, pixels = open_upload(data, LIMITS)
        assert pixels.mode == "RGB"
    _, pixels = open_upload(encoded(image, "PNG"), LIMITS)
    assert mean_colour(pixels).min() > 250


def test_the_embedded_profile_is_honoured() -> None:
    red = Image.new("RGB", (600, 600), (200, 60, 60))
    _, swapped = open_upload(encoded(red, "PNG", icc_profile=red_is_blue()), LIMITS)
    assert np.abs(mean_colour(swapped) - (60, 60, 200)).max() < 12


def test_a_broken_profile_is_ignored() -> None:
    red = Image.new("RGB", (600, 600), (200, 60, 60))
    _, kept = open_upload(encoded(red, "PNG", icc_profile=b"not a profile"), LIMITS)
    assert np.abs(mean_colour(kept) - (200, 60, 60)).max() <= 2


def red_is_blue() -> bytes:
    """An sRGB profile whose red and blue primaries have changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmp_").replace(b"bXYZ", b"rXYZ").replace(b"tmp_", b"bXYZ")


def test_large_pictures_shrink_to_the_longest_side() -> None:
    clean, _ = open_upload(encoded(blocks(width=3000, height=1500)), PhotoLimits(max_side=1024))
    assert (clean.width, clean.height, clean.source_width) == (1024, 512, 3000)
    assert max(Image.open(io.BytesIO(clean.thumb)).size) == 384

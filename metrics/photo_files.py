"""An uploaded file → clean pixels: allowlisted formats by content, sRGB, upright, resized, and no byte of the original kept."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, ImageOps

from core.words import PhotoVerdict

pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF")
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
THUMB_SIDE = 384  # pixels; twice the size of a card on a phone


@dataclass(frozen=True)
class Reason:
    """Why a photo is not simply good, and what the customer can do about it. ``verdict`` is what this reason alone would give."""

    code: str
    message: str
    fix: str
    verdict: PhotoVerdict = PhotoVerdict.REJECTED

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message, "fix": self.fix, "verdict": str(self.verdict)}


class PhotoRefused(ValueError):
    """The file cannot become a photo. ``reason`` is for the customer to read."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.reason = Reason(code, message, fix)


@dataclass(frozen=True)
class PhotoLimits:
    """``max_pixels`` of the file as sent; ``max_side`` of the stored picture; ``min_side`` that training needs (all in pixels)."""

    max_pixels: int = 60_000_000
    max_side: int = 2048
    min_side: int = 512


@dataclass(frozen=True)
class CleanPhoto:
    """A re-encoded picture without metadata. ``width`` and ``height`` are of ``jpeg``; ``thumb`` is a WebP of at most 384 px;
    ``source_width`` × ``source_height`` is what was sent, before turning."""

    jpeg: bytes
    thumb: bytes
    width: int
    height: int
    source_format: str
    source_width: int
    source_height: int


def open_upload(data: bytes, limits: PhotoLimits) -> tuple[CleanPhoto, Image.Image]:
    """The clean photo and its pixels (RGB). Raises :class:`PhotoRefused`. Untrusted bytes: call it through ``metrics.photo_pool``."""
    image = _opened(data, limits.max_pixels)
    source_format = (image.format or "").replace("MPO", "JPEG")
    width, height = image.size  # before decoding, which may shrink a JPEG
    upright = _decoded(image, limits.max_side)
    jpeg, thumb = _encoded(upright)
    clean = CleanPhoto(jpeg, thumb, upright.width, upright.height, source_format, width, height)
    return clean, upright


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise PhotoRefused("photo/empty", "The file is empty.", "Choose the photo again; the copy on this device may not be complete.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError):
        raise _too_many_pixels(max_pixels) from None
    except Exception as error:  # plugins raise whatever a broken header makes them raise
        raise _unreadable_header(data) from error
    if image.width * image.height > max_pixels:
        raise _too_many_pixels(max_pixels, image.size)
    if image.format in ("WEBP", "PNG") and getattr(image, "is_animated", False):
        raise PhotoRefused(
            "photo/animated",
            "This is a moving picture; a training needs still photos.",
            "Save one frame as a JPEG or PNG and upload that.",
        )
    return image


def _too_many_pixels(max_pixels: int, size: tuple[int, int] | None = None) -> PhotoRefused:
    found = f"This picture is {size[0]:,} × {size[1]:,} pixels" if size else "This picture has far too many pixels"
    return PhotoRefused(
        "photo/too-many-pixels",
        f"{found}; the limit is {max_pixels // 1_000_000} megapixels.",
        "Export it smaller: 2,048 pixels on the long side is plenty.",
    )


def _unreadable_header(data: bytes) -> PhotoRefused:
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or data[8:12] == b"WEBP" or data[4:12] in (b"ftypheic", b"ftypheix"):
        return _damaged()
    return PhotoRefused(
        "photo/not-a-photo",
        "This file is not a photo in a format that we read, whatever its name says.",
        "Send a JPEG, PNG, WebP or HEIC file.",
    )


def _damaged() -> PhotoRefused:
    return PhotoRefused(
        "photo/damaged",
        "The file is damaged or incomplete: the picture breaks off.",
        "Copy it again from the camera or phone, or send another photo.",
    )


def _decoded(image: Image.Image, max_side: int) -> Image.Image:
    """sRGB pixels, upright, at most ``max_side`` long. The order matters: the profile belongs to the stored pixels and mode."""
    scale = max_side / max(image.size)
    if image.format == "JPEG" and scale < 1:  # decode at 1/2, 1/4, 1/8: a 60-megapixel JPEG then needs little memory
        image.draft(image.mode, (round(image.width * scale), round(image.height * scale)))
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # OSError, EOFError, SyntaxError, struct.error …: all mean a broken file
        raise _damaged() from error
    profile = image.info.get("icc_profile")
    orientation = image.getexif().get(0x0112, 1)
    pixels = image.copy()
    pixels.info = {}
    pixels = _to_srgb(_eight_bit(pixels), profile)
    pixels.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return _turned(pixels, orientation)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey → 8-bit by the high byte (Pillow's own conversion clips at 255); palettes and masks to plain colour."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA"):
        return image.convert("RGBA")
    return image.convert("L") if image.mode == "1" else image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Colours through the embedded profile where it fits the mode; transparency over white."""
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    base = image.convert({"LA": "L", "RGBA": "RGB", "La": "L", "RGBa": "RGB"}.get(image.mode, image.mode))
    colour = _through_profile(base, profile)
    if alpha is None:
        return colour
    white = Image.new("RGB", colour.size, "white")
    white.paste(colour, mask=alpha)
    return white


def _through_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            converted = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), _SRGB, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a broken profile is no reason to refuse a photo: read the numbers as they are
        if converted is not None:
            return converted
    return image.convert("RGB")


_TURNS = {
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_270],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_90],
}


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    for turn in _TURNS.get(orientation, []):
        image = image.transpose(turn)
    return image


def _encoded(image: Image.Image) -> tuple[bytes, bytes]:
    jpeg, thumb = io.BytesIO(), io.BytesIO()
    image.save(jpeg, "JPEG", quality=95, subsampling=0)
    small = ImageOps.contain(image, (THUMB_SIDE, THUMB_SIDE), Image.Resampling.LANCZOS) if max(image.size) > THUMB_SIDE else image
    small.save(thumb, "WEBP", quality=82, method=4)
    return jpeg.getvalue(), thumb.getvalue()

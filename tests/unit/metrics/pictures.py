"""Pictures of every sort, also broken and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def blocks(seed: int = 0, width: int = 640, height: int = 600) -> Image.Image:
    """Sharp coloured blocks, different for each seed."""
    colours = np.random.default_rng(seed).integers(20, 236, (20, 20, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_exif(image: Image.Image, orientation: int, format: str = "JPEG") -> bytes:
    """Orientation, a camera's name and a place on earth."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Secret Camera"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    return encoded(image, format, exif=exif)


def png_bomb(side: int = 40_000) -> bytes:
    """A few bytes whose header promises ``side``² pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

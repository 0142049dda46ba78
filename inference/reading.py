"""From a file to an adapter in memory. A file as trainings write it is read where it will lie, a piece a thread, without a copy between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import torch

from diffusion import lora
from diffusion.loading import BaseModel
from inference.loaded import LoadedAdapter, shares, views_in

READERS = 8  # threads
HEADER_SIZE = 8  # bytes that say how long the header after them is (the format of safetensors)


def read_adapter(base: BaseModel, path: Path, adapter_id: str) -> LoadedAdapter:
    """A file, refused with :class:`core.errors.UserError` unless it is a finite LoRA of this very base model."""
    allowed, pin = base.family.lora_allowlist(base.transformer), base.device.type == "cuda"
    outline, normalised = lora.outline(path)
    if normalised and all(weight.dtype == base.dtype for weight in outline.values()):
        lora.validate(outline, base.transformer, allowed)
        loaded = _as_it_lies(path, adapter_id, outline, pin)
    else:
        state, _ = lora.read(path, base.transformer, allowed, values=False)
        loaded = LoadedAdapter(adapter_id, state).packed(base.dtype, pin=pin)
    lora.require_finite(loaded.pieces)  # of few buffers by all cores at once, not of hundreds of small matrices
    return loaded


def _as_it_lies(path: Path, adapter_id: str, outline: lora.State, pin: bool) -> LoadedAdapter:
    """``outline``: on the meta device, in the order of the file's bytes, which follow the header without a gap."""
    parts = list(shares(outline))
    sizes = [sum(outline[key].nbytes for key in keys) for keys in parts]
    dtype = next(iter(outline.values())).dtype
    with _opened(path) as file, ThreadPoolExecutor(min(READERS, len(parts))) as pool:
        first = HEADER_SIZE + int.from_bytes(file.read(HEADER_SIZE), "little")
        starts = accumulate(sizes[:-1], initial=first)
        pieces = list(pool.map(lambda start, size: _piece(file.fileno(), start, size, dtype, pin), starts, sizes))
    state = {key: view for keys, piece in zip(parts, pieces, strict=True) for key, view in views_in(piece, keys, outline)}
    return LoadedAdapter(adapter_id, state, tuple(pieces))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise lora.bad_file(f"it cannot be read ({error})") from error


def _piece(file: int, start: int, size: int, dtype: torch.dtype, pin: bool) -> torch.Tensor:
    """``size`` bytes of a file from ``start`` on."""
    piece = torch.empty(size // dtype.itemsize, dtype=dtype, pin_memory=pin)
    room, done = piece.view(torch.uint8).numpy().data, 0
    while done < size:
        count = os.preadv(file, [room[done:]], start + done)
        if not count:
            raise lora.bad_file("it ends too early")
        done += count
    return piece

"""Whether a file is the one that its digest names, asked of large files again and again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from inference.lru import ByteLru

PIECE_BYTES = 2**24
CHUNK_BYTES = 2**20  # stays in a core's cache between reading and hashing
REMEMBERED_BYTES = 2**24  # of pieces' digests: some fifty thousand adapters of 150 MB

Verdict = Callable[[], bool]  # waits for the answer


class Digests:
    """A SHA-256 runs on one core from a file's first byte to its last. So when a file was whole once, the digests of its pieces are kept in
    this process, and the next time they are taken side by side. Safe for threads."""

    def __init__(self, threads: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="digest")
        self._pieces: ByteLru[list[bytes]] = ByteLru(REMEMBERED_BYTES)
        self._lock = threading.Lock()

    def start(self, path: Path, sha256: str) -> Verdict:
        """Begins to read. The verdict raises ``FileNotFoundError`` if the file is gone by then."""
        with self._lock:
            known = self._pieces.get(sha256)
        whole = self._pool.submit(_hex, path) if known is None else None  # before its pieces: it takes longest
        pieces = [self._pool.submit(_of_piece, path, start) for start in range(0, path.stat().st_size, PIECE_BYTES)]
        if whole:
            return partial(self._first, sha256, whole, pieces)
        return lambda: [piece.result() for piece in pieces] == known

    def _first(self, sha256: str, whole: Future[str], pieces: list[Future[bytes]]) -> bool:
        if whole.result() != sha256:
            return False
        found = [piece.result() for piece in pieces]
        with self._lock:
            self._pieces.put(sha256, found, sum(map(len, found)))
        return True


def _hex(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_piece(path: Path, start: int) -> bytes:
    digest, room = hashlib.sha256(), bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = PIECE_BYTES
        while count := file.readinto(memoryview(room)[:left]):
            digest.update(memoryview(room)[:count])
            left -= count
    return digest.digest()

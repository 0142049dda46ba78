"""Untrusted files are decoded in child processes with limits: one that is killed costs one photo its answer, not the server its life.

A child reads frames from its stdin and answers on stdout: 4 bytes of length (big-endian), a JSON head, then the bytes that it names.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import struct
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import IO, Any

from core.words import PhotoVerdict, SubjectKind
from metrics.photo_files import CleanPhoto, PhotoLimits, PhotoRefused, Reason
from metrics.quality import PhotoReport, inspect, open_upload

_PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "HOME", "VIRTUAL_ENV")  # and no secret of ours


def check_upload(data: bytes, kind: SubjectKind, limits: PhotoLimits) -> tuple[CleanPhoto, PhotoReport]:
    """Open and judge in this very process. Raises :class:`PhotoRefused`. Only for bytes that are trusted, and for the child itself."""
    clean, pixels = open_upload(data, limits)
    return clean, inspect(pixels, kind, limits.min_side)


class PhotoPool:
    """A few persistent children. ``check`` may be called from many threads; close at shutdown.

    ``time_s``: wall-clock seconds a photo; ``memory_bytes``: what a child may map beyond its libraries.
    """

    def __init__(self, children: int = 2, time_s: float = 20.0, memory_bytes: int = 2 * 2**30) -> None:
        self._time_s, self._memory = time_s, memory_bytes
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(children):
            self._idle.put(None)  # started when first needed
        self._children: set[_Child] = set()

    def check(self, data: bytes, kind: SubjectKind, limits: PhotoLimits) -> tuple[CleanPhoto, PhotoReport]:
        """The clean photo and its report. Raises :class:`PhotoRefused`, also where the child died or took too long."""
        child = self._idle.get()
        try:
            child = child if child and child.alive else self._start()
            return child.check(data, kind, limits)
        except _ChildDied as died:
            self._bury(child)
            child = None
            raise _refusal_for(died) from died
        finally:
            self._idle.put(child)

    def close(self) -> None:
        for child in list(self._children):
            self._bury(child)

    def _start(self) -> _Child:
        child = _Child(self._time_s, self._memory)
        self._children.add(child)
        return child

    def _bury(self, child: _Child | None) -> None:
        if child is not None:
            self._children.discard(child)
            child.kill()


class _ChildDied(Exception):
    def __init__(self, timed_out: bool) -> None:
        super().__init__("timed out" if timed_out else "killed")
        self.timed_out = timed_out


def _refusal_for(died: _ChildDied) -> PhotoRefused:
    message = "Reading this file took too long." if died.timed_out else "Reading this file needed more memory than a photo should."
    return PhotoRefused("photo/too-costly", message, "Export it as a JPEG of at most 4,000 pixels and upload that.")


class _Child:
    """One process and the frames to and from it; used by one thread at a time."""

    def __init__(self, time_s: float, memory_bytes: int) -> None:
        self._time_s = time_s
        arguments = [sys.executable, "-m", "metrics.photo_pool", str(memory_bytes), str(int(time_s))]
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def check(self, data: bytes, kind: SubjectKind, limits: PhotoLimits) -> tuple[CleanPhoto, PhotoReport]:
        timed_out = threading.Event()
        timer = threading.Timer(self._time_s, self._stop, [timed_out])
        timer.start()
        try:
            assert self._process.stdin and self._process.stdout
            _write(self._process.stdin, {"kind": str(kind), "limits": asdict(limits)}, data)
            head, parts = _read(self._process.stdout)
        except (OSError, EOFError) as error:
            raise _ChildDied(timed_out.is_set()) from error
        finally:
            timer.cancel()
        return _answer(head, parts)

    def _stop(self, timed_out: threading.Event) -> None:
        timed_out.set()
        self._process.kill()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def _answer(head: dict[str, Any], parts: list[bytes]) -> tuple[CleanPhoto, PhotoReport]:
    if refused := head.get("refused"):
        raise PhotoRefused(refused["code"], refused["message"], refused["fix"])
    report = head["report"]
    reasons = [Reason(**reason | {"verdict": PhotoVerdict(reason["verdict"])}) for reason in report["reasons"]]
    verdict = PhotoVerdict(report["verdict"])
    return CleanPhoto(jpeg=parts[0], thumb=parts[1], **head["clean"]), PhotoReport(**report | {"reasons": reasons, "verdict": verdict})


def _write(stream: IO[bytes], head: dict[str, Any], *parts: bytes) -> None:
    text = json.dumps(head | {"parts": [len(part) for part in parts]}).encode()
    stream.write(struct.pack(">I", len(text)) + text)
    for part in parts:
        stream.write(part)
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    head = json.loads(_exactly(stream, struct.unpack(">I", _exactly(stream, 4))[0]))
    return head, [_exactly(stream, size) for size in head.pop("parts")]


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _serve(memory_bytes: int, time_s: int) -> None:
    """The child's life. An out-of-memory or a crash in a decoder ends it; the parent starts another."""
    limit_address_space(memory_bytes)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            head, (data,) = _read(requests)
        except EOFError:
            return
        _limit_processor_time(time_s)
        try:
            answer = _checked(data, SubjectKind(head["kind"]), PhotoLimits(**head["limits"]))
        except MemoryError:
            sys.exit("a photo needed too much memory")  # the parent says so to the customer and starts a fresh child
        _write(answers, *answer)


def _checked(data: bytes, kind: SubjectKind, limits: PhotoLimits) -> tuple[Any, ...]:
    try:
        clean, report = check_upload(data, kind, limits)
    except PhotoRefused as refused:
        return ({"refused": refused.reason.as_dict()},)
    about = {key: value for key, value in asdict(clean).items() if key not in ("jpeg", "thumb")}
    return {"clean": about, "report": report.as_dict()}, clean.jpeg, clean.thumb


def limit_address_space(memory_bytes: int) -> None:
    """On top of what the libraries have mapped already; no core dumps of customers' photos."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, mapped + memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_processor_time(time_s: int) -> None:
    """``time_s`` more seconds from now: the limit counts a process's whole life, so it is moved for each photo."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + time_s + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


if __name__ == "__main__":
    import cv2

    cv2.setNumThreads(1)
    _serve(int(sys.argv[1]), int(sys.argv[2]))

"""The pictures that a judge of photos takes for somebody else's, beside what would tell who it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from benchmarks.isolation_subjects import Asked, Subject
from lab.report import Row, contact_sheet

COLUMNS = ("portrait", "its adapter alone", "the world’s drawing", "… of whom photos say", "a photo", "… of whom photos say")
PHOTO = 2


def missed(verdicts: Mapping[str, Mapping[str, Any]]) -> list[tuple[int, str, int]]:
    """Subject, style and whom it is taken for: by any of the judges, each picture once."""
    found: dict[tuple[int, str], int] = {}
    for verdict in verdicts.values():
        for subject, style, other in verdict["misses"]:
            found.setdefault((subject, style), other)
    return [(*which, other) for which, other in sorted(found.items())]


def sheet_of_misses(
    asked: Sequence[Asked],
    portraits: Sequence[Image.Image],
    alone: Sequence[Image.Image],
    photos: Mapping[Subject, Sequence[Image.Image]],
    misses: Sequence[tuple[int, str, int]],
) -> Image.Image:
    """One row for each of ``misses``; ``portraits`` and ``alone``: one a request."""
    place = {(one.subject.number, one.style): n for n, one in enumerate(asked)}
    rows = []
    for number, style, other in misses:
        n = place[number, style]
        mine = asked[n].subject
        theirs = replace(mine, number=other)
        drawings = [Asked(subject, style).drawn_by_the_world(0) for subject in (mine, theirs)]
        images = [portraits[n], alone[n], *drawings, photos[mine][PHOTO], photos[theirs][PHOTO]]
        rows.append(Row(f"{mine.kind} {number}", f"{style}; photos say {theirs.kind} {other}", images))
    return contact_sheet("Nearest to somebody else’s photos", [], COLUMNS, rows, side=200)

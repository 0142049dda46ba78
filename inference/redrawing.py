"""Pictures that are not like their subject are drawn again, from other seeds; of all tries the most alike is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from inference.requests import SEED_LIMIT, RenderRequest
from inference.scoring import Picture

SHARE = 0.6  # of the likeness that is usual for the adapter, or for the style: less is a failure
KNOWN, RECENT = 8, 64  # pictures of a style from which on something is usual, and how many are remembered

Draw = Callable[[int, int], Sequence[Picture | None]]  # round (from 1) and how many -> so many pictures; None: refused by the safety check


def least_likeness(below: float, card: Mapping[str, Any]) -> float:
    """``below``, or less for an adapter that scored little itself when its checkpoint was chosen: what it cannot do is not tried again and
    again."""
    own = card.get("scores", {}).get("likeness", {}).get("normalised")
    return below if own is None else max(0.0, min(below, SHARE * own))


class Usual:
    """What pictures of each style score at their first try, as far as this worker has seen: where a style hides who it is, another seed
    does not help, and not each of its pictures should be drawn twice."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}

    def least(self, style: str | None, below: float) -> float:
        """``below``, or less if the style's pictures usually score little."""
        seen = self._seen.get(style or "", ())
        return below if len(seen) < KNOWN else min(below, SHARE * median(seen))

    def note(self, style: str | None, pictures: Sequence[Picture]) -> None:
        """Free prompts have no style: nothing is usual about them."""
        if style:
            seen = self._seen.setdefault(style, deque(maxlen=RECENT))
            seen.extend(picture.likeness for picture in pictures if picture.likeness is not None)


def unlike(pictures: Sequence[Picture], least: float) -> list[int]:
    """Which have a likeness, and one below ``least``."""
    return [n for n, picture in enumerate(pictures) if picture.likeness is not None and picture.likeness < least]


def redraw(pictures: Sequence[Picture], least: float, rounds: int, draw: Draw) -> tuple[list[Picture], int]:
    """The pictures with the unlike ones replaced where a later try was more alike, and how many were drawn again."""
    best, tries = list(pictures), 0
    for number in range(1, rounds + 1):
        failed = unlike(best, least)
        if not failed:
            break
        tries += len(failed)
        for n, other in zip(failed, draw(number, len(failed)), strict=True):
            if other is not None and (other.likeness or 0.0) > (best[n].likeness or 0.0):
                best[n] = other
    return best, tries


def other_seeds(request: RenderRequest, number: int, count: int) -> RenderRequest:
    """For round ``number``: the seeds that follow the request's own and those of the rounds before, so that a repeated job repeats them."""
    return replace(request, seed=(request.seed + number * request.count) % (SEED_LIMIT - 64), count=count)

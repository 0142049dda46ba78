"""What the doctor looks at, one module for each kind of thing. Each check yields findings; what it raises becomes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """``level``: ``ok``; ``warn``: it works, and the operator should know; ``fail``: it does not work. ``fix`` says what to do."""

    what: str
    level: Level
    said: str
    fix: str = ""


def good(what: str, said: str) -> Finding:
    return Finding(what, "ok", said)


def warning(what: str, said: str, fix: str) -> Finding:
    return Finding(what, "warn", said, fix)


def failure(what: str, said: str, fix: str) -> Finding:
    return Finding(what, "fail", said, fix)

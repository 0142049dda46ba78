"""How many processor cores this process may keep busy. A container's share of them shows in no processor count."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """At least 1: the cores that the process may run on, or what its control groups (either version) grant of them, rounded up.

    Threads beyond that are stopped in the middle of common work, and the others wait for them.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(share) for share in _shares(cgroups, own))]))


def _shares(cgroups: Path, own: Path) -> Iterator[float]:
    """Cores that each group around the process may use; a group without a limit says nothing."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        for folder in _upwards(root, path):
            quota, period = _limit(folder) if controllers else _unified_limit(folder)
            if quota.isdigit() and period.isdigit():
                yield int(quota) / int(period)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it. Within a container the path may be the host's: then only the root is there."""
    folder = root / path.lstrip("/")
    yield from (place for place in (folder, *folder.parents) if place.is_relative_to(root) and place.is_dir())


def _limit(folder: Path) -> tuple[str, str]:
    return _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()


def _unified_limit(folder: Path) -> tuple[str, str]:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    return quota, period


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""

"""What the container grants this process: a share of the cores, and of main memory, that no count of the machine's shows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
UNIFIED_MEMORY = ("memory.max", "memory.current", "inactive_file")
MEMORY = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def usable_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """At least 1: the cores that the process may run on, or what its control groups (either version) grant of them, rounded up.

    Threads beyond that are stopped in the middle of common work, and the others wait for them.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [_share(folder, unified) for folder, unified in _groups("cpu", cgroups, own)]
    return max(1, min([allowed, *(math.ceil(share) for share in shares if share is not None)]))


def free_main_memory(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Bytes that the process can still take: what the machine has, or what its control groups leave. Files' pages can be had back."""
    left = [_left(folder, unified) for folder, unified in _groups("memory", cgroups, own)]
    return max(0, min([psutil.virtual_memory().available, *(some for some in left if some is not None)]))


def _groups(controller: str, cgroups: Path, own: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of the groups around the process that limit this, and whether they are of version 2.

    Within a container the path may be the host's: then only the root is there.
    """
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        folder = root / path.lstrip("/")
        yield from ((place, not controllers) for place in (folder, *folder.parents) if place.is_relative_to(root) and place.is_dir())


def _share(folder: Path, unified: bool) -> float | None:
    if unified:
        quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    else:
        quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _left(folder: Path, unified: bool) -> int | None:
    limit_file, used_file, pages_of_files = UNIFIED_MEMORY if unified else MEMORY
    limit, used = _text(folder / limit_file).strip(), _text(folder / used_file).strip()
    if not (limit.isdigit() and used.isdigit()):
        return None
    stat = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines())
    return int(limit) - int(used) + int(stat.get(pages_of_files, 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""

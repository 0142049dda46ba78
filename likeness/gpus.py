"""Which GPUs the children of a worker own: one each. Read without opening CUDA, which the parent of a worker must never do."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from itertools import takewhile

from celery.signals import worker_process_init
from celery.utils.log import current_process_index

VISIBLE = "CUDA_VISIBLE_DEVICES"
LISTED = re.compile(
    r"^(?P<slice>[ \t]*)\S.*\(UUID: (?P<uuid>[^)]+)\)", re.MULTILINE
)  # of `nvidia-smi -L`: a GPU a line, its slices indented
DRIVER_WITHIN_S = 30


def visible_gpus() -> list[str]:
    """By the names that ``CUDA_VISIBLE_DEVICES`` takes: those it says, else all that the driver lists (a GPU in MIG slices: those)."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return listed_gpus(_driver_list())
    return list(takewhile(lambda gpu: gpu and gpu != "-1", (part.strip() for part in named.split(","))))  # CUDA stops there as well


def listed_gpus(listing: str) -> list[str]:
    """UUIDs of the list that the driver prints."""
    found: list[str] = []
    whole = False  # whether the last of them is a GPU with no slice so far
    for line in LISTED.finditer(listing):
        if line["slice"] and whole:
            found.pop()
        found.append(line["uuid"])
        whole = not line["slice"]
    return found


def deal(gpus: Sequence[str]) -> None:
    """Each child that this process forks from now on sees one of them alone; the one that replaces it sees the same. Call it before the
    app is made, whose children begin to load at once."""

    @worker_process_init.connect(weak=False)
    def own(**_: object) -> None:
        os.environ[VISIBLE] = gpus[current_process_index(base=0)]


def _driver_list() -> str:
    try:
        ran = subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, text=True, timeout=DRIVER_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout if ran.returncode == 0 else ""

"""The command line as it is, but that one job in it loses its GPU: the next that is under way while a file ``fault`` lies in the
service's folder. Run by tests as ``likeness`` is: ``python -m tests.integration.likeness.faulty_worker worker train``.

The product knows nothing of it: a job's report of its progress is wrapped before the command begins.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from core.words import JobKind
from likeness import cli
from storage.leases import Lease

IN_THE_MIDDLE = 2  # steps that are done by then: of a fit that reports every other one, and of a picture


def break_device() -> None:
    """CUDA's own fault: a kernel that reads outside of its tensor. Nothing is raised here: whatever the job asks of the GPU next meets it,
    as do all later calls of this process."""
    import torch

    torch.zeros(4, device="cuda")[torch.tensor([10**6], device="cuda")]
    time.sleep(0.5)  # the kernel has run by then: the very next call meets it, not a later one of a library with words of its own


def breaking_once(report: Callable[..., None], flag: Path) -> Callable[..., None]:
    @wraps(report)
    def reported(lease: Lease, **snapshot: Any) -> None:
        report(lease, **snapshot)
        steps = snapshot.get("step", 0) if "loss" in snapshot or lease.kind == JobKind.PORTRAIT else 0
        if steps >= IN_THE_MIDDLE and flag.exists():
            flag.unlink()
            break_device()

    return reported


def main() -> None:
    Lease.progress = breaking_once(Lease.progress, Path(os.environ["LIKENESS_VAR_DIR"]) / "fault")  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()

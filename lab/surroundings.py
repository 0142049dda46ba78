"""Where a figure was measured: versions, hardware, base model, encoders, peak memory. No figure is printed without it."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from diffusion.devices import describe
from trainer.bench import Bench
from trainer.cards import versions


def surroundings(bench: Bench) -> dict[str, Any]:
    """JSON-ready."""
    base = bench.base
    return {
        "base_model": {
            "name": Path(base.path).name,
            "family": base.family.name,
            "fingerprint": base.fingerprint,
            "precision": base.precision.name,
        },
        "encoders": {"identity": bench.identity.id, "text_image": bench.text_image.id},
        "hardware": hardware(base.device),
        "versions": {"python": platform.python_version()} | versions(),
    }


def hardware(device: torch.device) -> dict[str, Any]:
    return {
        "device": describe(device),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def peak_memory(device: torch.device) -> dict[str, float]:
    """GiB since the process began: resident, and on the GPU if there is one."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes there, kilobytes elsewhere
    peak = {"resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)}
    return peak | ({"gpu_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2)} if device.type == "cuda" else {})


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()

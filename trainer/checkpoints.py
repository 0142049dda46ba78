"""Checkpoints on disk: the newest resumable state, and the candidate adapters. Safetensors and JSON, nothing that can run code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from diffusion import lora

FORMAT = 2  # of a state's tensors: a state of another format cannot be resumed from
STATE_FILE = "state.safetensors"
CANDIDATE = "candidate-{step:06d}.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A point from which a run goes on: all tensors of the trainee after ``step`` steps."""

    step: int
    tensors: dict[str, torch.Tensor]


def step_of(path: Path) -> int:
    """Of a checkpoint file."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return int(file.metadata()["step"])


class CheckpointFolder:
    """``identity`` (seed, recipe, data digest, base) must match, or what lies there belongs to another run and is ignored.

    ``make_room`` is told how many bytes are about to be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], make_room: Callable[[int], None] = lambda size: None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._make_room = folder, make_room
        self.identity = json.dumps({**identity, "format": FORMAT}, sort_keys=True)

    def save_state(self, step: int, tensors: dict[str, torch.Tensor]) -> Path:
        """Replaces the previous state; the old one stays whole until the new one is."""
        return self._write(STATE_FILE, tensors, {"step": str(step)})

    def newest(self) -> Checkpoint | None:
        """The state to resume from; None if there is none, it is broken, or it is another run's."""
        try:
            with safe_open(self.folder / STATE_FILE, framework="pt", device="cpu") as file:
                header = file.metadata() or {}
                if header.get("identity") != self.identity:
                    return None
                return Checkpoint(int(header["step"]), {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError):
            return None

    def save_candidate(self, step: int, state: lora.State) -> Path:
        return self._write(CANDIDATE.format(step=step), state, {"step": str(step)})

    def candidates(self) -> dict[int, Path]:
        """Candidate adapters of this run by step, ascending."""
        found = {}
        for path in sorted(self.folder.glob("candidate-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
            if header.get("identity") == self.identity:
                found[int(header["step"])] = path
        return found

    def _write(self, name: str, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> Path:
        part = self.folder / f"{name}.part"
        self._make_room(sum(tensor.nbytes for tensor in tensors.values()))
        save_file(tensors, part, metadata={"format": "pt", "identity": self.identity, **header})
        os.replace(part, self.folder / name)
        return self.folder / name

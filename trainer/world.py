"""The processes that share a fit's batches: one, or as many as ``torchrun`` or ``accelerate launch`` started."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed
from accelerate.state import PartialState

from diffusion.loading import BaseModel
from trainer.draws import Draw


@dataclass(frozen=True)
class World:
    """This process's place. With one process nothing is exchanged."""

    rank: int = 0
    size: int = 1

    @classmethod
    def open(cls, base: BaseModel) -> World:
        state = PartialState(cpu=base.device.type == "cpu")
        return cls(state.process_index, state.num_processes)

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, draw: Draw) -> Draw:
        return draw if self.size == 1 else draw.share(self.rank, self.size)

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over all processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
            tensor /= self.size
        return tensor

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            PartialState().wait_for_everyone()

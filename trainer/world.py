"""The processes that share a fit's batches, as accelerate sees them: one, or as many as ``accelerate launch`` or ``torchrun`` started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list, patch_environment

from core.errors import UserError
from diffusion.devices import in_group
from diffusion.loading import BaseModel
from trainer.draws import Draw

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process's place. With one process nothing is exchanged."""

    accelerator: Accelerator

    @classmethod
    def open(cls, base: BaseModel) -> World:
        """On the base's device and in its type; :class:`core.errors.UserError` if the group was dealt other devices."""
        return cls(_accelerator(base.device, base.dtype))

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def size(self) -> int:
        return self.accelerator.num_processes

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.accelerator.is_main_process

    def agreed(self, value: Value) -> Value:
        """The main process's, in all of them."""
        return value if self.size == 1 else broadcast_object_list([value])[0]

    def share(self, draw: Draw) -> Draw:
        return draw if self.size == 1 else draw.share(self.rank, self.size)

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over all processes, in place."""
        return tensor if self.size == 1 else tensor.copy_(self.accelerator.reduce(tensor, "mean"))

    def prepare(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Its state is made beside its parameter, so there is nothing to place. accelerate keeps it for as long as this world lives."""
        return self.accelerator.prepare_optimizer(optimizer, device_placement=False)

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()

    def as_dict(self) -> dict[str, Any]:
        """For the card."""
        return {"processes": self.size, "mixed_precision": self.accelerator.mixed_precision}


def _accelerator(device: torch.device, dtype: torch.dtype) -> Accelerator:
    """``mixed_precision`` says that products are in bf16 over float32 master weights. It is always given, or a launcher's own setting would
    count (fp16 puts a gradient scaler into the optimizer). Its autocast is not put around the passes: base, activations and slots are in
    that type already, fp8 and NF4 layers cast by themselves, and autocast would only add casts (norms to float32 and back)."""
    precision = "bf16" if dtype is torch.bfloat16 else "no"
    _forget_another(device, precision)
    with patch_environment(**({} if in_group() else {"ACCELERATE_TORCH_DEVICE": str(device)})):
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    dealt = accelerator.device
    if dealt != device and {dealt.type, device.type} != {"cpu"}:
        fix = "Use LIKENESS_DEVICE=auto: each process then has a GPU of its own."
        raise UserError("training/device", f"This process was dealt {dealt}, but its base model is on {device}", fix)
    return accelerator


def _forget_another(device: torch.device, precision: str) -> None:
    """accelerate has one state a process, for one device and one precision. A worker has one base; who fits on several, one after another
    (benchmarks, tests), starts the state anew for each. Processes of a group stay connected, and keep their devices."""
    process, state = PartialState._shared_state, AcceleratorState._shared_state
    if process and not in_group() and process.get("device") != device:
        AcceleratorState._reset_state(reset_partial_state=True)
    elif state and state.get("_mixed_precision") != precision:
        AcceleratorState._reset_state()

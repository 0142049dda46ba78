"""Which device does the work, how much memory it has left, and which attention kernels are safe on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from accelerate.state import PartialState
from accelerate.utils import parse_flag_from_env
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.errors import UserError
from core.limits import usable_cores

GIB_HEADROOM = 8 * 2**30  # activations of a 1024² step with checkpointing, next to the weights


def pick_device(setting: str = "auto") -> torch.device:
    """``auto`` is this process's CUDA GPU, else the CPU (also under ``accelerate launch --cpu``); ``cuda`` is the same, but must be there.

    Never call this in a process that forks afterwards: it initialises CUDA.
    """
    if setting == "auto":
        return _own_gpu() if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU") else torch.device("cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise UserError("device/unknown", f"No such device: {setting}", "Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device/no-gpu", "No usable CUDA GPU", f"The setting asks for {setting}: install a CUDA build of torch, or use cpu."
        )
    return _own_gpu() if setting == "cuda" else device


def in_group() -> bool:
    """Whether ``accelerate launch`` or ``torchrun`` started this process to work with others."""
    return "LOCAL_RANK" in os.environ


def _own_gpu() -> torch.device:
    """The first; in a group accelerate deals the GPUs out, and connects the processes."""
    return PartialState().device if in_group() else torch.device("cuda", 0)


def use_threads(count: int = 0) -> None:
    """Threads of tensor work on the CPU; 0: torch's own choice, but no more than the container may use."""
    wanted = count or min(torch.get_num_threads(), usable_cores())
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on the device; a cap (``torch.cuda.set_per_process_memory_fraction``) counts."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        cap = torch.cuda.get_per_process_memory_fraction(device) * total - torch.cuda.memory_allocated(device)
        return int(min(free + reusable, cap))
    return psutil.virtual_memory().available


def capacity(device: torch.device) -> int:
    """Bytes of the whole GPU, whoever uses them now; a cap counts."""
    total = torch.cuda.get_device_properties(device).total_memory
    return int(total * torch.cuda.get_per_process_memory_fraction(device))


def broken(device: torch.device) -> bool:
    """Whether the device answers no more in this process: after a CUDA fault every later call fails, until the process is replaced.

    Also gives back what a failed attempt left in the allocator; running out of memory is no fault of the device.
    """
    if device.type != "cuda":
        return False
    try:
        torch.cuda.empty_cache()
        torch.ones(1, device=device).item()
        torch.cuda.synchronize(device)
    except torch.cuda.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False


def has_fp8(device: torch.device) -> bool:
    """Ada (8.9), Hopper (9.0) and later multiply fp8."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def describe(device: torch.device) -> str:
    """For cards and reports: the GPU's name, or the number of CPU threads that torch uses."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


# never cuDNN's: its backward pass has given NaN gradients on Hopper (pytorch#196678), or read outside its memory
TRAINING_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextmanager
def training_attention(device: torch.device) -> Iterator[None]:
    """Attention kernels with a sound backward pass. Leave the choice to torch for the forward alone."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(TRAINING_KERNELS, set_priority=True):
        yield

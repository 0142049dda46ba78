"""Frozen modules that live in main memory and visit the device while they are used."""

from __future__ import annotations

import torch
from torch import nn


class Visitor:
    """Weights that never change need not be copied back: the copy in main memory stays, and leaving costs nothing."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.home = [tensor.detach().to("cpu") for tensor in self._tensors()]

    def come(self, device: torch.device) -> None:
        with torch.inference_mode(False), torch.no_grad():  # whoever encodes a prompt may be in inference mode: the weights outlive it
            self.module.to(device)

    def leave(self) -> None:
        for tensor, at_home in zip(self._tensors(), self.home, strict=True):
            tensor.data = at_home

    def _tensors(self) -> list[torch.Tensor]:
        return [*self.module.parameters(), *self.module.buffers()]


def size(module: nn.Module) -> int:
    """Bytes of the weights."""
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())

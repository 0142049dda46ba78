"""Fitting the adapters in :class:`diffusion.lora_slots.LoraSlots`: float32 master weights and gradients, one flat row an adapter.

The layers multiply in the base's type (bf16), while the optimizer steps float32 weights: an update far below bf16's resolution is not lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from diffusion.lora_slots import LoraSlots


class SlotTraining:
    """``master`` and ``gradients`` [S, P] float32. Slots are independent: each has its own row, so its own optimizer, norm and average.

    One step: forward and backward over the batch, :meth:`collect`, clip and step each :meth:`parameter`, :meth:`publish`.
    """

    def __init__(self, slots: LoraSlots) -> None:
        self.slots = slots
        same = slots.weights.dtype is torch.float32
        self.master = slots.weights if same else slots.weights.float()
        self.gradients = torch.zeros_like(self.master)
        self.untouched = True  # since they were zeroed: the first batch can be copied in
        self._leaves = [parameter for layer in slots.layers() for parameter in (layer.lora_A, layer.lora_B)]
        self._views = [place.of(self.gradients) for place in slots.places]
        for leaf in self._leaves:
            leaf.requires_grad_(True)

    def parameter(self, slot: int) -> nn.Parameter:
        """The whole adapter as one flat parameter [P] for an optimizer; ``grad`` is its row of ``gradients``: never set it to None."""
        parameter = nn.Parameter(self.master[slot])
        parameter.grad = self.gradients[slot]
        return parameter

    def collect(self) -> None:
        """Adds what the backward pass left on the layers to ``gradients`` and clears it there."""
        self.add([leaf.grad for leaf in self._leaves])
        for leaf in self._leaves:
            leaf.grad = None

    def gradients_of(self, loss: torch.Tensor) -> Sequence[torch.Tensor | None]:
        """For :meth:`add`, without leaving anything on the layers: several losses can be followed back at the same time."""
        return torch.autograd.grad(loss, self._leaves, allow_unused=True)

    @torch.no_grad()
    def add(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """One for each A and B in turn, in the layers' type; None where a layer took no part."""
        pairs = [(view, own) for view, own in zip(self._views, gradients, strict=True) if own is not None]
        views, arrived = [view for view, _ in pairs], [gradient for _, gradient in pairs]
        if pairs and self.untouched:
            torch._foreach_copy_(views, arrived)  # converts in a few launches
        elif pairs:
            torch._foreach_add_(views, [gradient.float() for gradient in arrived])
        self.untouched = self.untouched and not pairs

    @torch.no_grad()
    def publish(self) -> None:
        """What the optimizers made of ``master`` reaches the layers."""
        if self.master is not self.slots.weights:
            self.slots.weights.copy_(self.master)

    @torch.no_grad()
    def adopt(self, slot: int) -> None:
        """After ``slots.start`` or ``slots.write``: the master row becomes what the slot holds."""
        if self.master is not self.slots.weights:
            self.master[slot].copy_(self.slots.weights[slot])

    def zero_gradients(self) -> None:
        self.gradients.zero_()
        self.untouched = True

    def close(self) -> None:
        """The layers need no gradients any more; the slots stay, with the weights that were published last."""
        for leaf in self._leaves:
            leaf.requires_grad_(False)
            leaf.grad = None

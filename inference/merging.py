"""Adapters folded into the frozen weights, which then cost nothing at each step; and the weights back, bit for bit.

W' = W + Σ s·B·A is taken from a pristine copy of W each time, so nothing accumulates; products and sums are float32, rounded once. The
storage stays the same, so a compiled graph stays valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from core.logs import get_logger
from diffusion.devices import GIB_HEADROOM, free_memory
from diffusion.lora_slots import LoraSlots, Place

log = get_logger("inference.merging")


@dataclass(frozen=True)
class Worn:
    """An adapter at a scale: ``place`` is its slot."""

    place: int
    id: str | None
    scale: float


class Foldable(Protocol):
    """A frozen layer of another kind than a plain linear one, that can take new weights [out, in] in its own storage."""

    def store_(self, weight: torch.Tensor) -> None: ...


@dataclass
class Merging:
    """``from_steps``: folding pays from so many steps on; None: never. Needs memory for a second copy of the layers' weights."""

    from_steps: int | None
    folded: tuple[Worn, ...] = ()
    _pristine: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    _layers: dict[str, nn.Linear] = field(default_factory=dict, repr=False)

    def pays(self, steps: int) -> bool:
        return self.from_steps is not None and steps >= self.from_steps

    @torch.no_grad()
    def fold(self, slots: LoraSlots, worn: Sequence[Worn]) -> None:
        """What the slots hold, at these scales, becomes part of the layers' weights."""
        if tuple(worn) == self.folded:
            return
        self._keep_pristine(slots)
        self.folded = (Worn(-1, None, 0.0),)  # should the fold fail halfway, the weights are neither pristine nor this adapter's
        down, up = ({place.module: place for place in slots.places if place.side == side} for side in "AB")
        for module, pristine in self._pristine.items():
            pairs = [_pair(slots, down[module], up[module], one) for one in worn]
            add_products(pristine, pairs, out=self._layers[module].weight)
        self.folded = tuple(worn)

    @torch.no_grad()
    def restore(self) -> None:
        if self.folded:
            torch._foreach_copy_([self._layers[module].weight for module in self._pristine], list(self._pristine.values()))
            self.folded = ()

    def _keep_pristine(self, slots: LoraSlots) -> None:
        if not self._pristine:
            for module, layer in zip(slots.modules, slots.layers(), strict=True):
                assert isinstance(layer.base_layer, nn.Linear)
                self._layers[module] = layer.base_layer
                self._pristine[module] = layer.base_layer.weight.detach().clone()


def can_merge(transformer: nn.Module, modules: Sequence[str], device: torch.device) -> bool:
    """Whether all layers hold plain floating-point weights and a second copy of them fits beside the work."""
    weights = [layer.weight for layer in map(transformer.get_submodule, modules) if type(layer) is nn.Linear]
    plain = len(weights) == len(modules) and all(weight.is_floating_point() for weight in weights)
    return plain and free_memory(device) > sum(weight.nbytes for weight in weights) + GIB_HEADROOM


Pair = tuple[torch.Tensor, torch.Tensor, float]  # A [r, in], B [out, r], scale


def _pair(slots: LoraSlots, down: Place, up: Place, worn: Worn) -> Pair:
    row = slots.weights[worn.place]
    return down.of(row), up.of(row), worn.scale


def add_products(pristine: torch.Tensor, pairs: Sequence[Pair], *, out: torch.Tensor) -> None:
    """out = pristine + Σ s·B·A, summed in float32 and rounded once."""
    if len(pairs) == 1:  # a matrix product with float32 accumulation does all of it in one pass
        down, up, scale = pairs[0]
        torch.addmm(pristine, up, down, alpha=scale, out=out)
        return
    total = pristine.to(torch.float32, copy=True)
    for down, up, scale in pairs:
        total.addmm_(up.float(), down.float(), alpha=scale)
    out.copy_(total)

"""Adapters folded into the frozen weights, which then cost nothing at each step; and the weights back, bit for bit.

W' = W + Σ s·B·A is taken from a pristine copy of W each time, so nothing accumulates; products and sums are float32, rounded once (to bf16,
or from there to fp8 as the base itself was). The storage stays the same, so a compiled graph stays valid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import nn

from core.logs import get_logger
from diffusion.devices import GIB_HEADROOM, free_memory
from diffusion.fp8 import E4M3_MAX, SMALLEST, Fp8Linear
from diffusion.loading import BaseModel
from diffusion.lora_slots import LoraSlots
from diffusion.recorded import Recorded
from diffusion.wide import wide_weights

log = get_logger("inference.merging")

HALF_DONE = -1


@dataclass(frozen=True)
class Worn:
    """An adapter at a scale: ``place`` is its slot."""

    place: int
    id: str | None
    scale: float


@dataclass
class Merging:
    """``from_steps``: folding pays from so many steps on; None: never. Needs memory for a second copy of the layers' weights.

    Only layers that an adapter touches are written, and only those are written back.
    """

    base: BaseModel
    from_steps: int | None
    folded: tuple[Worn, ...] = ()
    _changed: set[str] = field(default_factory=set, repr=False)
    _pristine: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    _layers: dict[str, nn.Module] = field(default_factory=dict, repr=False)
    _recorded: Recorded = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._recorded = Recorded(self.base.device)

    def pays(self, steps: int) -> bool:
        return self.from_steps is not None and steps >= self.from_steps

    @torch.no_grad()
    def fold(self, slots: LoraSlots, worn: Sequence[Worn], touched: Collection[str] | None = None) -> None:
        """What the slots hold, at these scales, becomes part of the layers' weights. ``touched``: layers for which they hold anything
        but zeros; None: any may."""
        if tuple(worn) == self.folded:
            return
        self._keep_pristine(slots)
        self.folded = (Worn(HALF_DONE, None, 0.0),)  # should the fold fail, the weights are neither pristine nor this adapter's
        wanted = set(self._pristine if touched is None else touched)
        before, self._changed = self._changed, self._changed | wanted
        for module in before - wanted:
            self._put_back(module)
        self._recorded.run(_occasion(slots, worn, wanted), lambda: self._write(slots, worn, wanted))
        self.folded, self._changed = tuple(worn), wanted

    def _write(self, slots: LoraSlots, worn: Sequence[Worn], wanted: Collection[str]) -> None:
        for module in wanted:
            pairs = [(*slots.pair(one.place, module), one.scale) for one in worn]
            _store_sum(self._layers[module], self._pristine[module], pairs)

    @torch.no_grad()
    def restore(self) -> None:
        if self.folded:
            for module in self._changed:
                self._put_back(module)
            self.folded, self._changed = (), set()

    def _put_back(self, module: str) -> None:
        layer, pristine = self._layers[module], self._pristine[module]
        layer.store_(pristine) if isinstance(layer, Fp8Linear) else _weight(layer).copy_(pristine)

    def _keep_pristine(self, slots: LoraSlots) -> None:
        if not self._pristine:
            self._layers = {module: layer.base_layer for module, layer in zip(slots.modules, slots.layers(), strict=True)}
            held_in_fewer_bits = [module for module, layer in self._layers.items() if isinstance(layer, Fp8Linear)]
            wide = wide_weights(self.base, held_in_fewer_bits)
            self._pristine = {module: wide[module] if module in wide else _weight(layer).clone() for module, layer in self._layers.items()}


def can_merge(base: BaseModel, modules: Sequence[str]) -> bool:
    """Whether all layers hold weights that can be written, and a second copy of them fits beside the work."""
    layers = [base.transformer.get_submodule(module) for module in modules]
    size = sum(layer.in_features * layer.out_features * base.dtype.itemsize for layer in layers)
    return all(type(layer) in (nn.Linear, Fp8Linear) for layer in layers) and free_memory(base.device) > size + GIB_HEADROOM


Pair = tuple[torch.Tensor, torch.Tensor, float]  # A [r, in], B [out, r], scale


def _occasion(slots: LoraSlots, worn: Sequence[Worn], wanted: Collection[str]) -> Hashable:
    """What a recorded fold holds fixed: places in memory, layers and scales. The adapters' weights in the slots are what changes."""
    return slots.weights.data_ptr(), slots.size, tuple((one.place, one.scale) for one in worn), frozenset(wanted)


def _store_sum(layer: nn.Module, pristine: torch.Tensor, pairs: Sequence[Pair]) -> None:
    if isinstance(layer, Fp8Linear):
        folded = torch.empty_like(pristine)
        add_products(pristine, pairs, out=folded)
        _store_rows(layer, folded)
    else:
        add_products(pristine, pairs, out=_weight(layer))


def _store_rows(layer: Fp8Linear, weight: torch.Tensor) -> None:
    """What ``store_`` does; a few values may round to the other neighbour."""
    round_rows = _compiled_rounding() if weight.device.type == "cuda" else _round_rows
    round_rows(weight, layer.fp8, layer.scale)
    if layer.fp8_t is not None:
        layer.fp8_t.copy_(layer.fp8.t())


def _round_rows(weight: torch.Tensor, fp8: torch.Tensor, scale: torch.Tensor) -> None:
    scale.copy_((weight.abs().amax(-1, keepdim=True).float() / E4M3_MAX).clamp(min=SMALLEST))
    fp8.copy_((weight.float() * scale.reciprocal()).to(fp8.dtype))


@cache
def _compiled_rounding() -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]:
    """One pass over memory where the single operations make six."""
    return torch.compile(_round_rows, dynamic=False)


def _weight(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer.weight, torch.Tensor)
    return layer.weight.data


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

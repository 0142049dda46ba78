"""Where adapters sit on the transformer: one slot for the identity, one for the style, each with its own scale for each pass.

The layers are wrapped only while a picture is drawn (:meth:`AdapterSlots.in_place`): outside of a render the transformer is the bare base,
so a training in the same process, or anybody else, finds it as it was loaded. Empty or switched off means that the base model's own layers
alone compute, so its pixels come back bit for bit. Weights are not checked here: :mod:`diffusion.lora` refuses bad ones on reading.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch

from diffusion.loading import BaseModel
from diffusion.lora_slots import LoraSlots
from inference.loaded import LoadedAdapter
from inference.merging import Merging, Worn
from inference.reading import read_adapter

__all__ = ["IDENTITY", "STYLE", "AdapterSlots", "LoadedAdapter", "read_adapter"]

IDENTITY, STYLE = 0, 1
LEAST_RANK = 32


class AdapterSlots:
    """``merging``: folds adapters into the weights where that is cheaper; None never does (somebody else uses the same weights)."""

    def __init__(self, base: BaseModel, *, rank: int = LEAST_RANK, merging: Merging | None = None) -> None:
        self.base, self.merging, self.rank = base, merging, rank
        self.held: list[str | None] = [None, None]  # ids of the adapters whose weights are in the slots, switched on or not
        self._slots: LoraSlots | None = None
        self._scales: list[float | None] = [None, None]
        self._touched: list[frozenset[str]] = [frozenset(), frozenset()]  # layers that the adapters in the slots have weights for

    @property
    def modules(self) -> list[str]:
        """Layers that adapters may touch, in the model's order."""
        return self.base.family.lora_modules(self.base.transformer, "blocks")

    @property
    def slots(self) -> LoraSlots:
        assert self._slots is not None, "there are slots inside in_place()"
        return self._slots

    @property
    def layout(self) -> Hashable:
        """What of the slots decides how a pass computes, beside the values in them: where they lie, and how many are added up."""
        chosen = self.slots.selection
        return self.slots.weights.data_ptr(), chosen.scales.data_ptr(), self.slots.size, chosen.stacked

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Wraps the layers for as long as a render lasts."""
        if self._slots is None:
            self._slots = self._install()
        else:
            self._slots.put_on()
        try:
            yield
        finally:
            assert self._slots is not None
            self._slots.remove()

    def fill(self, place: int, adapter: LoadedAdapter) -> None:
        """Writes the weights unless they are there already. In place: nothing is recompiled, unless the rank is the largest yet."""
        if self.held[place] == adapter.id:
            return
        self.held[place] = None  # if the copy fails halfway, whatever is there must not be taken for an adapter
        if adapter.rank > self.rank:
            self._grow(adapter.rank)
        self._write(place, adapter)
        self.held[place] = adapter.id

    def wear(self, scales: Sequence[float | None], steps: int) -> None:
        """For the next ``steps`` passes: identity and style at these scales; None or 0 switches one off."""
        worn = [Worn(place, self.held[place], scale) for place, scale in enumerate(scales) if scale]
        assert all(one.id for one in worn), "switched on without an adapter"
        if self.merging is not None and worn and self.merging.pays(steps):
            self.merging.fold(self.slots, worn, frozenset().union(*(self._touched[one.place] for one in worn)))
            self.slots.use(stacked=0)
        else:
            self._wear_in_slots(scales)

    def _wear_in_slots(self, scales: Sequence[float | None]) -> None:
        self.restore()
        on = [place for place, scale in enumerate(scales) if scale]
        for place in range(max(on, default=-1) + 1):
            self._scale(place, scales[place] or 0.0)
        self.slots.use(stacked=max(on, default=-1) + 1)

    def restore(self) -> None:
        """The frozen weights as they were loaded, if an adapter is folded into them."""
        if self.merging is not None and self._slots is not None:
            self.merging.restore()

    def forget(self, adapter_ids: set[str]) -> None:
        """Erased adapters leave the slots and the weights."""
        if self.merging is not None and any(one.id in adapter_ids for one in self.merging.folded):
            self.restore()
        for place, held in enumerate(self.held):
            if held in adapter_ids and self._slots is not None:
                self._slots.clear(place)
                self.held[place] = None

    def clear(self) -> None:
        """Everything out, the weights restored, the memory given back."""
        self.restore()
        self._slots = None
        self.held, self._scales = [None, None], [None, None]

    def _install(self) -> LoraSlots:
        """Adapters come with alpha baked in: a slot's scale is the request's."""
        spec = self.base.family.lora_spec("blocks", rank=self.rank, alpha=self.rank)
        return LoraSlots(self.base.transformer, spec, count=2, dtype=self.base.dtype)

    def _grow(self, rank: int) -> None:
        """Larger slots for an adapter of a larger rank; compiled graphs are made anew, once."""
        assert self._slots is not None
        self.restore()
        self._slots.remove()
        self.rank = 1 << (rank - 1).bit_length()
        self.held, self._scales = [None, None], [None, None]
        self._slots = self._install()

    @torch.no_grad()
    def _write(self, place: int, adapter: LoadedAdapter) -> None:
        """One copy to the device, then all matrices into their places; what the adapter lacks, and ranks above its own, are zero."""
        assert self._slots is not None
        row, state = self._slots.weights[place], adapter.on(self.base.device)
        row.zero_()
        matrices = self._slots.matrices(place)
        pairs = [(_corner(matrices[key], weight), weight) for key, weight in state.items()]  # checked on reading: every key has a place
        self._touched[place] = frozenset(self._slots.place_of[key].module for key in state)
        if pairs:
            torch._foreach_copy_([to for to, _ in pairs], [weight for _, weight in pairs])

    def _scale(self, place: int, scale: float) -> None:
        assert self._slots is not None
        if self._scales[place] != scale:
            self._slots.set_scale(place, scale)
            self._scales[place] = scale


def _corner(matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """As much of a slot's matrix as an adapter of a smaller rank fills."""
    return matrix if matrix.shape == weight.shape else matrix[: weight.shape[0], : weight.shape[1]]

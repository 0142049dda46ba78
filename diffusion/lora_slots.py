"""Adapters in slots: layers are wrapped once, adapters are written into place and out again, and no module ever changes between jobs.

All weights of a slot lie in one row of one tensor, so copying, averaging, clipping and stepping an adapter are single operations.
``SlotTraining`` (:mod:`diffusion.slot_training`) adds what fitting needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from core.errors import UserError
from diffusion import lora
from diffusion.lora_spec import LoraSpec, first_down, seeded
from diffusion.slot_linear import Selection, SlotLinear

KEY = "{prefix}{module}.lora_{side}.weight"
ALIGNED = 64  # elements: every matrix starts on a boundary that the fastest matrix kernels accept


@dataclass(frozen=True)
class Place:
    """Where one matrix of an adapter lies in a slot's flat row."""

    module: str
    side: str  # A [rank, in] or B [out, rank]
    start: int
    shape: tuple[int, int]

    @property
    def key(self) -> str:
        """Its name in an adapter file."""
        return KEY.format(prefix=lora.PREFIX, module=self.module, side=self.side)

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """This matrix as a view: of a row [P], or for all slots at once of [S, P]."""
        return flat[..., self.start : self.start + math.prod(self.shape)].view(*flat.shape[:-1], *self.shape)


@dataclass(frozen=True)
class _Spot:
    """Where a layer hangs. Wrappers come and go with every render, some five hundred of them: ``get_submodule`` and ``setattr``, which
    search, would take longer than anything else in switching adapters."""

    children: dict[str, nn.Module]  # of the parent
    name: str

    @classmethod
    def of(cls, transformer: nn.Module, module: str) -> _Spot:
        parent, _, name = module.rpartition(".")
        return cls(transformer.get_submodule(parent)._modules, name)  # type: ignore[arg-type]  # None stands for no child

    @property
    def held(self) -> nn.Module:
        return self.children[self.name]

    def hold(self, layer: nn.Module) -> None:
        self.children[self.name] = layer


class LoraSlots:
    """``count`` slots of one layout (modules and rank, as PEFT reads ``spec``) on a transformer. ``weights`` [S, P] is what the layers
    read, in ``dtype``.

    Empty slots are zero and change nothing. Do not move or cast the transformer afterwards: its adapter weights are views of ``weights``.
    """

    def __init__(self, transformer: nn.Module, spec: LoraSpec, *, count: int = 1, dtype: torch.dtype) -> None:
        self.transformer, self.spec, self.config, self.count = transformer, spec, spec.config(), count
        self.rank, self.modules = self.config.r, tuple(spec.modules(transformer))
        if not self.modules:
            raise ValueError(f"no layer of the transformer is called {self.config.target_modules}")
        self.places = tuple(_places(transformer, self.modules, self.rank))
        self.place_of = {place.key: place for place in self.places}
        self.size = _end(self.places[-1])
        device = next(transformer.parameters()).device
        self.weights = torch.zeros(count, self.size, dtype=dtype, device=device)
        self.selection = Selection(count, device)
        self._rows: dict[int, torch.Tensor] = {}
        self._matrices: dict[int, dict[str, torch.Tensor]] = {}
        self._layers: dict[str, SlotLinear] = {}
        self._spots: dict[str, _Spot] = {}
        self._install()

    def layers(self) -> Iterator[SlotLinear]:
        for spot in self._spots.values():
            assert isinstance(spot.held, SlotLinear)
            yield spot.held

    def matrices(self, slot: int) -> dict[str, torch.Tensor]:
        """Views of a slot's matrices by their names in an adapter file: A [rank, in], B [out, rank]. Made once: there are a thousand."""
        if slot not in self._matrices:
            row = self.weights[self._checked(slot)]
            self._matrices[slot] = {key: place.of(row) for key, place in self.place_of.items()}
        return self._matrices[slot]

    def pair(self, slot: int, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B of one layer."""
        down, up = (KEY.format(prefix=lora.PREFIX, module=module, side=side) for side in "AB")
        return self.matrices(slot)[down], self.matrices(slot)[up]

    def use(self, *, count: int | None = None, rows: Sequence[int] | None = None, stacked: int | None = None) -> None:
        """What the next batches use: the first ``count`` slots in equal consecutive shares of the rows, or for each row its own slot, or
        for every row the sum of the first ``stacked`` slots (0: the bare layers alone compute)."""
        if [count, rows, stacked].count(None) != 2:
            raise ValueError("give count, rows or stacked")
        self.selection.active = self._checked(count - 1) + 1 if count else 1
        self.selection.stacked = self._checked(stacked - 1) + 1 if stacked else stacked
        self.selection.rows = None if rows is None else self._row_buffer([self._checked(row) for row in rows])

    def set_scale(self, slot: int, scale: float) -> None:
        """``lora_scale`` of a slot; 0 switches it off without touching its weights."""
        self.selection.scales[self._checked(slot)] = scale

    @torch.no_grad()
    def write(self, slot: int, state: Mapping[str, torch.Tensor]) -> None:
        """An adapter in the file's keys, validated before (:func:`diffusion.lora.read`). Smaller ranks are padded with zeros,
        modules that it lacks become zero; :class:`core.errors.UserError` if it has others, or a larger rank, and the slot is as it was."""
        unknown = set(state) - set(self.place_of)
        if unknown:
            raise UserError("adapter/invalid", "This adapter cannot be used", f"There is no place for {sorted(unknown)[0]}.")
        padded = lora.normalise(state, rank=self.rank)
        self.weights[self._checked(slot)].zero_()
        for key, matrix in padded.items():
            self.matrices(slot)[key].copy_(matrix)

    @torch.no_grad()
    def start(self, slot: int, seed: int) -> None:
        """A fresh adapter as PEFT starts it (A gaussian, B zero). A seed means the same weights in every slot."""
        row, layers = self.weights[self._checked(slot)], zip(self.places[::2], self.places[1::2], strict=True)
        row.zero_()
        with seeded(seed):
            for down, up in layers:
                down.of(row).copy_(first_down(self.config, down.shape[1], up.shape[0]))

    def clear(self, slot: int) -> None:
        """Zero: as if there were no adapter."""
        self.weights[self._checked(slot)].zero_()

    def state(self, flat: torch.Tensor, *, scale: float = 1.0, dtype: torch.dtype | None = None) -> lora.State:
        """A flat row [P] (``weights[slot]``, an average, a master copy) in the file's keys, on the CPU; ``scale`` is multiplied into B."""
        flat = flat.detach().cpu()
        named = {place.key: place.of(flat) * (scale if place.side == "B" else 1.0) for place in self.places}
        return {key: matrix.to(dtype or flat.dtype).contiguous() for key, matrix in named.items()}

    def remove(self) -> None:
        """Takes the wrappers off: the transformer is the bare base again. Compiled graphs are lost, unless :meth:`put_on` follows."""
        for module, layer in zip(self.modules, list(self.layers()), strict=True):
            self._spots[module].hold(layer.base_layer)

    def put_on(self) -> None:
        """The very wrappers that :meth:`remove` took off, as they were: another set of slots may have served in between."""
        for module, layer in self._layers.items():
            spot = self._spots[module]
            _refuse_wrapped(module, spot.held)
            spot.hold(layer)

    def _install(self) -> None:
        down, up = ({place.module: place for place in self.places if place.side == side} for side in "AB")
        for module in self.modules:
            matrices = (down[module].of(self.weights), up[module].of(self.weights))
            spot = self._spots[module] = _Spot.of(self.transformer, module)
            self._layers[module] = SlotLinear(spot.held, *matrices, self.selection)
        self.put_on()

    def _row_buffer(self, rows: list[int]) -> torch.Tensor:
        """One tensor for each batch size, written in place: its identity stays, so compiled graphs do too."""
        if len(rows) not in self._rows:
            self._rows[len(rows)] = torch.zeros(len(rows), dtype=torch.long, device=self.weights.device)
        return self._rows[len(rows)].copy_(torch.tensor(rows))

    def _checked(self, slot: int) -> int:
        if not 0 <= slot < self.count:
            raise IndexError(f"slot {slot} of {self.count}")
        return slot


def _places(transformer: nn.Module, modules: Sequence[str], rank: int) -> Iterator[Place]:
    """A and B of each module in the model's order."""
    start = 0
    for module in modules:
        layer = transformer.get_submodule(module)
        _refuse_wrapped(module, layer)
        for side, shape in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
            place = Place(module, side, start, shape)  # type: ignore[arg-type]
            start = _end(place)
            yield place


def _refuse_wrapped(module: str, layer: nn.Module) -> None:
    if isinstance(layer, SlotLinear):
        raise RuntimeError(f"{module} has slots already")


def _end(place: Place) -> int:
    return -(-(place.start + math.prod(place.shape)) // ALIGNED) * ALIGNED

"""The one place on the transformer that holds an adapter: filled, refilled and emptied without a trace.

The wrappers that PEFT puts around the layers stay in place between adapters of one layout (modules, rank, type), and the next adapter's
weights are copied into them; another layout is attached anew. Empty means switched off or taken off: either way the base model's own layers
alone compute, so its pixels come back bit for bit. Weights are not checked here: :mod:`diffusion.lora` refuses bad ones on reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion import lora
from diffusion.loading import BaseModel

NAME = "subject"
Layout = tuple[tuple[str, torch.Size, torch.dtype], ...]


@dataclass(frozen=True)
class LoadedAdapter:
    """``state`` as :func:`diffusion.lora.read` gives it, validated against the base model. ``id`` stands for these very weights."""

    id: str
    state: lora.State

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in self.state.values())


def read_adapter(base: BaseModel, path: Path, adapter_id: str) -> LoadedAdapter:
    """A file, refused with :class:`core.errors.UserError` unless it is a finite LoRA of this very base model."""
    allowed = base.family.lora_allowlist(base.transformer)
    return LoadedAdapter(adapter_id, lora.read(path, base.transformer, allowed)[0])


class AdapterSlot:
    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer
        self.held: str | None = None  # id of the adapter whose weights are on the transformer, switched on or not
        self._layout: Layout | None = None

    def fill(self, adapter: LoadedAdapter) -> None:
        if self.held == adapter.id:
            return
        self.held = None  # if the copy fails halfway, whatever is there must not be taken for an adapter
        layout = _layout(adapter.state)
        if layout == self._layout:
            self._copy(adapter.state)
        else:
            self._attach(adapter.state, layout)
        self.held = adapter.id

    def switch(self, scale: float | None) -> None:
        """On at ``scale``, or off (None): then the base model's own layers alone compute."""
        if scale is None:
            if self._layout is not None:
                self.transformer.disable_adapters()
            return
        assert self.held is not None, "switched on without an adapter"
        self.transformer.enable_adapters()
        self.transformer.set_adapters([NAME], weights=[scale])

    def clear(self) -> None:
        """Takes weights and wrappers off."""
        self.held = self._layout = None
        lora.detach(self.transformer)

    def _attach(self, state: lora.State, layout: Layout) -> None:
        self.clear()
        lora.load(self.transformer, state, name=NAME)
        self.transformer.requires_grad_(False)
        self._layout = layout

    @torch.no_grad()
    def _copy(self, state: lora.State) -> None:
        for key, parameter in lora.parameters(self.transformer, NAME).items():
            parameter.copy_(state[lora.PREFIX + key.replace(f".{NAME}.weight", ".weight")])


def _layout(state: lora.State) -> Layout:
    return tuple(sorted((key, weight.shape, weight.dtype) for key, weight in state.items()))

"""An adapter in memory, laid end to end in a few buffers, so that it reaches the GPU in as many copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from diffusion import lora

PIECE_BYTES = 2**24  # torch deals page-locked memory out in powers of two: in one buffer 150 MB would take 256 of the machine's RAM


@dataclass(frozen=True)
class LoadedAdapter:
    """``state`` as :func:`diffusion.lora.read` gives it, validated against the base model. ``id`` stands for these very weights.
    ``pieces``, if there are any, are the buffers that all of ``state`` are views of; page-locked where a GPU will read them."""

    id: str
    state: lora.State
    pieces: tuple[torch.Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in self.state.values())

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max((weight.shape[0] for key, weight in self.state.items() if ".lora_A." in key), default=0)

    def on(self, device: torch.device) -> lora.State:
        """The weights on a device, where they may be already."""
        if not self.pieces:
            return {key: weight.to(device) for key, weight in self.state.items()}
        if self.pieces[0].device == device:
            for piece in self.pieces if device.type == "cuda" else ():
                piece.record_stream(torch.cuda.current_stream(device))  # it may be evicted while this stream still reads it
            return self.state
        return self.views_of([piece.to(device, non_blocking=True) for piece in self.pieces])

    def packed(self, dtype: torch.dtype, *, pin: bool = False) -> LoadedAdapter:
        """The same adapter in pieces of ``dtype``."""
        pieces: list[torch.Tensor] = []
        state: lora.State = {}
        for keys in shares({key: weight.to("meta", dtype) for key, weight in self.state.items()}):
            piece = torch.empty(sum(self.state[key].numel() for key in keys), dtype=dtype, pin_memory=pin)
            state |= {key: view.copy_(self.state[key]) for key, view in views_in(piece, keys, self.state)}
            pieces.append(piece)
        return LoadedAdapter(self.id, state, tuple(pieces))

    def moved(self, device: torch.device) -> LoadedAdapter:
        """A copy that lives on the GPU. It is whole when this returns; other work of the GPU goes on meanwhile."""
        assert self.pieces, "pack it first"
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            pieces = [piece.to(device, non_blocking=True) for piece in self.pieces]
        stream.synchronize()
        return LoadedAdapter(self.id, self.views_of(pieces), tuple(pieces))

    def views_of(self, pieces: Sequence[torch.Tensor]) -> lora.State:
        """``state`` at the same places of other pieces."""
        of = {mine.untyped_storage().data_ptr(): other for mine, other in zip(self.pieces, pieces, strict=True)}
        return {
            key: of[view.untyped_storage().data_ptr()][view.storage_offset() :][: view.numel()].view(view.shape)
            for key, view in self.state.items()
        }


def shares(state: lora.State) -> Iterator[list[str]]:
    """Keys in their order, as many together as a piece holds; a larger matrix is alone."""
    share: list[str] = []
    held = 0
    for key, weight in state.items():
        if share and held + weight.nbytes > PIECE_BYTES:
            yield share
            share, held = [], 0
        share.append(key)
        held += weight.nbytes
    if share:
        yield share


def views_in(piece: torch.Tensor, keys: Sequence[str], like: lora.State) -> Iterator[tuple[str, torch.Tensor]]:
    """Each key with its place in a piece that holds them one after the other, of the shape that it has in ``like``."""
    start = 0
    for key in keys:
        shape = like[key].shape
        yield key, piece[start : start + shape.numel()].view(shape)
        start += shape.numel()

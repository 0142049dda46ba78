"""A side lesson of the reference half: mid-way through the transformer, every token of the subject must tell whose reference was shown.

The flow loss alone hardly rewards looking at the reference: who it is moves few of the pixels. Reading the identity's factors off
the hidden states of the picture in the making (as representation alignment does with another encoder's features, Yu et al. 2025)
pulls attention there. The reader is thrown away afterwards.
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

AT_BLOCK = 3  # of the single blocks: early enough for the later ones to paint with it
UNIFORM_VARIANCE = 1 / 12  # of a factor: a loss of 1 means that nothing was read


class Tap(nn.Module):
    """Keeps what a block gave for the picture's tokens."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.seen: Tensor | None = None

    def forward(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        out = self.block(*args, **kwargs)
        self.seen = out[1]
        return out


class Reader(nn.Module):
    """Reads F factors of K kinds off hidden states of width 256."""

    def __init__(self, transformer: FluxTransformer2DModel, kinds: int, factors: int) -> None:
        super().__init__()
        width = transformer.inner_dim
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, kinds * factors))
        self.kinds, self.factors = kinds, factors
        blocks = transformer.single_transformer_blocks
        self._tap = [Tap(blocks[AT_BLOCK])]  # in a list: not a part of this module
        blocks[AT_BLOCK] = self._tap[0]

    def loss(self, factors: Tensor, kind: Tensor, weight: Tensor) -> Tensor:
        """Of the last forward pass: factors [B, F] in [0, 1], kind [B], weight [B, T] of the picture's tokens. 1: nothing was read."""
        seen = self._tap[0].seen
        assert seen is not None
        told = self.head(seen[:, : weight.shape[1]].float()).unflatten(-1, (self.kinds, self.factors))
        told = told[torch.arange(len(kind), device=kind.device), :, kind]
        error = (told.float() - factors[:, None]).pow(2).mean(-1) / UNIFORM_VARIANCE
        return (error * weight).sum() / weight.sum()

    def remove(self, transformer: FluxTransformer2DModel) -> None:
        """The transformer as it was."""
        transformer.single_transformer_blocks[AT_BLOCK] = self._tap[0].block

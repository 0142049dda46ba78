"""Which linear layers of a transformer are held in fewer bits, and replacing them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from diffusion.fp8 import Fp8Linear
from diffusion.frozen import FrozenLinear
from diffusion.nf4 import Nf4Linear
from diffusion.precision import Precision

BLOCKS = ("transformer_blocks", "single_transformer_blocks")


def quantise(transformer: nn.Module, precision: Precision, device: torch.device, *, both_orders: bool = False) -> None:
    """Replaces the layers that ``precision`` holds in fewer bits, each on ``device``, so the wide weights are never there all at once.

    Layers outside the blocks (embeddings, the last layer), biases and norms stay as they are: few weights, and all of the picture goes
    through them. ``both_orders`` holds fp8 weights for the backward pass too, at twice the bytes.
    """
    kind, options = _kind(precision, both_orders)
    if kind is None:
        return
    for name, linear in list(eligible(transformer, precision)):
        if kind.fits(linear):
            parent, _, leaf = name.rpartition(".")
            setattr(transformer.get_submodule(parent), leaf, kind(linear.to(device), **options))
            linear.weight = None  # type: ignore[assignment]  # the wide weight goes now, not when the loop ends


def eligible(transformer: nn.Module, precision: Precision) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers of the blocks. fp8 leaves out the modulations (27 % of FLUX.1-dev's weights): they multiply one row, so there is
    nothing to gain but memory, and every token is scaled by what comes out."""
    for name, module in transformer.named_modules():
        modulation = any(part.startswith("norm") for part in name.split("."))
        if name.startswith(BLOCKS) and type(module) is nn.Linear and not (modulation and precision.name == "fp8"):
            yield name, module


def weight_bytes(transformer: nn.Module) -> int:
    """Bytes of all weights and quantisation constants as they are held now."""
    held = [*transformer.parameters(), *transformer.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _kind(precision: Precision, both_orders: bool) -> tuple[type[FrozenLinear] | None, dict[str, Any]]:
    kinds: dict[str, tuple[type[FrozenLinear], dict[str, Any]]] = {"fp8": (Fp8Linear, {"transposed": both_orders}), "nf4": (Nf4Linear, {})}
    return kinds.get(precision.name, (None, {}))

"""One base model for two: while somebody else uses it, nothing that the first left on it is seen, and afterwards all of it is back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from diffusion.loading import BaseModel
from diffusion.slot_linear import SlotLinear


@contextmanager
def stepped_aside(base: BaseModel) -> Iterator[None]:
    """Within the block the transformer is the bare base, and what is drawn from global random generators does not count.

    Afterwards the very same wrappers are back (slots or PEFT's), with weights, gradients and scales untouched; so are a forward that was
    patched (accelerate's autocast) and the training flag. Compiled graphs stay. Use it between two passes, in the thread that makes them.
    """
    transformer = base.transformer
    wrapped = [(name, module) for name, module in transformer.named_modules() if isinstance(module, (SlotLinear, BaseTunerLayer))]
    patched, training = transformer.__dict__.pop("forward", None), transformer.training
    for name, layer in wrapped:
        _put(transformer, name, layer.base_layer)
    try:
        with _own_randomness(base.device):
            yield
    finally:
        for name, layer in wrapped:
            _put(transformer, name, layer)
        if patched is not None:
            transformer.forward = patched
        transformer.train(training)


def _put(transformer: nn.Module, name: str, layer: object) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(transformer.get_submodule(parent), leaf, layer)


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    random.setstate(python)
    np.random.set_state(numpy)

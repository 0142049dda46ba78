"""Adapters of random weights that change pictures visibly."""

from __future__ import annotations

import torch

from diffusion import lora
from diffusion.loading import BaseModel
from inference.loaded import LoadedAdapter


def random_adapter(
    base: BaseModel, seed: int, rank: int = 4, target_set: str = "blocks", dtype: torch.dtype = torch.float32
) -> LoadedAdapter:
    """Another seed is another subject."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for module in base.family.lora_modules(base.transformer, target_set):
        layer = base.transformer.get_submodule(module)
        state[f"transformer.{module}.lora_A.weight"] = torch.randn(rank, layer.in_features, generator=generator).to(dtype)
        state[f"transformer.{module}.lora_B.weight"] = (torch.randn(layer.out_features, rank, generator=generator) * 0.3).to(dtype)
    lora.validate(state, base.transformer, base.family.lora_allowlist(base.transformer))
    return LoadedAdapter(f"ada_{seed}_{rank}_{target_set}", state)

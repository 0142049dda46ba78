"""Adapters of random weights at true size, near or far: on the GPU, in RAM, as files."""

from __future__ import annotations

from pathlib import Path

import torch

from diffusion import lora
from inference.engine import Engine
from inference.loaded import LoadedAdapter

STD = 0.01  # of both matrices: pictures change, nothing overflows


def random_adapter(engine: Engine, seed: int, device: torch.device, rank: int = 32, target_set: str = "blocks") -> LoadedAdapter:
    """``blocks``: all layers that adapters may touch; another seed is another adapter."""
    shapes = _shapes(engine, rank, target_set)
    size = sum(rows * columns for rows, columns in shapes.values())
    generator = torch.Generator(device).manual_seed(seed)
    flat = torch.empty(size, dtype=engine.base.dtype, device=device).normal_(0, STD, generator=generator)
    state, start = {}, 0
    for key, (rows, columns) in shapes.items():
        state[key] = flat[start : start + rows * columns].view(rows, columns)
        start += rows * columns
    return LoadedAdapter(f"random-{seed}", state, (flat,))


def write(engine: Engine, seed: int, path: Path, target_set: str = "blocks") -> Path:
    adapter = random_adapter(engine, seed, engine.base.device, target_set=target_set)
    return lora.save(path, {key: weight.cpu() for key, weight in adapter.state.items()}, {})


def _shapes(engine: Engine, rank: int, target_set: str) -> dict[str, tuple[int, int]]:
    shapes = {}
    for module in engine.base.family.lora_modules(engine.base.transformer, target_set):
        layer = engine.base.transformer.get_submodule(module)
        shapes[f"{lora.PREFIX}{module}.lora_A.weight"] = (rank, layer.in_features)
        shapes[f"{lora.PREFIX}{module}.lora_B.weight"] = (layer.out_features, rank)
    return shapes

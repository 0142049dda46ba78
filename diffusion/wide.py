"""The weights of a base model as its files hold them, for layers that hold them in fewer bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors import safe_open

from diffusion.loading import BaseModel


def wide_weights(base: BaseModel, modules: Sequence[str]) -> dict[str, torch.Tensor]:
    """Weights [out, in] of the transformer's linear layers by module name, on the base's device, in its working type."""
    wanted, found = set(modules), {}
    for path in sorted((base.folder / "transformer").glob("*.safetensors")):
        with safe_open(path, framework="pt", device=str(base.device)) as file:
            for key in file.keys():  # noqa: SIM118  # a safetensors file is no mapping
                module = key.removesuffix(".weight")
                if module in wanted:
                    found[module] = file.get_tensor(key).to(base.dtype)
    return found

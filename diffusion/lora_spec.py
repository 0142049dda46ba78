"""What an adapter is, in PEFT's own terms: rank, alpha, target modules and first weights come from its ``LoraConfig``, made here alone.

PEFT also finds the layers and draws the weights, so an adapter starts and lies as PEFT's would; how several of them compute in one pass is
:mod:`diffusion.lora_slots`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

KEY = re.compile(r"transformer\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")
TOLD = ("peft_type", "r", "lora_alpha", "lora_dropout", "bias")  # fields that every release of PEFT reads: an unknown one stops a reader
NAME = "default"


@dataclass(frozen=True)
class LoraSpec:
    """``target_modules``: a regular expression over full module names (``Family.lora_targets``), or the names themselves."""

    rank: int
    alpha: int
    target_modules: str | tuple[str, ...]

    @property
    def scale(self) -> float:
        """What B·A is multiplied with while it is fitted."""
        return self.alpha / self.rank

    def config(self) -> LoraConfig:
        """A string, since PEFT takes a list as suffixes: ``proj_out`` would also hit the last layer."""
        names = self.target_modules
        pattern = names if isinstance(names, str) else "|".join(map(re.escape, names))
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=pattern,
            init_lora_weights="gaussian",
            bias="none",
        )

    def modules(self, transformer: nn.Module) -> list[str]:
        """Full names of the linear layers that PEFT would put this adapter on, in the model's order."""
        config = self.config()
        return [name for name in _plain_names(transformer) if check_target_module_exists(config, name)]

    def as_header(self) -> dict[str, Any]:
        """The ``lora_adapter_metadata`` from which diffusers and PEFT make their configuration, JSON-serialisable."""
        told = {field: value for field, value in self.config().to_dict().items() if field in TOLD}
        return {f"transformer.{field}": value for field, value in told.items()} | {"transformer.target_modules": self.target_modules}


def spec_of(state: Mapping[str, torch.Tensor]) -> LoraSpec | None:
    """Of weights in the file's keys, whose alpha is baked in: alpha is the rank. None for other layouts, or if ranks differ."""
    matches = [KEY.fullmatch(key) for key in state]
    ranks = {weight.shape["AB".index(match["side"])] for match, weight in zip(matches, state.values(), strict=True) if match}
    if None in matches or len(ranks) != 1:
        return None
    (rank,) = ranks
    return LoraSpec(rank, rank, tuple(sorted({match["module"] for match in matches if match})))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PEFT draws from torch's global generator: in the block it starts at ``seed``, afterwards it is where it was. GPUs' are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def first_down(config: LoraConfig, in_features: int, out_features: int) -> torch.Tensor:
    """A [r, in] gaussian with deviation 1/r, float32 on the CPU, drawn by PEFT's own layer (see :func:`seeded`); its B starts at zero."""
    with torch.device("meta"):  # the layers' own first values, which PEFT replaces, are neither held nor drawn
        layer = PeftLinear(nn.Linear(in_features, out_features), NAME, config, r=config.r, lora_alpha=config.lora_alpha)
    down = layer.lora_A[NAME].to_empty(device="cpu")
    layer.reset_lora_parameters(NAME, config.init_lora_weights)
    return down.weight.detach()


def _plain_names(transformer: nn.Module) -> list[str]:
    """Names of linear layers as they are without an adapter: a wrapper (PEFT's or ours) keeps its layer as ``base_layer``."""
    names = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear) and ".lora_" not in name]
    return [name.removesuffix(".base_layer") for name in names]

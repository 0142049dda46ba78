"""The adapter while it is being fitted: its weights, their running average, and the optimizer; all that a checkpoint must hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core.errors import UserError
from diffusion import lora
from diffusion.loading import BaseModel
from trainer.recipe import Recipe

TENSOR, NUMBER = "tensor", "number"
LARGE_ADAPTER = 20_000_000  # parameters from which 8-bit optimizer state saves memory that matters (150 MB)


@dataclass
class Trainee:
    """``parameters`` are the live float32 LoRA weights by name; ``average`` their EMA, in the same order."""

    parameters: dict[str, nn.Parameter]
    average: list[torch.Tensor]
    optimizer: torch.optim.Optimizer

    @classmethod
    def attach(cls, base: BaseModel, recipe: Recipe, seed: int) -> Trainee:
        """Puts a fresh adapter on the base's transformer. The caller must ``lora.detach`` it, whatever happens."""
        lora.attach(base.transformer, lora_spec(base, recipe), seed=seed, dtype=torch.float32)
        parameters = lora.parameters(base.transformer)
        average = [parameter.detach().clone() for parameter in parameters.values()]
        return cls(parameters, average, _optimizer(list(parameters.values()), recipe, base.device))

    def average_in(self, decay: float, step: int) -> None:
        """EMA with warm-up, so that a short run does not remember its random start: decay_t = min(decay, (1 + t) / (10 + t))."""
        keep = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters.values()], 1 - keep)

    def adapter_state(self, scale: float, dtype: torch.dtype) -> lora.State:
        """The averaged weights as a file's state, with ``scale`` (alpha / rank) baked in."""
        named = dict(zip(self.parameters, self.average, strict=True))
        return {file_key(name): _scaled(name, weight, scale).to("cpu", dtype).contiguous() for name, weight in named.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a resumed run needs, by name."""
        state = {f"weight/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        state |= {f"average/{name}": weight for name, weight in zip(self.parameters, self.average, strict=True)}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{index}/{_form(value)}/{key}": torch.as_tensor(value) for key, value in moments.items()}
        return {key: value.to("cpu").contiguous() for key, value in state.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Exactly what :meth:`tensors` gave. ``KeyError`` if it was another adapter's."""
        for average, (name, parameter) in zip(self.average, self.parameters.items(), strict=True):
            parameter.copy_(tensors[f"weight/{name}"])
            average.copy_(tensors[f"average/{name}"])
        moments: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, form, moment = key.split("/", 3)
                moments.setdefault(int(index), {})[moment] = value.item() if form == NUMBER else value.clone()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


def _form(value: Any) -> str:
    """torch keeps its step count in a tensor, bitsandbytes in a number; each wants its own back."""
    return TENSOR if isinstance(value, torch.Tensor) else NUMBER


def lora_spec(base: BaseModel, recipe: Recipe) -> lora.LoraSpec:
    return lora.LoraSpec(recipe.rank, recipe.alpha, tuple(base.family.lora_modules(base.transformer, recipe.target_set)))


def file_key(name: str) -> str:
    """A parameter's name on the transformer → its key in an adapter file."""
    return lora.PREFIX + name.replace(".default.weight", ".weight")


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of the step that follows ``step`` done steps: linear warm-up, then constant, or a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.lr_schedule == "constant":
        return recipe.learning_rate * warm
    done = step / max(1, recipe.steps)
    return recipe.learning_rate * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def _scaled(name: str, weight: torch.Tensor, scale: float) -> torch.Tensor:
    return weight * scale if ".lora_B." in name and scale != 1.0 else weight.clone()


def _optimizer(parameters: list[nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "betas": (0.9, recipe.beta2), "weight_decay": recipe.weight_decay}
    large = sum(parameter.numel() for parameter in parameters) >= LARGE_ADAPTER
    if recipe.optimizer == "adamw8bit" and device.type != "cuda":
        raise UserError("training/needs-gpu", "adamw8bit needs a CUDA GPU", "Use optimizer auto or adamw.")
    if recipe.optimizer == "adamw8bit" or (recipe.optimizer == "auto" and large and device.type == "cuda"):
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **settings)
    return torch.optim.AdamW(parameters, foreach=True, **settings)

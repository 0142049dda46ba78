"""An adapter while it is being fitted: its weights, their running average, and the optimizer; all that a checkpoint must hold.

Everything of it is one flat row, so clipping, stepping and averaging are a launch or two each, and nothing waits for the device.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from core.errors import UserError
from diffusion import lora
from diffusion.devices import capacity
from diffusion.slot_training import SlotTraining
from trainer.recipe import Recipe
from trainer.world import World

NUMBER = "number"
TENSOR = "tensor"
SHORT_OF_MEMORY = 32 * 2**30  # bytes on the whole GPU: below, 8-bit optimizer state (0.5 GiB less for FLUX.1-dev) is worth its wait a step


class Trainee:
    """The adapter in slot ``slot``. ``parameter`` [P] is its float32 row, ``average`` the row's EMA."""

    def __init__(self, training: SlotTraining, slot: int, recipe: Recipe, seed: int, world: World) -> None:
        """Starts it fresh: A gaussian, B zero."""
        self.training, self.slot, self.recipe = training, slot, recipe
        self.scale = replace(training.slots.spec, alpha=recipe.alpha).scale  # those in one pass agree in the rest
        training.slots.start(slot, seed)
        training.slots.set_scale(slot, self.scale)
        training.adopt(slot)
        self.parameter = training.parameter(slot)
        self.average = self.parameter.detach().clone()
        self.optimizer = world.prepare(_optimizer(self.parameter, recipe))
        self.copies = HostCopies()

    @property
    def gradient(self) -> torch.Tensor:
        """[P] float32."""
        return self.training.gradients[self.slot]

    def update(self, step: int) -> torch.Tensor:
        """One optimizer step on what lies in ``gradient``, clipped; ``step`` counts from 0. Returns the gradient's norm, on the device."""
        norm = self.gradient.norm()
        self.gradient.mul_((self.recipe.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, step)
        self.optimizer.step()
        keep = min(self.recipe.ema_decay, (1 + step) / (10 + step))  # warmed up: a short run does not remember its random start
        self.average.lerp_(self.parameter.detach(), 1 - keep)
        return norm

    def adapter_state(self, average: torch.Tensor, dtype: torch.dtype) -> lora.State:
        """Averaged weights [P] as a file's state, with alpha / rank and the recipe's ``saved_scale`` baked in."""
        return self.training.slots.state(average, scale=self.scale * self.recipe.saved_scale, dtype=dtype)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a resumed run needs, by name, on the CPU; good until the second call from now."""
        state = {"weight": self.parameter.detach(), "average": self.average}
        for key, value in self.optimizer.state[self.parameter].items():
            state[f"optimizer/{_form(value)}/{key}"] = torch.as_tensor(value)
        return self.copies.of(state)

    def make_room(self) -> None:
        """Has the page-locked memory for :meth:`tensors` dealt out, so that no checkpoint waits for it: two seconds, which after the first
        step, when kernels are compiled and recorded, are some among many."""
        if self.parameter.is_cuda:
            for _ in range(2):
                self.tensors()

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Exactly what :meth:`tensors` gave. ``KeyError`` if it was another adapter's."""
        self.parameter.copy_(tensors["weight"])
        self.average.copy_(tensors["average"])
        kept = {key.split("/", 2)[2]: (key.split("/", 2)[1], value) for key, value in tensors.items() if key.startswith("optimizer/")}
        self.optimizer.state[self.parameter] = {key: self._placed(key, form, value) for key, (form, value) in kept.items()}

    def _placed(self, key: str, form: str, value: torch.Tensor) -> Any:
        """torch keeps its step count in a tensor (on the CPU unless fused), bitsandbytes in a number; each wants its own back."""
        if form == NUMBER:
            return value.item()
        stays = key == "step" and not self.optimizer.defaults.get("fused")
        return value.clone() if stays else value.to(self.parameter.device, copy=True)


class HostCopies:
    """Copies on the CPU of what lies on a device, of the last two times: page-locked, so that its copy engine writes them directly.

    They are kept: such memory takes a second for 1.2 GB, and torch gives back what nobody holds whenever a graph is recorded.
    """

    def __init__(self) -> None:
        self._kept: deque[dict[str, torch.Tensor]] = deque([{}, {}])

    def of(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Good until the second call from now."""
        self._kept.rotate()
        before = self._kept[0]
        copies = self._kept[0] = {key: _like(value, before.get(key)) for key, value in tensors.items()}
        for key, copy in copies.items():
            copy.copy_(tensors[key], non_blocking=True)
        for device in {value.device for value in tensors.values() if value.is_cuda}:
            torch.cuda.synchronize(device)
        return dict(copies)


def _like(value: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
    if before is not None and (before.shape, before.dtype) == (value.shape, value.dtype):
        return before
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)


def _form(value: Any) -> str:
    return TENSOR if isinstance(value, torch.Tensor) else NUMBER


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of the step that follows ``step`` done steps: linear warm-up, then constant, or a cosine down to a tenth."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.lr_schedule == "constant":
        return recipe.learning_rate * warm
    done = step / max(1, recipe.steps)
    return recipe.learning_rate * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def _optimizer(parameter: nn.Parameter, recipe: Recipe) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "betas": (0.9, recipe.beta2), "weight_decay": recipe.weight_decay}
    on_gpu = parameter.device.type == "cuda"
    if recipe.optimizer == "adamw8bit" and not on_gpu:
        raise UserError("training/needs-gpu", "adamw8bit needs a CUDA GPU", "Use optimizer auto or adamw.")
    small = on_gpu and capacity(parameter.device) < SHORT_OF_MEMORY
    if recipe.optimizer == "adamw8bit" or (recipe.optimizer == "auto" and small):
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit([parameter], **settings)
    return torch.optim.AdamW([parameter], fused=on_gpu, foreach=not on_gpu, **settings)

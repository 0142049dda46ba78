"""What every stage of the teaching shares: a schedule by wall clock, guarded steps, averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import torch
from torch import Tensor


class Clock:
    """Progress of a stage by the minutes given to it, or by a fixed number of steps; whichever is set."""

    def __init__(self, minutes: float, max_steps: int | None = None) -> None:
        self.minutes, self.max_steps, self.started, self.step = minutes, max_steps, time.monotonic(), 0

    @property
    def progress(self) -> float:
        spent = (time.monotonic() - self.started) / (60 * self.minutes)
        return max(spent, self.step / self.max_steps) if self.max_steps else spent

    def running(self) -> bool:
        return self.progress < 1


def learning_rate(step: int, progress: float, peak: float, warmup: int, floor: float = 0.02) -> float:
    """Linear warm-up in steps, then a cosine over the stage's progress down to ``floor`` × peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Guarded:
    """AdamW whose every step is checked: a loss or gradient that is not finite is skipped and counted; many in a row stop the run."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], peak: float, warmup: int, weight_decay: float = 0.01, clip: float = 1.0
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        fused = self.parameters[0].is_cuda
        self.optimizer = torch.optim.AdamW(self.parameters, lr=peak, betas=(0.9, 0.98), weight_decay=weight_decay, fused=fused)
        self.peak, self.warmup, self.clip = peak, warmup, clip
        self.skipped = self.in_a_row = 0

    def step(self, loss: Tensor, step: int, progress: float) -> bool:
        """Backward and update. False if the step was skipped; RuntimeError after 20 skipped in a row."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, progress, self.peak, self.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(loss)):
            self.skipped += 1
            self.in_a_row += 1
            print(f"  step {step}: not finite (loss {loss.item()}, gradient {norm.item()}), skipped", flush=True)
            if self.in_a_row >= 20:
                raise RuntimeError("20 steps in a row were not finite")
            return False
        self.in_a_row = 0
        self.optimizer.step()
        return True


class Average:
    """Exponential moving average of a list of parameters, kept in fp32."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay, self.steps = decay, 0
        self.values = [p.detach().float().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, [p.detach().float() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        for value, parameter in zip(self.values, parameters, strict=True):
            parameter.copy_(value)


def as_pixels(pictures: Tensor) -> Tensor:
    """uint8 [B,3,H,W] → float in [-1, 1]."""
    return pictures.float() / 127.5 - 1

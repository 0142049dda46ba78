"""The fit: flow matching on cached latents, LoRA weights only. Knows nothing of jobs; callbacks tell whoever watches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from core.errors import UserError
from diffusion import lora
from diffusion.devices import GIB_HEADROOM, free_memory, training_attention
from diffusion.loading import BaseModel
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.draws import DrawPlan
from trainer.losses import DivergenceWatch, FlowLoss, not_a_number
from trainer.recipe import Recipe
from trainer.trainee import Trainee, learning_rate, lora_spec


@dataclass(frozen=True)
class StepReport:
    """After ``step`` of ``total`` steps: the mean loss of the last steps and the seconds left, measured."""

    step: int
    total: int
    loss: float
    eta_s: float


OnStep = Callable[[StepReport], None]
OnSaved = Callable[[Path], None]


def fit(
    base: BaseModel,
    cache: TrainingCache,
    recipe: Recipe,
    checkpoints: CheckpointFolder,
    *,
    seed: int = 0,
    class_cache: TrainingCache | None = None,
    on_step: OnStep = lambda report: None,
    on_saved: OnSaved = lambda path: None,
) -> dict[int, Path]:
    """Fits an adapter and returns the candidate adapters by step. ``class_cache``: pictures for the class-preservation loss.

    Goes on from the newest state in ``checkpoints``; on a CPU a resumed run gives bit-identical weights. ``on_step`` may raise to stop.
    The base model is left as it was found, without adapter. Raises :class:`FitDiverged`.
    """
    try:
        return _Fit(base, cache, recipe, checkpoints, seed, class_cache).run(on_step, on_saved)
    finally:
        lora.detach(base.transformer)


class _Fit:
    def __init__(
        self,
        base: BaseModel,
        cache: TrainingCache,
        recipe: Recipe,
        checkpoints: CheckpointFolder,
        seed: int,
        class_cache: TrainingCache | None = None,
    ) -> None:
        self.base, self.cache, self.recipe, self.checkpoints = base, cache, recipe, checkpoints
        self.accelerator = open_accelerator(base, recipe)
        self.loss = FlowLoss(base, cache, recipe, class_cache)
        self.watch = DivergenceWatch(recipe.divergence_limit, recipe.divergence_window)
        self.plan = draw_plan(base, cache, recipe, seed)
        self.class_plan = draw_plan(base, self.loss.class_cache, recipe, seed, "class") if self.loss.class_cache else None
        self.trainee = Trainee.attach(base, recipe, seed)
        self.clock = StepClock()

    def run(self, on_step: OnStep, on_saved: OnSaved) -> dict[int, Path]:
        start = self._resume()
        self.transformer, self.optimizer = self.accelerator.prepare(self.base.transformer, self.trainee.optimizer)
        try:
            with training_attention(self.base.device), checkpointed(self.base, self._needs_checkpointing()):
                for step in range(start, self.recipe.steps):
                    loss = self._step(step)
                    on_step(self.clock.report(step + 1, self.recipe.steps, loss))
                    self._save(step + 1, on_saved)
            self.accelerator.wait_for_everyone()
        finally:
            self.accelerator.unwrap_model(self.transformer, keep_fp32_wrapper=False)
            self.accelerator.free_memory()
        return self.checkpoints.candidates()

    def _resume(self) -> int:
        newest = self.checkpoints.newest()
        if newest is None:
            return 0
        self.trainee.restore(newest.tensors)
        self.watch.restore(newest.tensors)
        return newest.step

    def _step(self, step: int) -> float:
        """One optimizer step; returns its mean loss over all processes."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, step)
        micro_batches = self.recipe.gradient_accumulation_steps
        losses = [self._micro_batch(step, step * micro_batches + micro) for micro in range(micro_batches)]
        self.trainee.average_in(self.recipe.ema_decay, step)
        loss, relative = self.accelerator.reduce(torch.stack(losses).mean(0), "mean").tolist()
        self.watch.see(relative, step + 1)
        return loss

    def _micro_batch(self, step: int, number: int) -> torch.Tensor:
        """The loss, and the same relative to a blind guess's: [2]."""
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        draw = self.plan.draw(number).share(*share)
        class_draw = self.class_plan.draw(number).share(*share) if self.class_plan else None
        with self.accelerator.accumulate(self.transformer):
            loss = self.loss(self.transformer, draw, class_draw)
            self._refuse_unless_finite(loss, "loss", step)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                norm = self.accelerator.clip_grad_norm_(self.trainee.parameters.values(), self.recipe.max_grad_norm)
                self._refuse_unless_finite(norm, "gradient", step)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return torch.stack([loss.detach(), loss.detach() / self.loss.blind(draw, class_draw)])

    def _refuse_unless_finite(self, value: torch.Tensor | None, what: str, step: int) -> None:
        if value is not None and not math.isfinite(value.item()):
            raise not_a_number(what, step + 1)

    def _save(self, step: int, on_saved: OnSaved) -> None:
        """Candidate first: a state at or past a candidate's step promises that the candidate is there."""
        if not self.accelerator.is_main_process:
            return
        if step in self.recipe.candidate_steps:
            strength = lora_spec(self.base, self.recipe).scale * self.recipe.saved_scale
            state = self.trainee.adapter_state(strength, self.base.dtype)
            on_saved(self.checkpoints.save_candidate(step, state))
        if step % self.recipe.checkpoint_every == 0 or step == self.recipe.steps:
            on_saved(self.checkpoints.save_state(step, self.trainee.tensors() | self.watch.tensors()))

    def _needs_checkpointing(self) -> bool:
        if self.recipe.gradient_checkpointing != "auto":
            return self.recipe.gradient_checkpointing == "on"
        tokens = self.loss.ids.shape[0] + self.loss.text.text_ids.shape[0]
        needed = activation_bytes(self.base.transformer, tokens * self.recipe.batch_size * (2 if self.class_plan else 1))
        return self.base.device.type == "cuda" and free_memory(self.base.device) < needed + GIB_HEADROOM


class StepClock:
    """Measures steps: the ETA follows the machine's present speed, the loss is smoothed over about ten steps."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.seconds: float | None = None
        self.loss: float | None = None

    def report(self, step: int, total: int, loss: float) -> StepReport:
        now = time.monotonic()
        self.seconds = _smooth(self.seconds, now - self.last)
        self.loss = _smooth(self.loss, loss)
        self.last = now
        return StepReport(step, total, round(self.loss, 5), round(self.seconds * (total - step), 1))


def _smooth(average: float | None, value: float, weight: float = 0.1) -> float:
    return value if average is None else average + weight * (value - average)


def open_accelerator(base: BaseModel, recipe: Recipe) -> Accelerator:
    """bf16 autocast over float32 LoRA weights where the base multiplies in bf16; all processes that ``accelerate launch`` started."""
    AcceleratorState._reset_state(reset_partial_state=True)  # a process-wide singleton: an earlier fit may have had another precision
    accelerator = Accelerator(
        cpu=base.device.type == "cpu",
        device_placement=False,  # everything is on the base model's device already, which need not be the first
        mixed_precision="bf16" if base.dtype is torch.bfloat16 else "no",
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
    )
    if recipe.batch_size % accelerator.num_processes:
        raise UserError(
            "training/batch-size",
            f"A batch of {recipe.batch_size} cannot be shared by {accelerator.num_processes} processes",
            "Set batch_size to a multiple of the number of GPUs.",
        )
    return accelerator


def draw_plan(base: BaseModel, cache: TrainingCache, recipe: Recipe, seed: int, purpose: str = "") -> DrawPlan:
    """``purpose`` keeps draws of other pictures apart from those of the photos; captions are dropped of photos only."""
    tokens = base.family.image_ids(*cache.latents.shape[-2:]).shape[0]
    return DrawPlan(
        seed=f"{purpose}/{seed}" if purpose else seed,
        photo_count=len(cache),
        batch_size=recipe.batch_size,
        latent_shape=tuple(cache.latents.shape[1:]),
        mu=base.family.shift(base, tokens) if recipe.sigma_shift else 0.0,
        sigma_mean=recipe.sigma_mean,
        sigma_std=recipe.sigma_std,
        caption_dropout=0.0 if purpose else recipe.caption_dropout,
    )


def activation_bytes(transformer: Any, tokens: int) -> int:
    """What a step keeps for its backward without checkpointing: 25 GiB for 4,608 tokens of FLUX.1-dev (57 blocks of width 3,072), measured;
    linear in tokens, blocks and width."""
    config = transformer.config
    blocks = config.num_layers + config.num_single_layers
    width = config.num_attention_heads * config.attention_head_dim
    return int(25 * 2**30 * (tokens / 4608) * (blocks * width) / (57 * 3072))


class checkpointed:
    """Gradient checkpointing of the transformer inside the block only: rendering must not pay for it."""

    def __init__(self, base: BaseModel, wanted: bool) -> None:
        self.transformer, self.wanted = base.transformer, wanted

    def __enter__(self) -> None:
        if self.wanted:
            self.transformer.enable_gradient_checkpointing()

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            self.transformer.disable_gradient_checkpointing()

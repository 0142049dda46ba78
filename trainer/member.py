"""One adapter's run within a pass: its photos, its draws, its trainee, its checkpoints and those who watch it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.errors import UserError, WorkerStopping
from diffusion.loading import BaseModel
from diffusion.slot_training import SlotTraining
from trainer.background import Background
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.draws import DrawPlan, Shape
from trainer.losses import DivergenceWatch, not_a_number
from trainer.recipe import Recipe
from trainer.reports import StepClock, StepReport
from trainer.rows import Pictures, Rows
from trainer.trainee import Trainee
from trainer.world import World

OnStep = Callable[[StepReport], None]
OnSaved = Callable[[Path], None]


@dataclass(frozen=True)
class FitOrder:
    """What to fit. ``class_cache``: pictures for the class-preservation loss. ``on_step`` may raise to stop, ``on_saved`` gets each file in
    a thread beside the fit and may raise too, ``on_note`` what a person should know."""

    cache: TrainingCache
    recipe: Recipe
    checkpoints: CheckpointFolder
    seed: int = 0
    class_cache: TrainingCache | None = None
    on_step: OnStep = lambda report: None
    on_saved: OnSaved = lambda path: None
    on_note: Callable[[str], None] = lambda note: None


@dataclass
class Unread:
    """Losses and gradient norms of done steps that still lie on the device."""

    steps: list[int] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)  # [3] each: loss, loss relative to a blind guess's, gradient norm


class Member:
    """Takes part in passes from its newest checkpoint to its last step. ``step`` counts the steps done."""

    def __init__(self, base: BaseModel, training: SlotTraining, slot: int, order: FitOrder, world: World) -> None:
        self.base, self.order, self.recipe, self.world = base, order, order.recipe, world
        if self.recipe.batch_size % world.size:
            raise UserError(
                "training/batch-size",
                f"A batch of {self.recipe.batch_size} cannot be shared by {world.size} processes",
                "Set batch_size to a multiple of the number of GPUs.",
            )
        self.trainee = Trainee(training, slot, self.recipe, order.seed, world)
        self.photos = Pictures(base, order.cache, self.recipe.background_weight)
        self.plan = draw_plan(base, order.cache, self.recipe, order.seed)
        extra = order.class_cache if self.recipe.class_preservation > 0 else None
        self.class_pictures = Pictures(base, extra) if extra else None
        self.class_plan = draw_plan(base, extra, self.recipe, order.seed, "class") if extra else None
        self.watch = DivergenceWatch(self.recipe.divergence_limit, self.recipe.divergence_window)
        self.clock, self.unread, self.saving = StepClock(), Unread(), Background("checkpoints")
        self.step = self.started = self._resume()

    @property
    def slot(self) -> int:
        return self.trainee.slot

    @property
    def done(self) -> bool:
        return self.step >= self.recipe.steps

    def rows(self, micro: int) -> list[Rows]:
        """Of micro-batch ``micro`` of the step to come: photos, and class pictures if the recipe wants them."""
        micros = self.recipe.gradient_accumulation_steps
        number, slot, guidance = self.step * micros + micro, self.slot, self.recipe.guidance
        rows = [self.photos.rows(self.world.share(self.plan.draw(number)), slot, guidance, 1 / micros)]
        if self.class_pictures and self.class_plan:
            draw = self.world.share(self.class_plan.draw(number))
            rows.append(self.class_pictures.rows(draw, slot, guidance, self.recipe.class_preservation / micros))
        return rows

    def update(self, loss: torch.Tensor, blind: float) -> None:
        """Ends the step whose gradient lies in the slot's row; ``loss`` stays on the device until :meth:`read`. ``blind``: what a predictor
        that knows nothing would have scored."""
        norm = self.trainee.update(self.step)
        if self.step == self.started:
            self.trainee.make_room()
        self.step += 1
        self.unread.steps.append(self.step)
        self.unread.values.append(torch.stack([loss, loss / blind, norm]))

    def read(self) -> None:
        """Reports the steps done since the last time; raises :class:`FitDiverged` for the first that is not finite or has run away."""
        steps, values = self.unread.steps, self.unread.values
        self.unread = Unread()
        if not steps:
            return
        read = self.world.mean_(torch.stack(values)).tolist()
        self.clock.tick(len(steps))
        stop: WorkerStopping | None = None
        for step, (loss, relative, norm) in zip(steps, read, strict=True):
            self.watch.see(relative, step)
            if not math.isfinite(norm):
                raise not_a_number("gradient", step)
            try:
                self.order.on_step(self.clock.report(step, self.recipe.steps, loss))
            except WorkerStopping as error:  # the steps that are done are judged first: they are what is kept
                stop = error
        if stop:
            self.save(at_once=True)
            self.saving.settle()
            raise stop

    @property
    def saves(self) -> bool:
        """Whether something must be written after the step just done."""
        return self.step in self.recipe.candidate_steps or self._saves_state

    @property
    def _saves_state(self) -> bool:
        return self.step % self.recipe.checkpoint_every == 0 or self.done

    def save(self, at_once: bool = False) -> None:
        """Copies what is to be kept; a thread writes it and tells, while the fit goes on. What went wrong with those before is raised.
        ``at_once``: a state whatever the step, for whoever goes on from here."""
        if not self.world.main:
            return
        self.saving.make_way()
        kept, step = self.trainee.tensors() | self.watch.tensors(), self.step
        candidate, state = step in self.recipe.candidate_steps, at_once or self._saves_state
        self.saving.do(lambda: self._write(kept, step, candidate, state))

    def _write(self, kept: dict[str, torch.Tensor], step: int, candidate: bool, state: bool) -> None:
        """Candidate first: a state at or past a candidate's step promises that the candidate is there."""
        checkpoints = self.order.checkpoints
        if candidate:
            adapter = self.trainee.adapter_state(kept["average"], self.base.dtype)
            self.order.on_saved(checkpoints.save_candidate(step, adapter))
        if state:
            self.order.on_saved(checkpoints.save_state(step, kept))

    def _resume(self) -> int:
        newest = self.order.checkpoints.newest()
        if newest is None:
            return 0
        self.trainee.restore(newest.tensors)
        self.watch.restore(newest.tensors)
        return newest.step


def draw_plan(base: BaseModel, cache: TrainingCache, recipe: Recipe, seed: int, purpose: str = "") -> DrawPlan:
    """``purpose`` keeps draws of other pictures apart from those of the photos; captions are dropped of photos only."""

    def shift(shape: Shape) -> float:
        tokens = base.family.image_ids(*shape[-2:]).shape[0]
        return base.family.shift(base, tokens) if recipe.sigma_shift else 0.0

    return DrawPlan(
        seed=f"{purpose}/{seed}" if purpose else seed,
        shapes=cache.shapes,
        batch_size=recipe.batch_size,
        shift=shift,
        sigma_mean=recipe.sigma_mean,
        sigma_std=recipe.sigma_std,
        caption_dropout=0.0 if purpose else recipe.caption_dropout,
    )

"""The fit: flow matching on cached latents, LoRA weights only. Knows nothing of jobs; callbacks tell whoever watches.

Several customers' adapters can be fitted in one pass over the frozen base: each has its own photos, weights, optimizer, draws and step
count, and comes out as if it had been alone. One adapter is a group of one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core import garbage
from diffusion.loading import BaseModel
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.member import FitOrder, Member, OnSaved, OnStep
from trainer.memory import MemoryPlan
from trainer.recipe import Recipe
from trainer.seats import Seats
from trainer.world import World

WAITS = 0.05  # seconds for a checkpoint under way, until whoever comes between steps is let in again
READ_EVERY = 10  # steps on a GPU between looks at the losses: each look waits for the device


@dataclass
class Fitting:
    """How one order ended: ``candidates`` by step, or ``error``. ``memory``: what it ran with, for the card."""

    candidates: dict[int, Path] = field(default_factory=dict)
    error: Exception | None = None
    memory: dict = field(default_factory=dict)


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
    on_note: Callable[[str], None] = lambda note: None,
    between_steps: Callable[[], None] = lambda: None,
    seats: Seats | None = None,
) -> dict[int, Path]:
    """Fits an adapter and returns the candidate adapters by step; see :func:`fit_together`. Raises what ended the fit."""
    order = FitOrder(cache, recipe, checkpoints, seed, class_cache, on_step, on_saved, on_note)
    (fitting,) = fit_together(base, [order], between_steps=between_steps, seats=seats)
    if fitting.error:
        raise fitting.error
    return fitting.candidates


def fit_together(
    base: BaseModel, orders: Sequence[FitOrder], *, between_steps: Callable[[], None] = lambda: None, seats: Seats | None = None
) -> list[Fitting]:
    """Fits every order's adapter in common passes. One that fails (:class:`FitDiverged`, or what its ``on_step`` raises) leaves the
    others alone. All must agree in rank, target set and gradient accumulation.

    Each goes on from the newest state in its checkpoints; on a CPU a resumed run gives bit-identical weights. ``between_steps`` is called
    after every step, and again and again while checkpoints that were not stored in time are waited for. The base computes afterwards what
    it did before; with ``seats`` its slots stay on it, empty, for the next fit.
    """
    own = seats or Seats(base, len(orders))
    garbage.settle()
    try:
        return _Group(base, orders, own, between_steps).run()
    finally:
        own.clear() if seats else own.remove()
        gc.collect()  # optimizers lie in cycles: without this their states, near a GB an adapter, stay until some later collection


class _Group:
    def __init__(self, base: BaseModel, orders: Sequence[FitOrder], seats: Seats, between_steps: Callable[[], None]) -> None:
        first, self.between_steps = orders[0].recipe, between_steps
        self.base, self.world = base, World.open(base)
        self.training, self.passes = seats.training(first), seats.passes(first)
        self.micro_batches = first.gradient_accumulation_steps
        self.fittings = [Fitting() for _ in orders]
        self.members = [Member(base, self.training, slot, order, self.world) for slot, order in enumerate(orders)]
        self.training.publish()
        self.training.zero_gradients()
        self.read_every = READ_EVERY if base.device.type == "cuda" else 1
        self.plan = MemoryPlan(base, first, sum(map(_tokens, self.members)), self.passes.release, self._tell)

    def run(self) -> list[Fitting]:
        try:
            while active := [member for member in self.members if not member.done and not self.fittings[member.slot].error]:
                self._step(active)
                self.between_steps()
            self._settle()
            self.world.wait()
        finally:
            self._close()
        for member, fitting in zip(self.members, self.fittings, strict=True):
            fitting.memory = self.plan.as_dict() | self.world.as_dict()
            fitting.candidates = member.order.checkpoints.candidates()
        return self.fittings

    def _step(self, active: Sequence[Member]) -> None:
        """One optimizer step of every active member."""
        losses = self._gradients(active)
        for member in active:
            self.world.mean_(member.trainee.gradient)
            member.update(*losses[member.slot])
        self.training.publish()
        self.training.zero_gradients()
        for member in active:
            self._after(member)

    def _gradients(self, active: Sequence[Member]) -> dict[int, tuple[torch.Tensor, float]]:
        """Each slot's loss, and what a blind guess would score.

        Draws are a function of the step, so what did not fit into memory is simply done again in another way.
        """
        while True:
            try:
                return self._accumulate(active)
            except torch.OutOfMemoryError as error:
                reason = str(error)
            self._forget_pass()  # not before: while its error is handled, the pass that failed holds all of its memory
            if self.world.size > 1 or not self.plan.step_down():
                raise torch.OutOfMemoryError(reason)

    def _forget_pass(self) -> None:
        self.training.collect()  # what backward left before it failed
        self.training.zero_gradients()
        gc.collect()

    def _accumulate(self, active: Sequence[Member]) -> dict[int, tuple[torch.Tensor, float]]:
        sums = {member.slot: (torch.zeros((), device=self.base.device), 0.0) for member in active}
        for micro in range(self.micro_batches):
            rows = [own for member in active for own in member.rows(micro)]
            for slot, loss in self.passes.run(rows).items():
                blind = sum(own.blind for own in rows if own.slot == slot)
                sums[slot] = (sums[slot][0] + loss, sums[slot][1] + blind)
        return sums

    def _after(self, member: Member) -> None:
        """Reads, reports and saves where it is time. What is wrong with one member ends that one alone."""
        try:
            if member.saves or len(member.unread.steps) >= self.read_every:
                member.read()
            if member.saves:
                while not member.saving.has_room(within=WAITS):
                    self.between_steps()
                member.save()
        except Exception as error:
            self.fittings[member.slot].error = error

    def _settle(self) -> None:
        """What is saved last is waited for: a GB that goes to a store far away takes a while."""
        for member in self.members:
            while not member.saving.idle(within=WAITS):
                self.between_steps()
            try:
                member.saving.settle()
            except Exception as error:
                fitting = self.fittings[member.slot]
                fitting.error = fitting.error or error

    def _close(self) -> None:
        for member in self.members:
            member.saving.close()
        self.plan.close()

    def _tell(self, note: str) -> None:
        for member in self.members:
            member.order.on_note(note)


def _tokens(member: Member) -> int:
    """Of the member's largest batch, captions included."""
    text = member.photos.text.text_ids.shape[0]
    pictures = max(member.base.family.image_ids(*shape[-2:]).shape[0] for shape in member.plan.shapes)
    return (pictures + text) * member.recipe.batch_size * (2 if member.class_pictures else 1)

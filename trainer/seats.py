"""Where adapters sit while they are fitted: slots on the base's transformer, wrapped once and kept, so that graphs outlive jobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffusion.loading import BaseModel
from diffusion.lora_slots import LoraSlots
from diffusion.slot_training import SlotTraining
from trainer.passes import Passes
from trainer.recipe import Recipe


@dataclass
class Seats:
    """Belongs to one base model. ``count`` adapters can be fitted in one pass; slot 0 also holds the one that is being judged."""

    base: BaseModel
    count: int = 1
    _slots: LoraSlots | None = field(default=None, repr=False)
    _training: SlotTraining | None = field(default=None, repr=False)
    _passes: Passes | None = field(default=None, repr=False)

    def slots(self, recipe: Recipe) -> LoraSlots:
        """Laid out for the recipe's rank and modules. Another layout than the last one's costs new graphs, so operators set one."""
        spec = self.base.family.lora_spec(recipe.target_set, rank=recipe.rank, alpha=recipe.alpha)
        present = self._slots
        if present is None or (present.spec.rank, present.spec.target_modules) != (spec.rank, spec.target_modules):
            self.remove()
            self._slots = LoraSlots(self.base.transformer, spec, count=self.count, dtype=self.base.dtype)
        assert self._slots
        return self._slots

    def training(self, recipe: Recipe) -> SlotTraining:
        """Master weights and gradients for the slots; they stay open, since switching gradients on and off would cost new graphs."""
        slots = self.slots(recipe)
        if self._training is None:
            self._training = SlotTraining(slots)
        return self._training

    def passes(self, recipe: Recipe) -> Passes:
        """What runs rows through the slots; kept, because of its recorded graphs."""
        training = self.training(recipe)
        if self._passes is None:
            self._passes = Passes(self.base, training)
        return self._passes

    def clear(self) -> None:
        """Empties every slot: the transformer computes what the bare base does."""
        if self._slots:
            for slot in range(self._slots.count):
                self._slots.clear(slot)
                self._slots.set_scale(slot, 1.0)
            self._slots.use(count=1)

    def remove(self) -> None:
        """Takes the wrappers off: the transformer is the bare base again, for whoever puts adapters on it in another way."""
        if self._training:
            self._training.close()
        if self._slots:
            self._slots.remove()
        if self._passes:
            self._passes.release()
        self._slots = self._training = self._passes = None

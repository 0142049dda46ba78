"""Forward and backward over the frozen base for rows of one or several adapters; each adapter's gradient is as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffusion.loading import BaseModel
from diffusion.slot_training import SlotTraining
from trainer.losses import picture_losses
from trainer.rows import Rows, batches, joined


class Passes:
    """Runs rows through the transformer and leaves gradients in ``training``."""

    def __init__(self, base: BaseModel, training: SlotTraining) -> None:
        self.base, self.training = base, training
        self._ids: dict[tuple[int, ...], torch.Tensor] = {}

    def run(self, rows: Sequence[Rows]) -> dict[int, torch.Tensor]:
        """Each slot's loss, a scalar on the device: the sum over its rows of factor · loss of the picture."""
        sums: dict[int, torch.Tensor] = {}
        for batch in batches(rows):
            losses = self._forward_and_backward(batch).split([len(own) for own in batch])
            for own, values in zip(batch, losses, strict=True):
                sums[own.slot] = sums.get(own.slot, 0.0) + own.factor * values.sum()
        return sums

    def release(self) -> None:
        """Gives back memory that is held for speed."""
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def losses(self, rows: Rows) -> torch.Tensor:
        """The loss of each picture [B]."""
        transformer, ids = self.base.transformer, self._positions(rows.shape)
        predicted = self.base.family.predict(transformer, rows.tokens, ids, rows.text, rows.sigmas, rows.guidance)
        return picture_losses(predicted, rows.target, rows.weights)

    def _forward_and_backward(self, batch: Sequence[Rows]) -> torch.Tensor:
        use_slots(self.training, batch)
        losses = self.losses(joined(batch))
        (losses * self._factors(batch)).sum().backward()
        self.training.collect()
        return losses.detach()

    def _factors(self, batch: Sequence[Rows]) -> torch.Tensor:
        return torch.cat([torch.full((len(own),), own.factor, device=self.base.device) for own in batch])

    def _positions(self, shape: tuple[int, ...]) -> torch.Tensor:
        if shape not in self._ids:
            self._ids[shape] = self.base.family.image_ids(*shape[-2:]).to(self.base.device, self.base.dtype)
        return self._ids[shape]


def use_slots(training: SlotTraining, batch: Sequence[Rows]) -> None:
    """The first slots with equal shares where that is what the rows are (no copies of weights), else row by row."""
    owners = [own.slot for own in batch for _ in range(len(own))]
    count = len(set(owners))
    if owners == [slot for slot in range(count) for _ in range(len(owners) // count)]:
        training.slots.use(count=count)
    else:
        training.slots.use(rows=owners)

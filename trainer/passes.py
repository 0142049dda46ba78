"""Forward and backward over the frozen base for rows of one or several adapters; each adapter's gradient is as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffusion.attention import training_attention
from diffusion.loading import BaseModel
from diffusion.slot_training import SlotTraining
from trainer.graphs import Graphs
from trainer.lanes import Lanes
from trainer.losses import picture_losses
from trainer.rows import Rows, batches, joined

MOST_LANES = 4  # pictures at a time on a CPU: each has activations of its own
RECORDED_TOKENS = 3072  # tokens of a pass up to which launches, and not arithmetic, are what an H200 waits for


class Passes:
    """Runs rows through the transformer and leaves gradients in ``training``. Lives as long as the slots: graphs are kept between fits.

    ``recorded_tokens``: passes of at most so many tokens are recorded as CUDA graphs; 0: none.
    """

    def __init__(self, base: BaseModel, training: SlotTraining, *, recorded_tokens: int = RECORDED_TOKENS) -> None:
        self.base, self.training, self.recorded_tokens = base, training, recorded_tokens
        self._ids: dict[tuple[int, ...], torch.Tensor] = {}
        self._lanes = Lanes(MOST_LANES) if base.device.type == "cpu" else None
        self._graphs = Graphs(training.slots, self.losses) if base.device.type == "cuda" and recorded_tokens else None

    def run(self, rows: Sequence[Rows]) -> dict[int, torch.Tensor]:
        """Each slot's loss, a scalar on the device: the sum over its rows of factor · loss of the picture."""
        sums: dict[int, torch.Tensor] = {}
        with training_attention(self.base.device):
            for batch in batches(rows):
                losses = self._forward_and_backward(batch).split([len(own) for own in batch])
                for own, values in zip(batch, losses, strict=True):
                    sums[own.slot] = sums.get(own.slot, 0.0) + own.factor * values.sum()
        return sums

    def losses(self, rows: Rows) -> torch.Tensor:
        """The loss of each picture [B]."""
        transformer, ids = self.base.transformer, self._positions(rows.shape)
        predicted = self.base.family.predict(transformer, rows.tokens, ids, rows.text, rows.sigmas, rows.guidance)
        return picture_losses(predicted, rows.target, rows.weights)

    def release(self) -> None:
        """Gives back memory that is held for speed."""
        if self._graphs:
            self._graphs.release()
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward_and_backward(self, batch: Sequence[Rows]) -> torch.Tensor:
        if self._lanes and len({own.slot for own in batch}) == 1:
            return self._side_by_side(self._lanes, batch)
        owners = use_slots(self.training, [own.slot for own in batch for _ in range(len(own))])
        rows, factors = joined(batch), self._factors(batch)
        losses = None
        if self._graphs and self._records(rows):
            losses = self._graphs.run((owners, batch[0].fits_with, rows.weights is None), rows, factors)
        if losses is None:
            losses = self.losses(rows)
            (losses * factors).sum().backward()
        self.training.collect()
        return losses.detach().clone()  # a recording writes its next losses into the same place

    def _side_by_side(self, lanes: Lanes, batch: Sequence[Rows]) -> torch.Tensor:
        """Picture by picture, of one slot; gradients are added up in the pictures' order, so lanes do not change a bit."""
        use_slots(self.training, [batch[0].slot])
        rows, factors = joined(batch), self._factors(batch)

        def one(index: int) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
            losses = self.losses(rows.picture(index))
            return losses.detach(), self.training.gradients_of((losses * factors[index]).sum())

        results = lanes.map(one, range(len(rows)))
        for _, gradients in results:
            self.training.add(gradients)
        return torch.cat([losses for losses, _ in results])

    def _records(self, rows: Rows) -> bool:
        tokens = len(rows) * (rows.tokens.shape[1] + rows.text.prompt_embeds.shape[1])
        return tokens <= self.recorded_tokens and not self.base.transformer.gradient_checkpointing

    def _factors(self, batch: Sequence[Rows]) -> torch.Tensor:
        return torch.cat([torch.full((len(own),), own.factor, device=self.base.device) for own in batch])

    def _positions(self, shape: tuple[int, ...]) -> torch.Tensor:
        if shape not in self._ids:
            self._ids[shape] = self.base.family.image_ids(*shape[-2:]).to(self.base.device, self.base.dtype)
        return self._ids[shape]


def use_slots(training: SlotTraining, owners: Sequence[int]) -> tuple[int, ...]:
    """``owners``: each row's slot. The first slots with equal shares where rows are so (weights are not copied), else row by row."""
    count = len(set(owners))
    if list(owners) == [slot for slot in range(count) for _ in range(len(owners) // count)]:
        training.slots.use(count=count)
    else:
        training.slots.use(rows=owners)
    return tuple(owners)

"""Passes recorded as CUDA graphs: small pictures leave the GPU waiting for some ten thousand launches a step, a replay is one launch."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields, replace

import torch

from core.logs import get_logger
from diffusion.lora_slots import LoraSlots
from diffusion.recorded import record, stream_of_its_own
from diffusion.text import PromptEmbeds
from trainer.rows import Rows

log = get_logger("trainer")

Losses = Callable[[Rows], torch.Tensor]
SEEN_BEFORE = 2  # a shape is recorded when it comes for the third time: by then its kernels are compiled
PER_PICTURE = ("tokens", "target", "sigmas", "weights")


class Graphs:
    """Recorded passes by shape, with one pool of memory for all: passes never overlap."""

    def __init__(self, slots: LoraSlots, losses: Losses) -> None:
        self.losses = losses
        self.leaves = [parameter for layer in slots.layers() for parameter in (layer.lora_A, layer.lora_B)]
        self.recorded: dict[Hashable, Recording] = {}
        self.seen: dict[Hashable, int] = {}
        self.pool = torch.cuda.graph_pool_handle()
        self.broken = False

    def run(self, key: Hashable, rows: Rows, factors: torch.Tensor) -> torch.Tensor | None:
        """Losses [B], with gradients left on the layers; None if this pass is not recorded (yet) and must run as usual."""
        if key not in self.recorded:
            self.seen[key] = self.seen.get(key, 0) + 1
            if self.broken or self.seen[key] <= SEEN_BEFORE:
                return None
            try:
                self.recorded[key] = Recording(self, rows, factors)
            except RuntimeError as error:  # some kernel cannot be recorded: launches one by one still work
                log.warning("passes are not recorded", error=str(error)[:200])
                self.broken = True
                return None
        return self.recorded[key].replay(rows, factors)

    def release(self) -> None:
        """Forgets the recordings and their memory."""
        self.recorded.clear()
        self.seen.clear()
        self.pool = torch.cuda.graph_pool_handle()


class Recording:
    """One forward and backward pass whose inputs and gradients lie where they always lie."""

    def __init__(self, graphs: Graphs, rows: Rows, factors: torch.Tensor) -> None:
        self.leaves, self.rows, self.factors = graphs.leaves, _copied(rows), factors.clone()
        with stream_of_its_own():
            self._pass(graphs.losses)
            self._forget()
        self.graph, self.result = record(lambda: self._pass(graphs.losses), graphs.pool)
        self.gradients = [leaf.grad for leaf in self.leaves]
        self._forget()

    def replay(self, rows: Rows, factors: torch.Tensor) -> torch.Tensor:
        for mine, theirs in zip(_tensors(self.rows), _tensors(rows), strict=True):
            mine.copy_(theirs)
        self.factors.copy_(factors)
        self.graph.replay()
        for leaf, gradient in zip(self.leaves, self.gradients, strict=True):
            leaf.grad = gradient
        return self.result

    def _pass(self, losses: Losses) -> torch.Tensor:
        result = losses(self.rows)
        (result * self.factors).sum().backward()
        return result.detach()

    def _forget(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None


def _copied(rows: Rows) -> Rows:
    own = {name: getattr(rows, name) for name in PER_PICTURE}
    text = PromptEmbeds(rows.text.prompt_embeds.clone(), rows.text.pooled_prompt_embeds.clone(), rows.text.text_ids)
    return replace(rows, text=text, **{name: value.clone() for name, value in own.items() if value is not None})


def _tensors(rows: Rows) -> list[torch.Tensor]:
    own = [getattr(rows, field.name) for field in fields(rows) if field.name in PER_PICTURE]
    return [*(value for value in own if value is not None), rows.text.prompt_embeds, rows.text.pooled_prompt_embeds]

"""What memory a fit may take, and what it gives up when that was too much: first what it does not need (text encoders), then speed
(checkpointing), then bits of the frozen base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from core.logs import get_logger
from diffusion.checkpointing import blocks_to_checkpoint, set_checkpointing
from diffusion.compiled import blocks
from diffusion.devices import capacity, free_memory, has_fp8
from diffusion.loading import BaseModel
from diffusion.precision import FP8, NF4
from diffusion.quantise import quantise
from trainer.recipe import Recipe

log = get_logger("trainer")

SPARE = 2 * 2**30  # bytes left free: fragments, and a workspace for each matrix kernel
SMALL_CARD, SPARE_ON_SMALL = 32 * 2**30, 5 * 2**30  # a desk's card also draws its screen: a fit that takes all of it dies of a browser


class MemoryPlan:
    """What a running fit uses. ``notes`` says, for people, every step that it had to go down."""

    def __init__(
        self,
        base: BaseModel,
        recipe: Recipe,
        tokens: int,
        release: Callable[[], None] = lambda: None,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        """``tokens``: of all pictures and captions of the largest pass together. ``release`` gives back memory that is held for speed."""
        self.base, self.release, self.on_note = base, release, on_note
        self.notes: list[str] = []
        self.away: set[str] = set()
        self.blocks = len(blocks(base.transformer))
        self.checkpointed = self._at_first(recipe, tokens)
        set_checkpointing(base.transformer, self.checkpointed)

    def step_down(self) -> bool:
        """To the next that takes less memory; False if there is none. Nothing of the failed pass may be held any more: layers need room."""
        self.release()
        if self._send_away():
            return self._noted("the text encoders in main memory")
        if self.checkpointed < self.blocks:
            self.checkpointed = self.blocks if self.checkpointed else (self.blocks + 1) // 2
            set_checkpointing(self.base.transformer, self.checkpointed)
            return self._noted(f"gradient checkpointing of {self.checkpointed} of {self.blocks} blocks, which is slower")
        if self.base.precision.quantised:
            return False
        narrower = FP8 if self.base.device.type != "cuda" or has_fp8(self.base.device) else NF4
        quantise(self.base.transformer, narrower, self.base.device)
        self.base.precision = replace(narrower, dtype=self.base.dtype)
        return self._noted(f"the base model in {narrower.name}")

    def close(self) -> None:
        """Rendering must not pay for it."""
        set_checkpointing(self.base.transformer, 0)
        self.base.call_back(self.away)

    def as_dict(self) -> dict[str, Any]:
        """For the card."""
        share = round(self.checkpointed / self.blocks, 2)
        held = {"gradient_checkpointing": share, "precision": self.base.precision.name, "in_main_memory": sorted(self.away)}
        return held | {"stepped_down": list(self.notes)}

    def _at_first(self, recipe: Recipe, tokens: int) -> int:
        if recipe.gradient_checkpointing != "auto":
            return self.blocks if recipe.gradient_checkpointing == "on" else 0
        if self.base.device.type != "cuda":
            return 0
        if self._needed(tokens):
            self.release()
        if self._needed(tokens) and self._send_away():
            log.info("text encoders are in main memory during this fit", parts=sorted(self.away))
        return self._needed(tokens)

    def _send_away(self) -> set[str]:
        """Captions are encoded by now; what a guest asks for meanwhile lets the encoders visit."""
        gone = self.base.send_away("text_encoders")
        self.away |= gone
        return gone

    def _needed(self, tokens: int) -> int:
        spare = SPARE_ON_SMALL if capacity(self.base.device) <= SMALL_CARD else SPARE
        return blocks_to_checkpoint(self.base.transformer, tokens, max(0, free_memory(self.base.device) - spare))

    def _noted(self, what: str) -> bool:
        note = f"Out of GPU memory: going on with {what}."
        log.warning("stepped down", reason=note)
        self.notes.append(note)
        self.on_note(note)
        return True

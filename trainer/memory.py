"""What memory a fit may take, and what it gives up when that was too much: first speed (checkpointing), then bits of the frozen base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.logs import get_logger
from diffusion.devices import GIB_HEADROOM, free_memory
from diffusion.loading import BaseModel
from trainer.recipe import Recipe

log = get_logger("trainer")

LEVELS = ("off", "full")  # of gradient checkpointing, least memory last


class MemoryPlan:
    """What a running fit uses. ``notes`` says, for people, every step that it had to go down."""

    def __init__(self, base: BaseModel, recipe: Recipe, tokens: int, on_note: Callable[[str], None] = lambda note: None) -> None:
        """``tokens``: of all pictures and captions of the largest pass together."""
        self.base, self.on_note = base, on_note
        self.notes: list[str] = []
        self.level = _first_level(base, recipe, tokens)
        self._apply()

    def step_down(self) -> bool:
        """To the next that takes less memory; False if there is none."""
        if LEVELS[-1] != self.level:
            self.level = LEVELS[LEVELS.index(self.level) + 1]
            self._apply()
            return self._noted(f"out of GPU memory: going on with gradient checkpointing ({self.level}), which is slower")
        return False

    def close(self) -> None:
        """Rendering must not pay for it."""
        self.level = LEVELS[0]
        self._apply()

    def as_dict(self) -> dict[str, Any]:
        """For the card."""
        return {"gradient_checkpointing": self.level, "precision": self.base.precision.name, "stepped_down": self.notes}

    def _noted(self, note: str) -> bool:
        log.warning("stepped down", reason=note)
        self.notes.append(note)
        self.on_note(note)
        return True

    def _apply(self) -> None:
        if self.level == "off":
            self.base.transformer.disable_gradient_checkpointing()
        else:
            self.base.transformer.enable_gradient_checkpointing()


def _first_level(base: BaseModel, recipe: Recipe, tokens: int) -> str:
    if recipe.gradient_checkpointing != "auto":
        return {"on": "full"}.get(recipe.gradient_checkpointing, recipe.gradient_checkpointing)
    if base.device.type != "cuda":
        return "off"
    needed = activation_bytes(base.transformer, tokens) + GIB_HEADROOM
    return "off" if needed <= free_memory(base.device) else "full"


def activation_bytes(transformer: Any, tokens: int) -> int:
    """What a step keeps for its backward without checkpointing: 25 GiB for 4,608 tokens of FLUX.1-dev (57 blocks of width 3,072), measured;
    linear in tokens, blocks and width."""
    config = transformer.config
    blocks = config.num_layers + config.num_single_layers
    width = config.num_attention_heads * config.attention_head_dim
    return int(25 * 2**30 * (tokens / 4608) * (blocks * width) / (57 * 3072))

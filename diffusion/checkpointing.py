"""Gradient checkpointing of some of the blocks: as many as memory asks for, evenly spread, since each one costs its forward pass again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from diffusion.compiled import blocks

# Bytes that a block keeps for the backward pass, for each token and each unit of its width. Measured with 4,224 tokens: 20.5 GiB in
# FLUX.1-dev's 57 blocks and 11.8 in FLUX.2-klein-4B's 25 (gated MLPs), both 3,072 wide; an eighth is added for what a pass needs besides.
KEPT_BYTES = {"FluxTransformer2DModel": 33.3, "Flux2Transformer2DModel": 43.9}
KEPT_BY_A_CHECKPOINT = 0.04  # of a block's activations: its input


def activation_bytes(transformer: Any, tokens: int) -> int:
    """What a step keeps for its backward pass without checkpointing; ``tokens`` of text and picture over the whole batch."""
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    kept = KEPT_BYTES.get(type(transformer).__name__, max(KEPT_BYTES.values()))
    return int(kept * len(blocks(transformer)) * width * tokens)


def blocks_to_checkpoint(transformer: Any, tokens: int, room: int) -> int:
    """The fewest blocks whose checkpointing makes a step's activations fit into ``room`` bytes; all of them if nothing does."""
    count, needed = len(blocks(transformer)), activation_bytes(transformer, tokens)
    if needed <= room:
        return 0
    saved_by_one = needed / count * (1 - KEPT_BY_A_CHECKPOINT)
    return min(count, math.ceil((needed - room) / saved_by_one))


def set_checkpointing(transformer: Any, count: int) -> None:
    """Checkpoints ``count`` blocks (0: none), evenly spread. Compiled blocks stay as they are: the graph is called twice."""
    every = blocks(transformer)
    if count <= 0:
        transformer.disable_gradient_checkpointing()
        return
    count = min(count, len(every))
    chosen = {id(every[index * len(every) // count]) for index in range(count)}

    def call(block: torch.nn.Module, *inputs: Any) -> Any:
        if id(block) not in chosen:
            return block(*inputs)
        return checkpoint(block.__call__, *inputs, use_reentrant=False, preserve_rng_state=False)  # no dropout, so no random state

    transformer.enable_gradient_checkpointing(call)

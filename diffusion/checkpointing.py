"""Gradient checkpointing of some of the blocks: as many as memory asks for, evenly spread, since each one costs its forward pass again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from diffusion.compiled import blocks

# Measured: FLUX.1-dev keeps 25 GiB for the backward pass of 4,608 tokens (57 blocks of width 3,072) without checkpointing.
MEASURED_BYTES, MEASURED_TOKENS, MEASURED_BLOCKS, MEASURED_WIDTH = 25 * 2**30, 4608, 57, 3072
KEPT_BY_A_CHECKPOINT = 0.04  # of a block's activations: its input


def activation_bytes(transformer: Any, tokens: int) -> int:
    """What a step keeps for its backward pass without checkpointing; ``tokens`` of text and picture over the whole batch."""
    config = transformer.config
    share = len(blocks(transformer)) * config.num_attention_heads * config.attention_head_dim / (MEASURED_BLOCKS * MEASURED_WIDTH)
    return int(MEASURED_BYTES * share * tokens / MEASURED_TOKENS)


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

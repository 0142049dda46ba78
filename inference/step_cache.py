"""First-block caching, for requests that ask for it: a step whose first block changed little reuses what the other blocks added last time.

A loss for time, so it is never on by itself; `python -m benchmarks.step_cache` measures what it costs. diffusers brings the mechanism.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig

from core.errors import UserError

MOST = 0.3


def threshold_of(options: dict[str, Any]) -> float:
    """``step_cache`` of a request: relative change of the first block's output below which a step is not computed; 0 is off."""
    threshold = float(options.get("step_cache", 0.0))
    if not 0 <= threshold <= MOST:
        raise UserError("portrait/parameter", "This step cache cannot be used", f"step_cache is 0 (off) to {MOST}; 0.08 is usual.")
    return threshold


@contextmanager
def step_cache(transformer: Any, threshold: float) -> Iterator[None]:
    """Within the block, steps may be skipped. Afterwards the transformer computes exactly what it did before."""
    if not threshold:
        yield
        return
    blocks = [block for name in ("transformer_blocks", "single_transformer_blocks") for block in getattr(transformer, name)]
    compiled = [block._compiled_call_impl for block in blocks]
    for block, call in zip(blocks, compiled, strict=True):
        _hookable(block, compiled=call is not None)
    transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    try:
        yield
    finally:
        transformer.disable_cache()
        for block, call in zip(blocks, compiled, strict=True):
            block.__dict__.pop("forward", None)
            block._compiled_call_impl = call


def _hookable(block: torch.nn.Module, compiled: bool) -> None:
    """The hooks branch on values, which a whole-graph compilation refuses: compile what they wrap, not the wrapped."""
    if compiled:
        block._compiled_call_impl = None
        block.forward = torch.compile(block.forward, fullgraph=True)

"""The repeated blocks compiled once in a process's life: fixed shapes, one graph for each, none made anew between jobs.

What keeps the graphs: adapters live in slots that are written in place (:mod:`diffusion.lora_slots`); the transformer stays in ``eval()``,
which changes nothing (it has no dropout); each picture size, batch and text length that occurs has a graph of its own, never a dynamic one.
So the first batch of each shape compiles (or reads the cache on disk), in training and in rendering alike, and no later one does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._dynamo.utils import counters

if TYPE_CHECKING:
    from diffusion.loading import BaseModel

GRAPHS_KEPT = 256  # for one piece of code: picture sizes × batches × text lengths × (training, rendering) × kinds of block


def prepare(transformer: Any, *, cache: Path | None = None, backend: str = "inductor", mode: str | None = None) -> None:
    """Compiles the blocks on first use; a second call does nothing. Call it before the first batch, before or after the slots are put on.

    ``cache`` keeps graphs and kernels on disk, so that a restarted worker does not compile again. ``mode`` is torch.compile's
    ("max-autotune-no-cudagraphs" measures several matrix kernels for each shape). Without a compiler for C++ on a CPU, use another backend.
    """
    if is_prepared(transformer):
        return
    if cache is not None:
        keep_on_disk(cache)
    torch._dynamo.config.recompile_limit = GRAPHS_KEPT
    torch._dynamo.config.accumulated_recompile_limit = 4 * GRAPHS_KEPT
    transformer.eval()
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=backend, **({"mode": mode} if mode else {}))


def prepare_decoder(base: BaseModel, *, backend: str = "inductor") -> None:
    """The VAE's decoder as well. Not where it moves in and out of the GPU."""
    if "vae" not in base.offloaded:
        base.vae.decoder.compile(fullgraph=True, dynamic=False, backend=backend)


def is_prepared(transformer: Any) -> bool:
    return any(block._compiled_call_impl is not None for block in blocks(transformer))


def release(transformer: Any) -> None:
    """The blocks run eagerly again."""
    for block in blocks(transformer):
        block._compiled_call_impl = None


def blocks(transformer: Any) -> list[Any]:
    """The repeated blocks in the order in which they compute."""
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def keep_on_disk(folder: Path) -> None:
    """Graphs, kernels and autotuning results of this process go to ``folder`` and are found there by the next."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)  # read at each compilation; Triton's own cache goes below it
    torch._inductor.config.fx_graph_cache = True
    torch._functorch.config.enable_autograd_cache = True


def graph_count() -> int:
    """Graphs that this process has compiled so far: if it grows between jobs, something above is no longer true."""
    return counters["stats"]["unique_graphs"]

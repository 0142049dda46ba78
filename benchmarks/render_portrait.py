"""A portrait of ours beside stock diffusers, which loads the adapter for each request and runs eagerly."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import render_adapters
from benchmarks.measuring import Book, forget_peak, forward_flops, peak_gib, seconds_of, takes
from diffusion.latents import decode_latents, to_images
from diffusion.loading import BaseModel
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.warmup import Costs, warm_up

PROMPT = "a portrait of ohwx person in the rain, oil painting"


def stock(book: Book, base: BaseModel, side: int, steps: int) -> None:
    """diffusers' pipeline of the same weights: ``load_lora_weights``, the call, ``unload_lora_weights``; the text is encoded each time."""
    engine, pipeline = Engine(base), base.pipeline()
    with tempfile.TemporaryDirectory() as folder:
        render_adapters.write(engine, 1, Path(folder) / "adapter.safetensors")
        loading: list[float] = []

        def load() -> None:
            pipeline.load_lora_weights(folder, weight_name="adapter.safetensors")

        def request() -> None:
            loading.append(seconds_of(load, base.device))
            with base.at_hand("vae", "text_encoders"):
                pipeline(prompt=PROMPT, width=side, height=side, num_inference_steps=steps, generator=torch.Generator().manual_seed(1))
            pipeline.unload_lora_weights()

        request()
        loading.clear()
        forget_peak(base.device)
        figures = takes(request, base.device, 2)
    shape = {"side": side, "steps": steps, "precision": base.precision.name, "peak_gib": peak_gib(base.device)}
    book.add("portrait, stock diffusers", **shape, **figures, switch_s=round(min(loading), 3))


def ours(book: Book, engine: Engine, side: int, steps: int, rate: float) -> None:
    """Folded (if that pays here), in the slot, and of the bare base; then with previews."""
    base, request = engine.base, RenderRequest(PROMPT, seed=1, width=side, height=side, num_inference_steps=steps)
    adapter = render_adapters.random_adapter(engine, 1, base.device)
    shape = {"side": side, "steps": steps, "precision": base.precision.name}
    floor = forward_flops(base, side) * steps / rate

    def measure(what: str, **how: Any) -> None:
        engine.render(request, **how)
        forget_peak(base.device)
        figures = takes(lambda: engine.render(request, **how), base.device)
        folded = bool(engine.slot.merging and engine.slot.merging.folded)
        times = {"floor_s": round(floor, 3), "times_floor": round(figures["s"] / floor, 2), "folded": folded}
        book.add(what, **shape, **figures, **times, peak_gib=peak_gib(base.device))

    measure("portrait", adapter=adapter)
    measure("portrait, with previews", adapter=adapter, on_preview=lambda picture: None)
    merging, engine.slot.merging = engine.slot.merging, None
    if merging:
        merging.restore()
        measure("portrait, adapter in its slot", adapter=adapter)
        engine.slot.merging = merging
    measure("portrait, bare base")
    latents = torch.randn(1, base.vae.config.latent_channels, side // 8, side // 8, device=base.device)
    book.add("latents to a picture", **shape, **takes(lambda: to_images(decode_latents(base, latents)), base.device))


def ready(book: Book, base: BaseModel, cache: Path | None, backend: str) -> Engine:
    """A warm engine, and what warming took."""
    engine, found = Engine(base), list[Costs | None]()
    seconds = seconds_of(lambda: found.append(warm_up(engine, cache=cache, styles=False, backend=backend)), base.device)
    costs = found[0]
    assert costs
    figures = {"step_bare_s": costs.bare_s, "step_in_slot_s": costs.worn_s, "fold_s": costs.fold_s, "folded_from_steps": costs.from_steps}
    book.add("warm-up: compiling and measuring", s=round(seconds, 1), precision=base.precision.name, **figures)
    return engine

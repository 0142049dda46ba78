"""One base model that renders for every customer: adapters come and go, the base stays bit for bit what it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from diffusion.attention import rendering_attention
from diffusion.loading import BaseModel
from inference.batching import BatchProbe, in_batches
from inference.decoding import Decoder
from inference.merging import Merging
from inference.modes import ModeRecipe, Tick, find_mode
from inference.previews import Previewer, Projection, Show
from inference.prompts import PromptCache
from inference.replay import ReplayedSteps
from inference.requests import RenderRequest
from inference.slot import IDENTITY, STYLE, AdapterSlots, LoadedAdapter
from inference.step_cache import step_cache, threshold_of

OnStep = Callable[[int, int], None]  # steps done, steps in all; what it raises ends the render
AS_REQUESTED: Any = object()


class Engine:
    """Safe for threads: one render at a time. Picture n is the same whatever it is asked for with.

    ``merging``: see :class:`inference.slot.AdapterSlots`; leave it None where somebody else uses the same base model.
    """

    def __init__(self, base: BaseModel, *, merging: Merging | None = None, prompts: PromptCache | None = None) -> None:
        self.base = base
        self.slot = AdapterSlots(base, merging=merging)
        self.prompts = prompts or PromptCache()
        self._adapters: tuple[bool, bool] = (False, False)  # an identity, a style: given to the render under way
        self._pipelines: dict[str, Any] = {}
        self._batches = BatchProbe(base)
        self._steps = ReplayedSteps.on(base, lambda: self.slot.layout)
        self._decoder = Decoder(base)
        self._on_preview: Show | None = None
        self._lock = threading.RLock()

    @property
    def held(self) -> set[str]:
        """Ids of the adapters whose weights are on the device now."""
        return {held for held in self.slot.held if held}

    def forget(self, adapter_ids: set[str]) -> None:
        """Erased adapters leave the transformer, after the render under way if there is one."""
        with self._lock:
            self.slot.forget(adapter_ids)

    def render(
        self,
        request: RenderRequest,
        adapter: LoadedAdapter | None = None,
        on_step: OnStep | None = None,
        *,
        style: LoadedAdapter | None = None,
        on_preview: Show | None = None,
    ) -> list[Image.Image]:
        """RGB pictures in seed order, with the adapter at ``request.lora_scale`` (and a style adapter), or of the bare base model.

        ``on_step`` runs after every denoising step: raise from it to stop (cancelation). ``on_preview`` gets a small picture now and then.
        """
        request = request.resolved(self.base.facts.get("render", {}))
        recipe, skip_below = find_mode(self.base, request), threshold_of(request.options)
        with self._drawing(), step_cache(self.base.transformer, skip_below):
            self._fill(adapter, style)
            self._on_preview = on_preview
            tick = _counting(on_step, recipe.steps(request) * request.count)
            size = 1 if skip_below else self._batch_size(recipe, request)
            drawn = [self._decoder.submit(recipe.draw(self, request, seeds, tick)) for seeds in in_batches(request.seeds, size)]
            return [image for pictures in drawn for image in pictures()]

    def put_on(self, adapter: LoadedAdapter, steps: int) -> None:
        """Makes ready for a render of ``steps`` steps with the adapter; a render does it itself."""
        with self._drawing():
            self.slot.fill(IDENTITY, adapter)
            self.slot.wear([1.0, None], steps)

    def denoise(
        self,
        pipeline: str,
        request: RenderRequest,
        seed: int | tuple[int, ...],
        tick: Tick,
        *,
        lora_scale: float | None = AS_REQUESTED,
        style_scale: float | None = AS_REQUESTED,
        **inputs: Any,
    ) -> torch.Tensor:
        """One run of a pipeline of the family, from each seed's noise to normalised latents [B, C, h, w].

        Noise is drawn on the CPU, so that a seed means the same picture on every device. A scale of None switches that adapter off.
        """
        seeds = seed if isinstance(seed, tuple) else (seed,)
        self._wear(request, lora_scale, style_scale)
        width, height = request.sides(self.base.resolution)
        text = self.prompts.embeds(self.base, request.prompt).rows([0] * len(seeds))
        with self._steps.in_place():
            drawn = self._pipeline(pipeline)(
                **self.base.family.pipeline_inputs(self.base, text),
                width=width,
                height=height,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                generator=[torch.Generator("cpu").manual_seed(one) for one in seeds],
                output_type="latent",
                callback_on_step_end=self._after_step(tick, len(seeds), height, width),
                **inputs,
            ).images
        return self.base.family.pipeline_latents(self.base, drawn, height // self._latent_factor, width // self._latent_factor)

    @cached_property
    def projection(self) -> Projection:
        """Latents to colours for previews; fitted on first use, with one pass of the VAE's encoder."""
        return Projection.fit(self.base)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        with self._lock, torch.no_grad(), rendering_attention(self.base.device), self.slot.in_place():
            yield

    def _fill(self, adapter: LoadedAdapter | None, style: LoadedAdapter | None) -> None:
        for place, loaded in ((IDENTITY, adapter), (STYLE, style)):
            if loaded is not None:
                self.slot.fill(place, loaded)
        self._adapters = (adapter is not None, style is not None)

    def _wear(self, request: RenderRequest, lora_scale: float | None = AS_REQUESTED, style_scale: float | None = AS_REQUESTED) -> None:
        asked = (request.lora_scale, request.option("style_scale", 1.0, 0, 2))
        scales = [own if scale is AS_REQUESTED else scale for own, scale in zip(asked, (lora_scale, style_scale), strict=True)]
        self.slot.wear([scale if given else None for scale, given in zip(scales, self._adapters, strict=True)], request.steps)

    def _batch_size(self, recipe: ModeRecipe, request: RenderRequest) -> int:
        if request.count == 1 or not recipe.batches:
            return 1
        self._wear(request)
        width, height = request.sides(self.base.resolution)
        factor = self._latent_factor
        text = self.prompts.embeds(self.base, request.prompt)
        return self._batches.size(request.count, height // factor, width // factor, text, self._adapters)

    def _pipeline(self, name: str) -> Any:
        if name not in self._pipelines:
            self._pipelines[name] = self.base.pipeline(name)
        return self._pipelines[name]

    def _after_step(self, tick: Tick, pictures: int, height: int, width: int) -> Callable[..., dict[str, Any]]:
        def unpack(tokens: torch.Tensor) -> torch.Tensor:
            return self._unpack(tokens, height, width)

        previewer = Previewer(self.projection, unpack, self._on_preview) if self._on_preview else None

        def after_step(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if previewer:
                previewer.after_step(pipeline.scheduler, step, values["latents"])
            for _ in range(pictures):
                tick()
            return {}

        return after_step

    def _unpack(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return self.base.family.unpack(tokens, height // self._latent_factor, width // self._latent_factor)

    @property
    def _latent_factor(self) -> int:
        return 2 ** (len(self.base.vae.config.block_out_channels) - 1)


def _counting(on_step: OnStep | None, total: int) -> Tick:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if on_step:
            on_step(done, total)

    return tick

"""One base model that renders for every customer: adapters come and go, the base stays bit for bit what it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from diffusion.latents import decode_latents, to_images
from diffusion.loading import BaseModel
from diffusion.text import PromptEmbeds, encode_prompts
from inference.lru import ByteLru
from inference.modes import Tick, find_mode
from inference.requests import RenderRequest
from inference.slot import AdapterSlot, LoadedAdapter

OnStep = Callable[[int, int], None]  # steps done, steps in all; what it raises ends the render
PROMPT_CACHE_BYTES = 256 * 2**20  # FLUX.1-dev: 4 MB a prompt
AS_REQUESTED: Any = object()


class Engine:
    """Safe for threads: one render at a time. Each picture is drawn by itself, so picture n is the same whatever it is asked for with."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self.slot = AdapterSlot(base.transformer)
        self._with_adapter = False
        self._pipelines: dict[str, Any] = {}
        self._prompts: ByteLru[PromptEmbeds] = ByteLru(PROMPT_CACHE_BYTES)
        self._lock = threading.RLock()

    def forget(self, adapter_ids: set[str]) -> None:
        """Erased adapters leave the transformer, after the render under way if there is one."""
        with self._lock:
            if self.slot.held in adapter_ids:
                self.slot.clear()

    def render(self, request: RenderRequest, adapter: LoadedAdapter | None = None, on_step: OnStep | None = None) -> list[Image.Image]:
        """RGB pictures in seed order, with the adapter at ``request.lora_scale``, or of the bare base model.

        ``on_step`` runs after every denoising step: raise from it to stop (cancelation).
        """
        request = request.resolved(self.base.facts.get("render", {}))
        recipe = find_mode(self.base, request)
        with self._lock:
            self._use(adapter)
            tick = _counting(on_step, recipe.steps(request) * request.count)
            return [self._picture(recipe.draw(self, request, seed, tick)) for seed in request.seeds]

    def denoise(
        self, pipeline: str, request: RenderRequest, seed: int, tick: Tick, *, lora_scale: float | None = AS_REQUESTED, **inputs: Any
    ) -> torch.Tensor:
        """One run of a pipeline of the family, from the seed's noise to normalised latents [1, C, h, w].

        Noise is drawn on the CPU, so that a seed means the same picture on every device. ``lora_scale`` None switches the adapter off.
        """
        scale = request.lora_scale if lora_scale is AS_REQUESTED else lora_scale
        self.slot.switch(scale if self._with_adapter else None)
        width, height = request.sides(self.base.resolution)
        text = self._embeds(request.prompt)
        tokens = self._pipeline(pipeline)(
            prompt_embeds=text.prompt_embeds,
            pooled_prompt_embeds=text.pooled_prompt_embeds,
            width=width,
            height=height,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(seed)],
            output_type="latent",
            callback_on_step_end=_after_step(tick),
            **inputs,
        ).images
        factor = 2 ** (len(self.base.vae.config.block_out_channels) - 1)
        return self.base.family.unpack(tokens, height // factor, width // factor)

    def _use(self, adapter: LoadedAdapter | None) -> None:
        if adapter is not None:
            self.slot.fill(adapter)
        self._with_adapter = adapter is not None

    def _pipeline(self, name: str) -> Any:
        if name not in self._pipelines:
            self._pipelines[name] = self.base.pipeline(name)
        return self._pipelines[name]

    def _embeds(self, prompt: str) -> PromptEmbeds:
        """A style's prompt is encoded once for all its portraits of one subject; the text encoders know nothing of adapters."""
        found = self._prompts.get(prompt)
        if found is None:
            found = encode_prompts(self.base, [prompt])
            self._prompts.put(prompt, found, found.prompt_embeds.nbytes + found.pooled_prompt_embeds.nbytes)
        return found

    def _picture(self, latents: torch.Tensor) -> Image.Image:
        return to_images(decode_latents(self.base, latents))[0]


def _after_step(tick: Tick) -> Callable[..., dict[str, Any]]:
    def after_step(*_: Any) -> dict[str, Any]:
        tick()
        return {}

    return after_step


def _counting(on_step: OnStep | None, total: int) -> Tick:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if on_step:
            on_step(done, total)

    return tick

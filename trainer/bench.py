"""What a trainer process keeps warm between trainings: the base model, the encoders, and what the bare base scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from PIL import Image

from diffusion import lora
from diffusion.attention import rendering_attention
from diffusion.loading import BaseModel
from diffusion.text import PromptEmbeds, encode_prompts
from metrics.encoders import IdentityEncoder, TextImageEncoder
from trainer.caches import TrainingCache
from trainer.recipe import Recipe
from trainer.seats import Seats

RENDER_BATCH = 4
KEPT_CLASS_WORDS = 64

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Scores:
    """What judging N pictures gives: identity ``embeds`` [N, D] and ``fidelity`` [N] to their class-word prompts."""

    embeds: torch.Tensor
    fidelity: torch.Tensor


@dataclass
class Bench:
    base: BaseModel
    identity: IdentityEncoder
    text_image: TextImageEncoder
    baselines: dict[tuple, Scores] = field(default_factory=dict)
    class_caches: dict[tuple, TrainingCache] = field(default_factory=dict)
    seats: Seats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.seats = Seats(self.base)

    @contextmanager
    def wearing(self, state: lora.State, recipe: Recipe) -> Iterator[None]:
        """What is rendered meanwhile is rendered with this adapter of the recipe's layout."""
        slots = self.seats.slots(recipe)
        try:
            slots.write(0, state)
            yield
        finally:
            self.seats.clear()

    def baseline(self, prompts: Sequence[str], recipe: Recipe, check: Callable[[], None] = lambda: None) -> Scores:
        """What the bare base model makes of the class-word prompts; rendered once for each class word and kept."""
        key = (*prompts, recipe.resolution, recipe.validation_steps, recipe.validation_guidance)
        return self.kept(self.baselines, key, lambda: self.judge(self.render(prompts, recipe, check), prompts))

    def kept(self, store: dict[tuple, Kept], key: tuple, make: Callable[[], Kept]) -> Kept:
        """What is in ``store`` under ``key``, made first if it is not."""
        if key not in store:
            while len(store) >= KEPT_CLASS_WORDS:  # class words are free text: the oldest goes
                del store[next(iter(store))]
            store[key] = make()
        return store[key]

    def judge(self, images: list[Image.Image], plain_prompts: Sequence[str]) -> Scores:
        return Scores(self.identity.embed(images), self.text_image.similarity(images, plain_prompts))

    def render(self, prompts: Sequence[str], recipe: Recipe, check: Callable[[], None] = lambda: None) -> list[Image.Image]:
        """Picture i with seed i, whatever adapter is on the transformer now. ``check`` runs at every denoising step and may raise."""
        together = RENDER_BATCH if self.base.device.type == "cpu" else 1  # a GPU is busy with one, and one shape means one graph
        with self.base.at_hand("text_encoders"):  # once, where they must come from the CPU's memory
            texts = [encode_prompts(self.base, prompts[start : start + together]) for start in range(0, len(prompts), together)]
        with torch.no_grad(), rendering_attention(self.base.device):
            return [image for n, text in enumerate(texts) for image in self._render(text, n * together, recipe, check)]

    def _render(self, text: PromptEmbeds, start: int, recipe: Recipe, check: Callable[[], None]) -> list[Image.Image]:

        def on_step(pipeline: object, step: int, timestep: object, values: dict) -> dict:
            check()
            return values

        with self.base.at_hand("vae"):
            return (
                self.base.pipeline()(
                    **self.base.family.pipeline_inputs(self.base, text),
                    height=recipe.resolution,
                    width=recipe.resolution,
                    num_inference_steps=recipe.validation_steps,
                    guidance_scale=recipe.validation_guidance,
                    generator=[torch.Generator().manual_seed(start + i) for i in range(len(text))],
                    callback_on_step_end=on_step,
                )
            ).images

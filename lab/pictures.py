"""The pictures that an evaluation judges: the style catalogue, with and without an adapter, from the same seeds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from core.styles import Style
from diffusion.loading import BaseModel
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.slot import LoadedAdapter
from trainer.bench import Bench

FIRST_SEED = 1000


@dataclass(frozen=True)
class Judged:
    """``images`` in the order of the styles, ``each`` of them ``per_style`` times; ``embeds`` [N, D], ``fidelity`` and ``seconds`` [N]."""

    images: list[Image.Image]
    embeds: torch.Tensor
    fidelity: list[float]
    seconds: list[float]

    def same_pixels(self, other: Judged) -> bool:
        return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(self.images, other.images, strict=True))


@dataclass(frozen=True)
class Catalogue:
    """What is rendered for every subject and adapter, always from the same seeds, so that figures compare picture by picture."""

    styles: Sequence[Style]
    per_style: int = 1

    def render(
        self, bench: Bench, engine: Engine, class_word: str, adapter: LoadedAdapter | None = None, trigger_token: str = ""
    ) -> Judged:
        """With an adapter the prompt says «trigger_token class_word», without one «a class_word»; fidelity is to the latter, always."""
        plain = f"a {class_word}"
        subject = f"{trigger_token} {class_word}" if adapter else plain
        images, seconds, prompts = [], [], []
        for style in self.styles:
            for n in range(self.per_style):
                began = time.perf_counter()
                images += engine.render(_request(style, subject, FIRST_SEED + n), adapter)
                seconds.append(time.perf_counter() - began)
                prompts.append(style.prompt_for(plain))
        return Judged(images, bench.identity.embed(images), bench.text_image.similarity(images, prompts).tolist(), seconds)


def _request(style: Style, subject: str, seed: int) -> RenderRequest:
    return RenderRequest(
        style.prompt_for(subject),
        seed,
        num_inference_steps=style.num_inference_steps,
        guidance_scale=style.guidance_scale,
        lora_scale=style.lora_scale,
        mode=style.mode,
        options=style.options,
    )


@contextmanager
def engine_over(base: BaseModel) -> Iterator[Engine]:
    """An engine that leaves the transformer bare, so that a training may follow on the same base."""
    engine = Engine(base)
    try:
        yield engine
    finally:
        engine.slot.clear()

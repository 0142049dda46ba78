"""Prompt fidelity: whether a picture still shows what the prompt asks for, beside what the base model shows for it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from metrics.encoders import TextImageEncoder


def prompt_fidelity(encoder: TextImageEncoder, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
    """CLIP-T of DreamBooth (Ruiz et al. 2023): cosine of picture i and prompt i, in [-1, 1].

    Give the prompts with the class word and without the trigger token, which means nothing to the encoder.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts")
    return encoder.similarity(images, prompts).tolist()


def kept(adapter: float, base: float) -> float:
    """Share of the base model's prompt fidelity left with the adapter: 1 = as good. Selection takes min(1, kept)."""
    if base <= 0:
        raise ValueError(f"the base model's prompt fidelity is {base:.3f}: the text-image encoder does not fit these prompts")
    return adapter / base

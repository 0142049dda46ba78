"""What first-block caching loses and saves, on the miniature's taught weights.

    python -m benchmarks.step_cache --json benchmarks/results/step-cache-DATE-HOST.json

Every picture is drawn with each threshold from the same seed and compared with the one drawn without: mean difference in levels of 255,
PSNR, prompt fidelity, and the share of steps whose blocks were computed (time follows it, but for the first block).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import Book, surroundings
from core.settings import Settings
from diffusion.loading import load_base
from inference.engine import Engine
from inference.requests import RenderRequest
from metrics.encoders import load_text_image_encoder
from metrics.fidelity import prompt_fidelity

PROMPTS = (
    "a photo of a cat in a garden",
    "an oil painting of a dog, close-up",
    "a photo of a person on a beach",
    "a comic of a cat in a kitchen",
)


class Passes:
    """Counts the forward passes of the last block."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        self.count = 0
        transformer.single_transformer_blocks[-1].attn.register_forward_hook(self._saw)  # type: ignore[index, union-attr]

    def _saw(self, *_: object) -> None:
        self.count += 1


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    settings = Settings()
    base = load_base(settings.base_model_path, precision=asked.precision)
    engine, passes = Engine(base), Passes(base.transformer)
    encoder = load_text_image_encoder(settings.text_image_encoder_path, base.device)
    book = Book(asked.json, surroundings(base, "miniature"))
    plain: list[Image.Image] = []
    for threshold in (0.0, *asked.thresholds):
        passes.count = 0
        pictures = [_draw(engine, prompt, seed, threshold) for prompt in PROMPTS for seed in range(asked.seeds)]
        plain = plain or pictures
        prompts = [prompt for prompt in PROMPTS for _ in range(asked.seeds)]
        fidelity = fmean(prompt_fidelity(encoder, pictures, prompts))
        book.add(
            "step cache",
            threshold=threshold,
            pictures=len(pictures),
            passes=passes.count,
            fidelity=round(fidelity, 4),
            **_loss(plain, pictures),
        )


def _draw(engine: Engine, prompt: str, seed: int, threshold: float) -> Image.Image:
    return engine.render(RenderRequest(prompt, seed=seed, options={"step_cache": threshold}))[0]


def _loss(plain: Sequence[Image.Image], pictures: Sequence[Image.Image]) -> dict[str, float]:
    differences = [np.asarray(a, float) - np.asarray(b, float) for a, b in zip(plain, pictures, strict=True)]
    psnr = [min(99.0, 10 * np.log10(255**2 / max(1e-9, float((difference**2).mean())))) for difference in differences]
    return {
        "mean_levels": round(fmean(float(np.abs(difference).mean()) for difference in differences), 2),
        "psnr_db": round(fmean(psnr), 1),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.04, 0.08, 0.15])
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()

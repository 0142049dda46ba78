"""How far the gradients of each way of computing them are from a float32 reference, on the miniature's taught weights.

    python -m benchmarks.gradients --json benchmarks/results/gradients-DATE-HOST.json

Every way is given the same adapters (rank 32, one for each of four customers), photos, captions, noise and noise levels. The reference is
float32, eager, each customer alone. "Four in one pass" trains the four over one shared base; its error beside the same precision alone says
what sharing costs. Runs on a CPU (fp8 with the same rounding, multiplied in float32) and on CUDA (fp8 matrix units, flash attention).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from core.settings import Settings
from diffusion import compiled
from diffusion.attention import training_attention
from diffusion.checkpointing import set_checkpointing
from diffusion.devices import pick_device
from diffusion.latents import encode_images, to_pixels
from diffusion.loading import BaseModel, load_base
from diffusion.lora_slots import LoraSlots
from diffusion.schedules import add_noise, sample_sigmas, velocity
from diffusion.slot_training import SlotTraining
from diffusion.text import PromptEmbeds, encode_prompts
from lab.report import table
from lab.surroundings import hardware

CUSTOMERS, RANK, SIDE = 4, 32, 256
CAPTION = "a photo of a cat, close-up, seen from the front, in a garden"
PHOTOS = Path("examples/photos")


@dataclass(frozen=True)
class Way:
    """One way to compute the gradients. ``together``: all customers in one pass."""

    name: str
    precision: str
    compiled: bool = False
    checkpointed: bool = False
    together: bool = False


WAYS = (
    Way("float32, four in one pass", "fp32", together=True),
    Way("float32, compiled", "fp32", compiled=True),
    Way("float32, every block checkpointed", "fp32", checkpointed=True),
    Way("bf16", "bf16"),
    Way("bf16, four in one pass", "bf16", together=True),
    Way("bf16, compiled", "bf16", compiled=True),
    Way("bf16, compiled, four in one pass", "bf16", compiled=True, together=True),
    Way("fp8", "fp8"),
    Way("fp8, compiled", "fp8", compiled=True),
    Way("fp8, compiled, four in one pass", "fp8", compiled=True, together=True),
    Way("NF4", "nf4"),
    Way("NF4, compiled", "nf4", compiled=True),
)


@dataclass(frozen=True)
class Draw:
    """What one step sees: latents and noise [CUSTOMERS, C, h, w], noise levels [CUSTOMERS]. All float32 on the CPU."""

    latents: torch.Tensor
    noise: torch.Tensor
    sigmas: torch.Tensor


Result = tuple[torch.Tensor, torch.Tensor]  # of one draw: gradients [CUSTOMERS, P] and predicted velocities, float32 on the CPU


class Bench:
    """One base model with slots for all customers."""

    def __init__(self, way: Way, device: str, backend: str) -> None:
        self.way = way
        self.base = base_of(way.precision, device)
        spec = self.base.family.lora_spec("blocks", rank=RANK, alpha=RANK)
        self.slots = LoraSlots(self.base.transformer, spec, count=CUSTOMERS, dtype=self.base.dtype)
        fill(self.slots)
        self.training = SlotTraining(self.slots)
        self.text = encode_prompts(self.base, [CAPTION])
        set_checkpointing(self.base.transformer, len(compiled.blocks(self.base.transformer)) if way.checkpointed else 0)
        if way.compiled:
            compiled.prepare(self.base.transformer, backend=backend)

    def close(self) -> None:
        set_checkpointing(self.base.transformer, 0)
        compiled.release(self.base.transformer)
        self.training.close()
        self.slots.remove()

    def run(self, draw: Draw) -> Result:
        self.training.zero_gradients()
        if self.way.together:
            self.slots.use(count=CUSTOMERS)
            predicted = self._pass(draw, list(range(CUSTOMERS)))
        else:
            predicted = torch.cat([self._alone(draw, customer) for customer in range(CUSTOMERS)])
        return self.training.gradients.cpu().clone(), predicted

    def _alone(self, draw: Draw, customer: int) -> torch.Tensor:
        self.slots.use(rows=[customer])
        return self._pass(draw, [customer])

    def _pass(self, draw: Draw, rows: list[int]) -> torch.Tensor:
        base, family = self.base, self.base.family
        latents, noise, sigmas = draw.latents[rows], draw.noise[rows], draw.sigmas[rows]
        tokens = family.pack(add_noise(latents, noise, sigmas)).to(base.device, base.dtype)
        target = family.pack(velocity(latents, noise)).to(base.device)
        ids = family.image_ids(*latents.shape[-2:]).to(base.device, base.dtype)
        text: PromptEmbeds = self.text.rows([0] * len(rows))
        with training_attention(base.device):
            predicted = family.predict(base.transformer, tokens, ids, text, sigmas.to(base.device, base.dtype), 1.0)
            (predicted.float() - target).pow(2).mean((1, 2)).sum().backward()
        self.training.collect()
        return predicted.detach().float().cpu()


@cache
def base_of(precision: str, device: str) -> BaseModel:
    return load_base(Settings().base_model_path, precision=precision, device=device)


def fill(slots: LoraSlots) -> None:
    """Adapters halfway through a training, as far as gradients go: A as it starts, B small and random."""
    for slot in range(slots.count):
        slots.start(slot, seed=slot)
        generator = torch.Generator().manual_seed(100 + slot)
        row = slots.weights[slot]
        for place in slots.places:
            if place.side == "B":
                place.of(row).copy_(torch.randn(place.shape, generator=generator) * 0.02)


def draws(count: int, device: str, folder: Path = PHOTOS) -> list[Draw]:
    """Photos of different subjects, fresh noise and noise levels for each step."""
    paths = sorted(folder.glob("*/*.jpg"))
    if not paths:
        raise SystemExit(f"{folder} has no photos: run this in the project's folder.")
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        chosen = [paths[(number * CUSTOMERS + n) * 7 % len(paths)] for n in range(CUSTOMERS)]
        images = [Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS) for path in chosen]
        latents = encode_images(base_of("fp32", device), to_pixels(images))
        noise = torch.randn(latents.shape, generator=generator)
        made.append(Draw(latents, noise, sample_sigmas(CUSTOMERS, generator)))
    return made


def results_of(way: Way, steps: Sequence[Draw], device: str, backend: str) -> list[Result]:
    bench = Bench(way, device, backend)
    try:
        return [bench.run(draw) for draw in steps]
    finally:
        bench.close()


def errors(found: Sequence[Result], reference: Sequence[Result]) -> dict[str, float]:
    """Relative errors ‖a − b‖ / ‖b‖ over all steps and customers; the mean gradient's shows what is bias rather than noise."""
    each = [relative(a, b) for (ga, _), (gb, _) in zip(found, reference, strict=True) for a, b in zip(ga, gb, strict=True)]
    predicted = [relative(a, b) for (_, a), (_, b) in zip(found, reference, strict=True)]
    mean = [torch.stack([gradients for gradients, _ in some]).mean((0, 1)) for some in (found, reference)]
    return {"median": median(each), "max": max(each), "of_mean": relative(*mean), "prediction": median(predicted)}


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


def measure(ways: Sequence[Way], steps: int, device: str, backend: str) -> Iterator[dict[str, Any]]:
    """A row for each way, as soon as it is there."""
    given = draws(steps, device)
    reference = results_of(Way("reference", "fp32"), given, device, backend)
    shape = f"{SIDE}² px, {CUSTOMERS} customers, rank {RANK}, {steps} steps"
    for way in ways:
        found = errors(results_of(way, given, device, backend), reference)
        yield {"what": "relative gradient error", **asdict(way), "shape": shape, **found}


def save(path: Path | None, result: dict[str, Any]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [(row["name"], *(f"{row[key]:.2g}" for key in ("median", "max", "of_mean", "prediction"))) for row in rows]
    return table(("way", "gradient, median", "worst", "mean of all gradients", "prediction"), lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="draws of photos, noise and noise levels; each with all customers")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="inductor", help="torch.compile's; aot_eager needs no compiler")
    parser.add_argument("--ways", nargs="*", help="only those whose name contains one of these")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    ways = [way for way in WAYS if not asked.ways or any(part in way.name for part in asked.ways)]
    where = {"hardware": hardware(pick_device(asked.device)), "torch": torch.__version__, "backend": asked.backend}
    about = {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "model": "miniature", "weights": "taught", **where}
    rows: list[dict[str, Any]] = []
    for row in measure(ways, asked.steps, asked.device, asked.backend):
        print(json.dumps(row, ensure_ascii=False), flush=True)
        rows.append(row)
        save(asked.json, {**about, "rows": rows})
    print(markdown(rows))


if __name__ == "__main__":
    main()

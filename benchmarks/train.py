"""Training at true size: our steps beside the stock loop, several adapters in a pass, whole jobs, memory. Random weights.

    python -m benchmarks.train --json FILE [--only steps512,together,…] [--base flux1-dev|klein-4b] [--tiny]

Every row is printed and saved as it comes. Weights are written once into ``--folder`` in the hub's layout and read by the real loader.
``--tiny`` runs everything at a size for a CPU, to see that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import true_size
from benchmarks.attention import attention_table
from benchmarks.floor import matrix_rate
from benchmarks.record import Record
from benchmarks.train_steps import Stand, fresh, guarded, ours, stock, twenty_jobs
from diffusion import compiled
from diffusion.attention import prepare_training_attention
from diffusion.devices import pick_device
from diffusion.loading import BaseModel, load_base
from trainer.seats import Seats

LONG_TEXT, SHORT_TEXT = 512, 128  # tokens: what the stock script reads, and what captions need
CAP_GIB, TIGHT_GIB = 24, 40  # each wants a process of its own
KEPT = "text encoders kept on the GPU"
SECTIONS = (
    "attention",
    "stock",
    "steps512",
    "steps768",
    "steps1024",
    "recorded1024",
    "together",
    "fp8",
    "jobs",
    "job",
    "cap24",
    "stepdown",
)


def text_encoders_for(sections: Sequence[str]) -> str:
    """Whole jobs encode captions; steps are given random embeddings."""
    return "true" if {"job", "cap24", "stepdown"} & set(sections) else "small"


def each(work: Callable[[int, int], None], shapes: Sequence[tuple[int, int]]) -> None:
    for side, text in shapes:
        work(side, text)


class Benchmark:
    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.device = asked, pick_device("auto")
        self.only = asked.only.split(",") if asked.only else list(SECTIONS)
        self.record = Record(
            asked.json, self.device, command="python -m benchmarks.train", base=asked.base, weights="random", tiny=asked.tiny
        )
        self.rate = matrix_rate(self.device)
        self.record.add(section="rate", what="large matrix product", tflops=round(self.rate / 1e12, 3))
        self.sides = {512: 128, 768: 192, 1024: 256} if asked.tiny else {512: 512, 768: 768, 1024: 1024}
        self.texts = (SHORT_TEXT,) if asked.short_text else (LONG_TEXT, SHORT_TEXT)
        self.overrides = {"target_set": asked.target_set} | ({"rank": 4, "alpha": 4} if asked.tiny else {})

    def run(self) -> None:
        self._section("attention", lambda: attention_table(self.record, self.device))
        if set(self.only) & {"stock", "steps512", "steps768", "steps1024", "recorded1024", "together", "jobs", "job"}:
            self._bf16()
        if "fp8" in self.only:
            guarded(self.record, "fp8", self._fp8)
        self._section("cap24", self._cap24)
        self._section("stepdown", self._step_down)

    def _section(self, name: str, work: Callable[[], None]) -> None:
        if name in self.only:
            guarded(self.record, name, work)

    def _bf16(self) -> None:
        stand = self._stand("bf16" if self.device.type == "cuda" else "fp32")
        self._section("stock", partial(each, partial(stock, stand), [(side, LONG_TEXT) for side in self.sides.values()]))
        self._compile(stand.base)
        seats = Seats(stand.base, 4 if "together" in self.only else 1)
        measured = partial(ours, stand, seats)
        self._section("steps512", lambda: self._steps512(stand, seats))
        self._section("steps1024", partial(each, measured, [(self.sides[1024], text) for text in self.texts]))
        self._section("recorded1024", lambda: self._recorded1024(stand, seats))
        self._section("together", lambda: self._together(stand, seats))
        self._section("steps768", partial(each, measured, [(self.sides[768], text) for text in self.texts]))
        self._section("job", lambda: self._job(stand.base, seats))
        self._section("jobs", lambda: twenty_jobs(stand, seats, 512, SHORT_TEXT, **({"jobs": 3, "steps": 2} if self.asked.tiny else {})))
        seats.remove()

    def _steps512(self, stand: Stand, seats: Seats) -> None:
        side = self.sides[512]
        for text in self.texts:
            ours(stand, seats, side, text)
        seats.passes(stand.recipe()).recorded_tokens = 0
        ours(stand, seats, side, SHORT_TEXT, what="ours, launches one by one")
        seats.passes(stand.recipe()).recorded_tokens = 3072

    def _recorded1024(self, stand: Stand, seats: Seats) -> None:
        """With and without, in turns: launches of a large step hide behind the GPU only where the host's processor is fast."""
        passes, usual = seats.passes(stand.recipe()), seats.passes(stand.recipe()).recorded_tokens
        for _ in range(2):
            for tokens, what in ((0, "ours, launches one by one"), (2 * usual, "ours, recorded")):
                passes.recorded_tokens = tokens
                ours(stand, seats, self.sides[1024], SHORT_TEXT, what=what)
        passes.recorded_tokens = usual

    def _together(self, stand: Stand, seats: Seats) -> None:
        ours(stand, seats, self.sides[512], SHORT_TEXT, adapters=4, what="ours, four adapters in one pass")
        if not self.asked.short_text:
            ours(stand, seats, self.sides[512], SHORT_TEXT, adapters=2, what="ours, two adapters in one pass")

    def _fp8(self) -> None:
        stand = self._stand("fp8")
        self._compile(stand.base)
        seats = Seats(stand.base)
        for side, text in ((1024, SHORT_TEXT), (512, SHORT_TEXT), (1024, LONG_TEXT), (512, LONG_TEXT), (768, SHORT_TEXT)):
            if text in self.texts:
                ours(stand, seats, self.sides[side], text)
        seats.remove()

    def _job(self, base: BaseModel, seats: Seats) -> None:
        from benchmarks.train_jobs import open_bench, whole_job  # needs more packages than steps do

        bench = open_bench(base, seats)
        size = {"resolution": self.sides[768], "target_set": self.asked.target_set}
        small = {"steps": 6, "candidates": (1.0,), "validation_images": 1, "validation_steps": 2}
        whole_job(bench, self.record, 15, "first job of the process: compiles", **size, **small)
        full = small | {"steps": 3} if self.asked.tiny else {"steps": self.asked.job_steps}
        whole_job(bench, self.record, 15, "15 photos to an adapter, warm worker", **size, **full)

    def _cap24(self) -> None:
        """In a process that may use 24 GiB of the card, as if it had no more."""
        self._capped(CAP_GIB, self.asked.cap_precision, {f"whole job within {CAP_GIB} GiB": {}})

    def _step_down(self) -> None:
        """What text encoders that leave the GPU spare; then a job that is told to checkpoint nothing, and one whose passes do not fit with
        all blocks checkpointed: both must finish, and say what they gave up."""
        within = f"whole job within {TIGHT_GIB} GiB"
        more = {} if self.asked.tiny else {"steps": 30}
        jobs: dict[str, dict[str, Any]] = {
            f"{within}, the first: compiles": {},
            f"{within}, text encoders in main memory meanwhile": more,
            f"{within}, {KEPT}": more,
            f"{within} that runs out of memory": {"gradient_checkpointing": "off"},
            f"{within} that runs out of memory with all checkpointed": {"gradient_checkpointing": "on", "batch_size": 10, "steps": 3},
        }
        self._capped(TIGHT_GIB, "bf16", jobs)

    def _capped(self, gib: int, precision: str, jobs: dict[str, dict[str, Any]]) -> None:
        if self.device.type == "cuda":
            fresh(self.device)
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total, self.device)
        stand = self._stand(precision if self.device.type == "cuda" else "auto")
        self._compile(stand.base)
        from benchmarks.train_jobs import open_bench, whole_job

        bench = open_bench(stand.base, Seats(stand.base))
        size = {"resolution": self.sides[1024], "target_set": self.asked.target_set, "candidates": (1.0,)}
        job = {"steps": 10, "validation_images": 1, "validation_steps": 4}
        for what, changes in jobs.items():
            with patch.object(bench.base, "send_away", lambda *names: set()) if what.endswith(KEPT) else nullcontext():
                whole_job(bench, self.record, 15, what, **size, **job | changes)
        bench.seats.remove()

    def _stand(self, precision: str) -> Stand:
        """A base read from disk; whatever was loaded before is gone."""
        torch._dynamo.reset()
        gc.collect()
        fresh(self.device)
        wanted = "small" if self.asked.tiny else self.asked.text_encoders or text_encoders_for(self.only)
        folder = true_size.build(
            self.asked.base, self.asked.folder / f"{self.asked.base}-{wanted}", text_encoders=wanted, tiny=self.asked.tiny
        )
        base = load_base(folder, precision=precision)
        return Stand(base, self.record, self.rate, 2 if self.asked.tiny else self.asked.measured, self.overrides)

    def _attention(self, base: BaseModel) -> None:
        """As the worker chooses it, or as asked."""
        config, kernel = base.transformer.config, "flash"
        if self.asked.attention == "auto":
            heads, head_dim = config.num_attention_heads, config.attention_head_dim
            kernel = prepare_training_attention(self.device, base.dtype, heads=heads, head_dim=head_dim)
        self.record.add(section="attention", what="used for training", kernel=kernel)

    def _compile(self, base: BaseModel) -> None:
        self._attention(base)
        if not self.asked.eager:
            backend = "aot_eager" if self.asked.tiny else "inductor"
            compiled.prepare(base.transformer, backend=backend, cache=Path(self.asked.cache) if self.asked.cache else None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--only", default="", help=f"sections, comma-separated: {', '.join(SECTIONS)}")
    parser.add_argument("--base", default="flux1-dev", choices=true_size.MODELS)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()))
    parser.add_argument("--target-set", default="image", help="layers with adapters, for both loops (149 MB at rank 32 on FLUX.1-dev)")
    parser.add_argument("--job-steps", type=int, default=750, help="of the job in a warm worker")
    parser.add_argument("--text-encoders", choices=("true", "small"), help="default: of their true size where captions are encoded")
    parser.add_argument("--measured", type=int, default=15, help="steps that count, after the warm-up")
    parser.add_argument("--short-text", action="store_true", help=f"ours with {SHORT_TEXT} text tokens only: each shape compiles anew")
    parser.add_argument("--cap-precision", default="auto")
    parser.add_argument("--attention", default="auto", choices=("auto", "flash"), help="auto: as a worker chooses it")
    parser.add_argument("--cache", default="", help="folder for compiled graphs")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--tiny", action="store_true", help="a dry run on a CPU")
    Benchmark(parser.parse_args(arguments)).run()


if __name__ == "__main__":
    main()

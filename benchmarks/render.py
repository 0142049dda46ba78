"""Rendering at true size: ours beside stock diffusers in one run.

    python -m benchmarks.render --folder /dev/shm/flux1-dev --json benchmarks/results/render-DATE-HOST.json
    python -m benchmarks.render --model klein-4b --folder /dev/shm/klein-4b --sections bf16 --steps 50
    python -m benchmarks.render --tiny                                   # a dry run on a CPU

Random weights at the base model's true size (``benchmarks.true_size``): speed and memory do not depend on the values. Sections, each
printed and saved as it goes: ``bf16`` (stock, ours, switches), ``thousand`` (with it), ``fp8``, ``nf4``, ``both`` (a portrait while
training) and ``cap`` (24 GiB).
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import true_size
from benchmarks.measuring import Book, matmul_rate, surroundings
from benchmarks.render_portrait import ours, ready, stock
from benchmarks.render_shared import beside_a_training, capped, in_another_process
from benchmarks.render_switch import switches, thousand
from diffusion.loading import BaseModel, load_base

SECTIONS = ("bf16", "thousand", "fp8", "nf4", "cap", "both")


class Run:
    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.book = asked, Book(asked.json)
        self.backend = "inductor" if torch.cuda.is_available() else "eager"  # a CPU is for dry runs: graphs are made, code is not
        self.side = 64 if asked.tiny else 1024
        self.steps = 3 if asked.tiny else asked.steps
        self.folder = true_size.build(asked.model, asked.folder, text_encoders="small" if asked.tiny else "true", tiny=asked.tiny)

    def load(self, precision: str, *, backward: bool = False) -> BaseModel:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        base = load_base(self.folder, precision=precision, backward=backward)
        self.book.common = surroundings(base, self.asked.model)
        return base

    def bf16(self, then_thousand: bool) -> None:
        base = self.load("bf16")
        rate = matmul_rate(base.device)
        self.book.add("bf16 matrix product", tflops=round(rate / 1e12, 1))
        if not self.asked.no_stock:
            stock(self.book, base, self.side, self.steps)
        engine = ready(self.book, base, self.asked.cache, self.backend)
        ours(self.book, engine, self.side, self.steps, rate)
        switches(self.book, engine, self.steps)
        if then_thousand:
            thousand(self.book, engine, 10 if self.asked.tiny else 1000, 64 if self.asked.tiny else 256, 2)

    def fp8(self) -> None:
        self._narrow("fp8")

    def nf4(self) -> None:
        self._narrow("nf4")

    def _narrow(self, precision: str) -> None:
        base = self.load(precision)
        engine = ready(self.book, base, self.asked.cache, self.backend)
        ours(self.book, engine, self.side, self.steps, matmul_rate(base.device))
        switches(self.book, engine, self.steps)

    def both(self) -> None:
        base = self.load("bf16", backward=True)
        beside_a_training(self.book, base, self.side, 64 if self.asked.tiny else 512, self.steps, self.asked.cache, self.backend)

    def cap(self) -> None:
        passed = ["--model", self.asked.model, "--folder", str(self.folder), "--steps", str(self.steps), "--sections", "capped"]
        passed += ["--cache", str(self.asked.cache)] if self.asked.cache else []
        in_another_process(self.book, passed + (["--tiny"] if self.asked.tiny else []))

    def capped(self) -> None:
        capped(self.book, self.folder, "auto", self.side, self.steps, self.asked.cache, self.backend)


def main(arguments: Sequence[str] | None = None) -> None:
    run = Run(_parser().parse_args(arguments))
    wanted = run.asked.sections
    _try(run.book, "bf16", wanted, lambda: run.bf16("thousand" in wanted))
    for name in ("fp8", "nf4", "cap", "both", "capped"):
        _try(run.book, name, wanted, getattr(run, name))


def _try(book: Book, name: str, wanted: Sequence[str], section: Callable[[], Any]) -> None:
    """A section that fails says so and leaves the others their turn."""
    if name in wanted:
        try:
            section()
        except Exception as error:
            book.add("FAILED", section=name, error=f"{type(error).__name__}: {error}"[:600])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=true_size.MODELS, default="flux1-dev")
    parser.add_argument("--folder", type=Path, default=Path("var/true-size"), help="where the weights are, or will be written")
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=[*SECTIONS, "capped"])
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--cache", type=Path, help="folder for compiled graphs, to be found again by the next process")
    parser.add_argument("--no-stock", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="one block of each kind at 64², on whatever device there is")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()

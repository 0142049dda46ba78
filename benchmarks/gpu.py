"""Everything that wants a GPU, within a time: what only must be right or fit runs side by side, then what is timed runs alone.

    python -m benchmarks.gpu --folder /dev/shm --out var/gpu --minutes 28
    python -m benchmarks.gpu --list                       # what there is, and how long it takes on an H200
    python -m benchmarks.gpu --only jobs klein-steps      # some of it

Weights are written once into ``--folder`` (``benchmarks.true_size``) while the first programs run. Each program leaves ``NAME.json`` and
``NAME.log`` in ``--out``; one that would not end in time is not begun. Exit code 1 if one that was begun failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PYTEST = ("pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider")
FEWER = ("--subjects", "2", "--seeds", "1", "--captions", "8")  # 96 pictures a row take five minutes beside others
ROOMS = ("tests/unit/diffusion", "tests/unit/trainer", "tests/unit/inference")


@dataclass(frozen=True)
class Item:
    """``seconds``: on an H200 beside a processor of 16 cores, of those beside others with five at once. ``base``: folder of weights that it
    waits for. ``alone``: it is timed."""

    name: str
    command: tuple[str, ...]
    seconds: int
    base: str = ""
    alone: bool = False


@dataclass(frozen=True)
class Place:
    folder: Path
    out: Path

    def items(self) -> list[Item]:
        """In the order in which they are worth their time."""
        return [*self._side_by_side(), *self._alone()]

    def _side_by_side(self) -> list[Item]:
        likeness = [self._likeness(precision) for precision in ("bf16", "fp8", "nf4")]
        return [
            Item("workers", (*PYTEST, "tests/integration/likeness/test_gpu_workers.py"), 420),
            Item("tests", (*PYTEST, *ROOMS), 220),
            self._train("cap24", "flux1-dev", "cap24", 280, alone=False),
            self._train("klein-cap24", "klein-4b", "cap24", 200, alone=False),
            self._isolation("isolation", 400),
            self._isolation("isolation-840", 600, "--steps", "840"),
            self._bench("modes", "modes", ("--precision", "bf16", *FEWER, "--sheets", str(self.out / "sheets")), 900),
            *likeness,
            self._bench("gradients", "gradients", (), 240),
            self._train("stepdown", "flux1-dev", "stepdown", 420, alone=False),
            self._train("jobs", "flux1-dev", "jobs", 220, alone=False),
        ]

    def _alone(self) -> list[Item]:
        return [
            self._train("steps", "flux1-dev", "stock,steps1024,steps512,steps768,together,fp8", 300),
            self._render("render-bf16", "flux1-dev", "bf16", 200),
            self._render("render-fp8", "flux1-dev", "fp8", 200),
            self._render("both", "flux1-dev", "both", 160),
            self._train("klein", "klein-4b", "stock,steps1024,steps512,steps768,together,job,fp8", 400),
            self._render("render-klein-bf16", "klein-4b", "bf16,thousand", 300),
            self._render("render-klein-rest", "klein-4b", "cap,both", 240),
            self._render("render-klein-fp8", "klein-4b", "fp8", 150),
            self._train("recorded1024", "flux1-dev", "recorded1024", 150),
            self._train("job", "flux1-dev", "job", 300),
            self._train("klein-job", "klein-4b", "job", 220),
            self._render("render-nf4", "flux1-dev", "nf4", 180),
        ]

    def _bench(self, name: str, module: str, options: tuple[str, ...], seconds: int, base: str = "", *, alone: bool = False) -> Item:
        return Item(name, (f"benchmarks.{module}", *options, "--json", str(self.out / f"{name}.json")), seconds, base, alone)

    def _isolation(self, name: str, seconds: int, *options: str) -> Item:
        fitting = ("--workers", "3", "--adapters", str(self.out / f"fifty-{name}"))
        return self._bench(name, "isolation", ("--subjects", "50", *options, *fitting), seconds)

    def _likeness(self, precision: str) -> Item:
        workers = ("--workers", "5", "--cores", "1")
        return self._bench(
            f"likeness-{precision}", "likeness", ("--device", "cuda", "--precision", precision, "--seeds", "2", *workers), 240
        )

    def _train(self, name: str, base: str, sections: str, seconds: int, *, alone: bool = True) -> Item:
        """Of one set of weights for all, with true text encoders."""
        options = ("--base", base, "--only", sections, "--short-text", "--text-encoders", "true")
        places = ("--folder", str(self.folder), "--cache", str(self.folder / "graphs"))
        return self._bench(name, "train", (*options, *places), seconds, f"{base}-true", alone=alone)

    def _render(self, name: str, base: str, sections: str, seconds: int) -> Item:
        folder, steps = f"{base}-true", ("--steps", "50") if base == "klein-4b" else ()
        options = ("--model", base, "--sections", *sections.split(","))
        places = ("--folder", str(self.folder / folder), "--cache", str(self.folder / "graphs"))
        return self._bench(name, "render", (*options, *steps, *places), seconds, folder, alone=True)


class Runner:
    def __init__(self, place: Place, minutes: float, at_once: int) -> None:
        self.place, self.ends, self.at_once = place, time.monotonic() + 60 * minutes, at_once
        self.failed: list[str] = []
        self._builder = ThreadPoolExecutor(1)
        self._built: dict[str, Future[int]] = {}

    def run(self, items: Sequence[Item]) -> None:
        for item in items:
            self._build(item.base)
        with ThreadPoolExecutor(self.at_once) as pool:
            list(pool.map(self._one, [item for item in items if not item.alone]))
        for item in items:
            if item.alone:
                self._one(item)
        self._builder.shutdown(cancel_futures=True)

    def _one(self, item: Item) -> None:
        if item.base and self._built[item.base].result():
            self._say(item.name, "left out: its weights were not written")
            return
        left = self.ends - time.monotonic()
        if left < item.seconds:
            self._say(item.name, f"left out: it takes {item.seconds} s, and {max(0, left):.0f} are left")
            return
        began = time.monotonic()
        code = self._call(item.name, item.command, left)
        self._say(item.name, f"{'done' if code == 0 else f'FAILED ({code})'} in {time.monotonic() - began:.0f} s")
        if code:
            self.failed.append(item.name)

    def _build(self, base: str) -> None:
        if base and base not in self._built:
            which, _, text = base.rpartition("-")
            command = ("benchmarks.true_size", which, str(self.place.folder / base), "--text-encoders", text)
            self._built[base] = self._builder.submit(self._call, f"weights-{base}", command, self.ends - time.monotonic())

    def _call(self, name: str, command: tuple[str, ...], within_s: float) -> int:
        """The exit code; 124 if it was ended, and all that it had started with it."""
        with (self.place.out / f"{name}.log").open("wb") as log:
            program = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
        try:
            return program.wait(within_s)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            return 124

    def _say(self, name: str, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}: {what}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="where weights and compiled graphs are written: 55 GB for all"
    )
    parser.add_argument("--out", type=Path, default=Path("var/gpu"), help="where figures and logs go")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--at-once", type=int, default=4, help="programs side by side, of those that are not timed")
    parser.add_argument("--only", nargs="*", default=[], help="names, as --list shows them")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args(arguments)
    items = Place(asked.folder, asked.out).items()
    unknown = set(asked.only) - {item.name for item in items}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; --list shows what there is")
    chosen = [item for item in items if not asked.only or item.name in asked.only]
    if asked.list:
        for item in chosen:
            print(
                f"{item.name:<18} {item.seconds:>4} s  {'alone' if item.alone else 'beside others':<14} python -m {' '.join(item.command)}"
            )
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    runner = Runner(Place(asked.folder, asked.out), asked.minutes, asked.at_once)
    runner.run(chosen)
    sys.exit(bool(runner.failed))


if __name__ == "__main__":
    main()

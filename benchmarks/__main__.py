"""``make bench``: every benchmark that this machine can run, with results under benchmarks/results/; or those that are named."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import gradients, jobs, likeness, modes

RESULTS = Path(__file__).with_name("results")

Main = Callable[[Sequence[str]], None]
SMALL = ["--subjects", "1", "--trained", "1", "--seeds", "1", "--captions", "8"]  # the whole run takes a GPU
BENCHMARKS: dict[str, tuple[Main, list[str]]] = {
    "likeness": (likeness.main, ["--subjects", "5", "--seeds", "3", "--sheets", "var/likeness"]),
    "modes": (modes.main, [*SMALL, "--sheets", "var/modes"]),
    "gradients": (gradients.main, []),
    "jobs": (jobs.main, []),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    wanted = parser.parse_args(arguments).only
    if unknown := set(wanted) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    stamp = f"{datetime.now(UTC):%Y-%m-%d}-{platform.machine()}"
    for name, (run, options) in BENCHMARKS.items():
        if not wanted or name in wanted:
            run([*options, "--json", str(RESULTS / f"{name}-{stamp}.json")])


if __name__ == "__main__":
    main()

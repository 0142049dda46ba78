"""``make bench``: every benchmark that this machine can run, with results under benchmarks/results/."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import gradients, jobs, likeness, modes

RESULTS = Path(__file__).with_name("results")


def main() -> None:
    stamp = f"{datetime.now(UTC):%Y-%m-%d}-{platform.machine()}"
    likeness.main(["--subjects", "5", "--seeds", "3", "--json", str(RESULTS / f"likeness-{stamp}.json"), "--sheets", "var/likeness"])
    small = ["--subjects", "1", "--trained", "1", "--seeds", "1", "--captions", "8"]  # the whole run takes a GPU
    modes.main([*small, "--json", str(RESULTS / f"modes-{stamp}.json"), "--sheets", "var/modes"])
    gradients.main(["--json", str(RESULTS / f"gradients-{stamp}.json")])
    jobs.main(["--json", str(RESULTS / f"jobs-{stamp}.json")])


if __name__ == "__main__":
    main()

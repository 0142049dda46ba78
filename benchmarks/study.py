"""Which settings of the recipe matter: one factor at a time around the shipped recipe, on unseen subjects of the drawn world.

    python -m benchmarks.study --device cuda --workers 14 --subjects 6 --seeds 2 --within 420 --json FILE --plot PICTURE
    python -m benchmarks.study --read FILE --plot PICTURE      # the table and the plot again

Every arm is fitted on the same photos with the same seeds as the shipped recipe, and judged on the same prompts and seeds: likeness I
(0 = base model, 1 = photos that were held out), prompt fidelity P (of the base model's) and leaks. No checkpoint is chosen: the last step
counts, so that a factor cannot hide behind the selection. Differences are paired by subject and seed; intervals resample subjects.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.study_cells import FACTORS, Cell, Drawn, cells_of, open_worker, run_cell, worker_surroundings
from benchmarks.study_report import draw_plot, markdown, summarise
from miniature.world import KINDS, UNSEEN_SEED_START
from miniature.world.photos import draw_photo_set

FIRST_SUBJECT = UNSEEN_SEED_START + 70_000  # apart from the shipped samples, the acceptance and benchmarks/likeness.py


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    result = json.loads(asked.read.read_text(encoding="utf-8")) if asked.read else measure(asked)
    result["summary"] = summarise(result["rows"])
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if asked.plot:
        asked.plot.parent.mkdir(parents=True, exist_ok=True)
        draw_plot(result["summary"], asked.plot)
    print(markdown(result))


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        drawn = draw_subjects(asked.subjects, asked.photos, Path(scratch))
        cells = [
            cell
            for seed in range(asked.seeds)
            for subject in drawn
            for cell in cells_of(subject, seed, _chosen(asked.factors), asked.steps)
        ]
        pool = ProcessPoolExecutor(asked.workers, get_context("spawn"), open_worker, (asked.device, asked.precision, asked.threads))
        with pool:
            where = pool.submit(worker_surroundings).result()
            rows = run_all(pool, cells, began + asked.within if asked.within else None, asked.workers)
    return {
        "what": "study",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "workers": asked.workers,
        "planned": len(cells),
        **where,
        "rows": rows,
    }


def draw_subjects(count: int, photos: int, folder: Path) -> list[Drawn]:
    """Kinds in turn."""
    drawn = []
    for n in range(count):
        kind, own = KINDS[n % len(KINDS)], folder / f"{n}"
        draw_photo_set(kind, FIRST_SUBJECT + n, photos, own, size=384)
        drawn.append(Drawn(f"{kind}-{n + 1}", kind, own))
    return drawn


def run_all(pool: ProcessPoolExecutor, cells: Sequence[Cell], deadline: float | None, workers: int) -> list[dict[str, Any]]:
    """Cells in order, none begun after the deadline (of the monotonic clock); rows as they come."""
    rows: list[dict[str, Any]] = []
    waiting, running = list(cells), set[Future]()
    while waiting or running:
        late = deadline is not None and time.monotonic() > deadline
        while waiting and not late and len(running) < workers:
            running.add(pool.submit(partial(run_cell, waiting.pop(0))))
        if late:
            waiting.clear()
        done, running = wait(running, return_when=FIRST_COMPLETED) if running else (set(), set())
        for future in done:
            rows.append(future.result())
            _tell(rows[-1], len(rows), len(cells))
    return rows


def _tell(row: Mapping[str, Any], done: int, of: int) -> None:
    print(
        f"{time.strftime('%H:%M:%S')} {done}/{of} {row['subject']} seed {row['seed']} {row['arm']}: I {row['likeness']} P {row['fidelity']}"
        f" {row['fit_s']} s",
        flush=True,
    )


def _chosen(names: Sequence[str]) -> dict[str, Sequence[Any]]:
    return {name: values for name, values in FACTORS.items() if not names or name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each subject and arm")
    parser.add_argument("--photos", type=int, default=15, help="photos of each subject, three of which are only measured with")
    parser.add_argument("--factors", nargs="*", default=[], choices=list(FACTORS), help="default: all")
    parser.add_argument("--steps", type=int, default=0, help="shorten the shipped recipe (for a dry run); 0: as it is")
    parser.add_argument("--workers", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each worker")
    parser.add_argument("--within", type=float, default=0, help="begin no training after so many seconds; 0: no limit")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--read", type=Path, help="rows of an earlier run, instead of measuring")
    return parser


if __name__ == "__main__":
    main()

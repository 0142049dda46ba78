"""Which settings of the recipe matter: one factor at a time around the shipped recipe, on unseen subjects of the drawn world.

    python -m benchmarks.study --device cuda --workers 8 --subjects 8 --seeds 3 --within 420 --json FILE --plot PICTURE
    python -m benchmarks.study --read FILE --plot PICTURE      # the table and the plot again

Every arm is fitted on the same photos with the same seeds as the shipped recipe, and judged on the same prompts and seeds: likeness I
(0 = base model, 1 = photos that were held out), prompt fidelity P (of the base model's) and leaks. No checkpoint is chosen: the last step
counts, so that a factor cannot hide behind the selection. Differences are paired by subject and seed; intervals resample subjects.
An arm's subjects are fitted in one pass, which gives each what it would have alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.study_cells import FACTORS, SHIPPED, Cell, Drawn, open_worker, run_together, tasks_of, worker_surroundings
from benchmarks.study_report import draw_plot, markdown, summarise
from core.errors import UserError
from miniature.world import KINDS, UNSEEN_SEED_START
from miniature.world.photos import draw_photo_set

FIRST_SUBJECT = UNSEEN_SEED_START + 70_000  # apart from the shipped samples, the acceptance and benchmarks/likeness.py


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    result = json.loads(asked.read.read_text(encoding="utf-8")) if asked.read else measure(asked)
    result["summary"] = summarise(result["rows"])
    save(asked.json, result)
    if asked.plot:
        asked.plot.parent.mkdir(parents=True, exist_ok=True)
        draw_plot(result["summary"], asked.plot)
    print(markdown(result))


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything but the summary; what there is so far is saved after every pass."""
    began = time.monotonic()
    result: dict[str, Any] = {"what": "study", "measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "workers": asked.workers}
    with tempfile.TemporaryDirectory() as scratch:
        drawn = draw_subjects(asked.subjects, asked.photos, Path(scratch))
        tasks = tasks_of(drawn, asked.seeds, _chosen(asked.factors), asked.steps, asked.together)
        result |= {"planned": sum(map(len, tasks)), "together": asked.together}
        pool = ProcessPoolExecutor(asked.workers, get_context("spawn"), open_worker, (asked.device, asked.precision, asked.threads))
        with pool:
            result |= pool.submit(worker_surroundings).result()
            result |= {"rows": [], "left_out": {}}
            for rows in run_all(pool, tasks, began + asked.within if asked.within else None, asked.workers, result["left_out"]):
                result["rows"] += rows
                result["seconds"] = round(time.monotonic() - began, 1)
                save(asked.json, result)
                _tell(rows, len(result["rows"]), result["planned"])
    return result


def save(path: Path | None, result: Mapping[str, Any]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def draw_subjects(count: int, photos: int, folder: Path) -> list[Drawn]:
    """Kinds in turn."""
    drawn = []
    for n in range(count):
        kind, own = KINDS[n % len(KINDS)], folder / f"{n}"
        draw_photo_set(kind, FIRST_SUBJECT + n, photos, own, size=384)
        drawn.append(Drawn(f"{kind}-{n + 1}", kind, own))
    return drawn


def run_all(
    pool: Executor, tasks: Sequence[list[Cell]], deadline: float | None, workers: int, left_out: dict[str, str]
) -> Iterator[list[dict[str, Any]]]:
    """Rows of each task as it ends; tasks begin in order, and none after the deadline (of the monotonic clock).

    An arm that this machine cannot do goes into ``left_out`` with the reason, and the others go on; the shipped recipe must be possible.
    """
    waiting, running = list(tasks), dict[Future, str]()
    while waiting or running:
        if deadline is not None and time.monotonic() > deadline:
            waiting.clear()
        while waiting and len(running) < workers:
            cells = waiting.pop(0)
            running[pool.submit(run_together, cells)] = cells[0].arm
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            arm = running.pop(future)
            error = future.exception()
            if not isinstance(error, UserError) or arm == SHIPPED:
                yield future.result()
            elif arm not in left_out:
                left_out[arm] = str(error)
                waiting = [cells for cells in waiting if cells[0].arm != arm]
                print(f"{arm} is left out: {error}", flush=True)


def _tell(rows: Sequence[Mapping[str, Any]], done: int, of: int) -> None:
    first, likeness = rows[0], ", ".join(f"{row['subject']} {row['likeness']}" for row in rows)
    print(f"{time.strftime('%H:%M:%S')} {done}/{of} {first['arm']} seed {first['seed']}, {first['fit_s']} s each: I {likeness}", flush=True)


def _chosen(names: Sequence[str]) -> dict[str, Sequence[Any]]:
    return {name: values for name, values in FACTORS.items() if not names or name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each subject and arm")
    parser.add_argument("--photos", type=int, default=15, help="photos of each subject, three of which are only measured with")
    parser.add_argument("--factors", nargs="*", default=[], choices=list(FACTORS), help="default: all")
    parser.add_argument("--steps", type=int, default=0, help="shorten the shipped recipe (for a dry run); 0: as it is")
    parser.add_argument("--workers", type=int, default=1, help="processes at the same time")
    parser.add_argument("--together", type=int, default=8, help="subjects fitted in one pass")
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

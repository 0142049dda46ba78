"""Does it stay flat? What one job costs with 100, 1,000 and 10,000 of them queued, and what 200 watchers cost a training.

    python -m benchmarks.jobs --json benchmarks/results/jobs-DATE-HOST.json

Queue: create, publish, claim, list and an idle round of the scheduler, on SQLite and, where the package with its binaries is installed, on
PostgreSQL, with a real redis-server. Each figure is the lower quartile of ``--samples`` single operations with so many jobs waiting: on a
machine that others use too, the median says more of them than of the operation.
Watchers: one training on the miniature; in turns nobody and 200 clients listen to its events; steps a second by a line through what the
job row says. Prints the tables of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

from sqlalchemy import insert, select, update

from benchmarks import jobs_watchers
from core.logs import set_up_logs
from core.settings import Settings
from core.words import JobKind, JobState, new_id
from storage import job_keeping, jobs, paging, portraits, publishing, watching
from storage.broker import start_embedded_redis
from storage.migrations import upgrade
from storage.tables import Account, Job, Portrait, now
from storage.wiring import Storage, open_storage

QUEUED = (100, 1_000, 10_000)
ACCOUNT = "acc_bench"


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    set_up_logs("WARNING", False)
    result: dict[str, Any] = {"what": "jobs", "measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "hardware": hardware()}
    result["queue"] = {} if asked.no_queue else {name: measure(url, asked.samples) for name, url in databases()}
    if asked.windows:
        result["watchers"] = jobs_watchers.measure(asked.watchers, asked.windows, asked.window_s)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))


def databases() -> Iterator[tuple[str, str]]:
    """Name and URL of each, for as long as it is measured."""
    yield "SQLite", ""
    with postgres() as url:
        if url:
            yield "PostgreSQL", url


@contextmanager
def postgres() -> Iterator[str]:
    from benchmarks.chaos.surroundings import Postgres
    from tests.integration.storage.postgres.conftest import program

    if not program("initdb"):
        yield ""
        return
    server = Postgres()
    try:
        yield server.url
    finally:
        server.close()


def measure(database_url: str, samples: int) -> dict[str, dict[str, float]]:
    """``{operation: {queued: milliseconds}}``."""
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, var_dir=Path(folder), database_url=database_url)
        upgrade(settings.database)
        storage, broker = open_storage(settings), start_embedded_redis(settings)
        try:
            with storage.db.session() as session:
                session.add(Account(id=ACCOUNT, email="bench@example.com"))
            for queued in QUEUED:
                fill(storage, queued)
                for name, seconds in operations(storage, samples):
                    figures.setdefault(name, {})[str(queued)] = round(1000 * quantiles(seconds, n=4)[0], 3)
        finally:
            broker.stop()
            storage.db.close()
    return figures


def fill(storage: Storage, queued: int) -> None:
    """So many portraits wait, all published, in one account."""
    with storage.db.session() as session:
        here = list(session.scalars(select(Job.id).where(Job.state == JobState.STARTING)))
        rows = [_rows() for _ in range(queued - len(here))]
        if rows:
            session.execute(insert(Portrait), [portrait for portrait, _ in rows])
            session.execute(insert(Job), [job for _, job in rows])
    _analyze(storage)


def _rows() -> tuple[dict[str, Any], dict[str, Any]]:
    portrait_id, at = new_id("por"), now()
    portrait = {"id": portrait_id, "account_id": ACCOUNT, "prompt": "a cat", "seed": 1, "count": 1, "params": {}, "created_at": at}
    job = {"id": new_id("job"), "account_id": ACCOUNT, "kind": JobKind.PORTRAIT, "target_id": portrait_id, "state": JobState.STARTING}
    more = {"attempts": 0, "fence": 0, "cancel_requested": False, "progress": {}, "metrics": {}, "published_at": at, "publish_after": at}
    return portrait, job | more | {"created_at": at}


def _analyze(storage: Storage) -> None:
    """As autovacuum does in its own time."""
    with storage.db.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()


def operations(storage: Storage, samples: int) -> Iterator[tuple[str, list[float]]]:
    """Each leaves as many jobs waiting as it found, but for those that it claims."""
    made: list[Job] = []
    yield "create", timed(samples, lambda: made.append(create(storage)))
    told = iter(made)
    yield "publish", timed(samples, lambda: publishing.publish_new(storage, next(told)))
    unpublish(storage, made[:samples])
    yield "find what is unpublished", timed(samples, lambda: publishing.unpublished(storage.db))
    publish_all(storage)
    yield "idle round of the scheduler", timed(samples, lambda: job_keeping.keep_jobs(storage))
    yield "list a page of 20", timed(samples, lambda: list_page(storage))
    taken = iter(waiting(storage, samples))
    yield "claim and succeed", timed(samples, lambda: jobs.run(storage, next(taken), "bench", succeed))


def timed(count: int, act: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return seconds


def create(storage: Storage) -> Job:
    with storage.db.session() as session:
        portrait = Portrait(id=new_id("por"), account_id=ACCOUNT, prompt="a cat", seed=1, count=1, params={}, created_at=now())
        session.add(portrait)
        session.flush()
        return jobs.create(session, ACCOUNT, JobKind.PORTRAIT, portrait.id)


def unpublish(storage: Storage, some: Sequence[Job]) -> None:
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.id.in_([job.id for job in some])).values(published_at=None))


def publish_all(storage: Storage) -> None:
    with storage.db.session() as session:
        session.execute(update(Job).where(Job.published_at.is_(None)).values(published_at=now()))


def waiting(storage: Storage, count: int) -> list[str]:
    with storage.db.reader() as session:
        return list(session.scalars(select(Job.id).where(Job.state == JobState.STARTING).order_by(Job.created_at).limit(count)))


def list_page(storage: Storage) -> None:
    with storage.db.reader() as session:
        page = paging.page(session, portraits.of_account(ACCOUNT), 20)
        watching.jobs_of(session, [row.id for row in page.items])


def succeed(lease: jobs.Lease) -> None:
    lease.finish(lambda session: None)


def hardware() -> str:
    import psutil

    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return f"{model or platform.machine()}, {psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f} at the start"


def markdown(result: dict[str, Any]) -> str:
    lines = []
    for database, figures in result["queue"].items():
        lines += [f"| {database}, ms | " + " | ".join(f"{n:,} queued" for n in QUEUED) + " |", "| --- |" + " ---: |" * len(QUEUED)]
        lines += [f"| {name} | " + " | ".join(f"{by[str(n)]:.2f}" for n in QUEUED) + " |" for name, by in figures.items()] + [""]
    if "watchers" in result:
        lines += jobs_watchers.markdown(result["watchers"])
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--windows", type=int, default=5, help="pairs of windows without and with watchers; 0: none")
    parser.add_argument("--window-s", type=float, default=20.0)
    parser.add_argument("--no-queue", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    main()

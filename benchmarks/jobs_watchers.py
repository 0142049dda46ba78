"""What watching costs: one training whose events in turns nobody and many clients listen to."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from core.settings import Settings
from storage.database import Database
from storage.tables import Job

LOOK_EVERY_S, SETTLE_S = 0.1, 2.0


def measure(watchers: int, windows: int, window_s: float) -> dict[str, Any]:
    """Steps a second in each window, in the order in which they came: without, with, without, …"""
    from examples.demo import SHIPPED, Subject, create_subject, running_service, sign_in, upload  # imports the heavy rooms

    os.environ["LIKENESS_CPU_THREADS"] = "1"  # one core for the training, one for everything else
    with tempfile.TemporaryDirectory() as folder, running_service(Path(folder) / "service") as (url, var):
        client = sign_in(url, var)
        photos = sorted((SHIPPED / "basil").glob("*.jpg"))
        subject_id = create_subject(client, Subject("basil", "cat", photos))
        upload(client, subject_id, photos)
        body = {"subject_id": subject_id, "seed": 0, "recipe": {"steps": 10_000}}
        training = client.post("/v1/trainings", json=body).raise_for_status().json()
        database = Database(Settings(_env_file=None, var_dir=var).database)
        address = f"{url}{httpx.URL(training['urls']['events']).path}"
        rates: dict[str, list[float]] = {"without": [], "with": []}
        received = 0
        _wait_for_fit(database)
        for _ in range(windows):
            rates["without"].append(_steps_a_second(database, window_s))
            crowd = _crowd(address, client.headers["authorization"], watchers)
            time.sleep(SETTLE_S)
            rates["with"].append(_steps_a_second(database, window_s))
            crowd.terminate()
            received += int(crowd.communicate(timeout=120)[0] or 0)
            print({name: each[-1] for name, each in rates.items()}, flush=True)
            time.sleep(SETTLE_S)
        client.post(training["urls"]["cancel"])
        database.close()
    slower = [1 - one / other for one, other in zip(rates["with"], rates["without"], strict=True)]
    figures: dict[str, Any] = {"watchers": watchers, "window_s": window_s, "events": received, "steps_a_second": rates}
    return figures | {"slower_each": [round(each, 4) for each in slower], "slower": round(median(slower), 4)}


def _wait_for_fit(database: Database, within_s: float = 300) -> None:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if _step(database) > 3:
            return
        time.sleep(0.5)
    raise RuntimeError("the training did not begin to fit")


def _step(database: Database) -> int:
    with database.reader() as session:
        (job,) = session.query(Job).all()
        return int(job.progress.get("step", 0)) if job.progress.get("stage") == "fit" else 0


def _steps_a_second(database: Database, seconds: float) -> float:
    """Slope of a line through the moments at which the row's step changed."""
    seen: list[tuple[float, int]] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        step = _step(database)
        if not seen or step != seen[-1][1]:
            seen.append((time.monotonic(), step))
        time.sleep(LOOK_EVERY_S)
    if len(seen) < 3:
        raise RuntimeError(f"only {len(seen) - 1} steps in {seconds:.0f} s: take longer windows")
    times, steps = zip(*seen[1:], strict=True)
    return round(float(np.polyfit(times, steps, 1)[0]), 4)


def _crowd(address: str, authorization: str, count: int) -> subprocess.Popen[bytes]:
    command = ["nice", "-n", "5", sys.executable, "-m", __name__ if __name__ != "__main__" else "benchmarks.jobs_watchers"]
    return subprocess.Popen([*command, address, authorization, str(count)], stdout=subprocess.PIPE)


def markdown(figures: dict[str, Any]) -> list[str]:
    rates = figures["steps_a_second"]
    return [
        f"| steps a second | {' | '.join(f'pair {n + 1}' for n in range(len(rates['with'])))} | median |",
        "| --- |" + " ---: |" * (len(rates["with"]) + 1),
        f"| nobody watches | {' | '.join(f'{rate:.2f}' for rate in rates['without'])} | {median(rates['without']):.2f} |",
        f"| {figures['watchers']} watch | {' | '.join(f'{rate:.2f}' for rate in rates['with'])} | {median(rates['with']):.2f} |",
        f"| slower by | {' | '.join(f'{each:.1%}' for each in figures['slower_each'])} | {figures['slower']:.1%} |",
    ]


async def listen(address: str, authorization: str, count: int) -> None:
    """Until terminated; then prints how many events came in all."""
    events = itertools.count()

    async def one(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", address, headers={"Authorization": authorization}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event: job"):
                    next(events)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=None, limits=limits, trust_env=False) as client:
        loop, crowd = asyncio.get_running_loop(), [asyncio.create_task(one(client)) for _ in range(count)]
        loop.add_signal_handler(15, lambda: [task.cancel() for task in crowd])
        await asyncio.gather(*crowd, return_exceptions=True)
    print(next(events))


if __name__ == "__main__":
    asyncio.run(listen(sys.argv[1], sys.argv[2], int(sys.argv[3])))

from __future__ import annotations

import asyncio
from typing import Any

from api.events import Broadcaster, fingerprint
from core.errors import ServiceDown


class Jobs:
    """What a database would answer, and how often it was asked."""

    def __init__(self, *answers: dict[str, dict[str, Any]] | Exception) -> None:
        self.answers, self.asked = list(answers), 0

    def read(self, job_ids: list[str]) -> dict[str, dict[str, Any]]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def job(step: int, status: str = "processing") -> dict[str, dict[str, Any]]:
    return {"a": {"status": status, "progress": {"step": step}}}


async def collect(broadcaster: Broadcaster, seen: str | None = None) -> list[int]:
    return [snapshot["progress"]["step"] async for _id, snapshot in broadcaster.watch("a", seen)]


def run(jobs: Jobs, watchers: int = 1, seen: str | None = None) -> tuple[list[list[int]], Broadcaster]:
    async def all_of_them() -> tuple[list[list[int]], Broadcaster]:
        broadcaster = Broadcaster(jobs.read, interval_s=0.01)
        async with asyncio.timeout(5):
            return list(await asyncio.gather(*(collect(broadcaster, seen) for _ in range(watchers)))), broadcaster

    return asyncio.run(all_of_them())


def test_a_watcher_sees_each_change_once_and_the_end() -> None:
    seen, _ = run(Jobs(job(1), job(1), job(2), job(2, "succeeded")))
    assert seen == [[1, 2, 2]]


def test_many_watchers_share_the_asking() -> None:
    jobs = Jobs(job(1), job(2), job(3, "succeeded"))
    seen, broadcaster = run(jobs, watchers=50)
    assert all(steps[-1] == 3 for steps in seen)
    assert jobs.asked == 3
    assert broadcaster.watched == 0


def test_what_was_seen_is_not_sent_again() -> None:
    first = job(1)
    seen, _ = run(Jobs(first, job(2, "failed")), seen=fingerprint(first["a"]))
    assert seen == [[2]]


def test_a_job_that_is_erased_ends_the_stream() -> None:
    seen, _ = run(Jobs(job(1), {}))
    assert seen == [[1]]


def test_a_database_that_is_down_is_waited_for() -> None:
    seen, _ = run(Jobs(job(1), ServiceDown("the database does not answer"), job(2, "canceled")))
    assert seen == [[1, 2]]

"""What all workers do alike: step back when told to stop, load under the lease, end when the device is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.errors import WorkerStopping
from storage import worker_process
from storage.leases import Lease
from storage.tables import Job
from storage.wiring import Storage
from storage.worker_process import StopFlag, work_on
from tests.unit.storage.conftest import World


@pytest.fixture
def job(world: World) -> Job:
    return world.training(world.subject(world.account()))[1]


def run(storage: Storage, job: Job, work: Callable[[Lease], None], stop: StopFlag | None = None, dead: bool = False) -> str:
    return work_on(storage, job.id, "worker-1", work, stop or StopFlag(), lambda: dead)


def succeed(lease: Lease) -> None:
    lease.check()
    with lease.succeed():
        pass


def test_weights_that_cannot_be_loaded_cost_the_job_an_attempt_with_its_reason(storage: Storage, world: World, job: Job) -> None:
    def load(lease: Lease) -> None:
        raise FileNotFoundError("no model_index.json")

    assert run(storage, job, load) == "requeued"
    assert (world.job(job).error or {})["attempts"][0]["message"] == "no model_index.json"


def test_told_to_stop_it_gives_back_what_it_has_and_takes_nothing_new(storage: Storage, world: World, job: Job) -> None:
    stop = StopFlag()

    def told_in_the_middle(lease: Lease) -> None:
        stop.set()
        succeed(lease)

    with pytest.raises(WorkerStopping):
        run(storage, job, told_in_the_middle, stop)
    assert (world.job(job).state, world.job(job).attempts) == ("starting", 0)
    with pytest.raises(WorkerStopping):
        run(storage, job, succeed, stop)
    assert world.job(job).fence == 1, "the second was not even claimed"


@pytest.mark.parametrize("dead", [True, False])
def test_a_device_that_is_gone_ends_the_process_after_the_job_went_back(
    storage: Storage, world: World, job: Job, dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(worker_process, "end_process", lambda: seen.append(world.job(job).state))

    def fault(lease: Lease) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert run(storage, job, fault, dead=dead) == "requeued"
    assert seen == (["starting"] if dead else [])


def test_after_a_success_nobody_asks_the_device(storage: Storage, job: Job) -> None:
    def broken() -> bool:
        raise AssertionError

    assert work_on(storage, job.id, "worker-1", succeed, StopFlag(), broken) == "succeeded"


def test_the_flag_is_seen_across_a_fork(tmp_path: Path) -> None:
    stop, note = StopFlag(), tmp_path / "seen"
    pid = os.fork()
    if pid == 0:
        ends = time.monotonic() + 20
        while not stop() and time.monotonic() < ends:
            time.sleep(0.01)
        if stop():
            note.touch()
        os._exit(0)
    stop.set()
    os.waitpid(pid, 0)
    assert note.exists()

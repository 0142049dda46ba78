"""The audit of a run of faults must see what is wrong: each of these is one thing that it would be bad to miss."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from PIL import Image

from benchmarks.chaos import audit, reasons
from benchmarks.chaos.faults import Injected
from core.words import JobKind, JobState
from storage import endings, keys
from storage.tables import Adapter, Job
from storage.wiring import Storage
from tests.unit.storage.conftest import World, settings, storage, world

__all__ = ["settings", "storage", "world"]

AT = 1_800_000_000.0
LEASE_S = 8.0


def attempt(cause: str = endings.WORKER_LOST, after_s: float = 20.0, worker: str = "train-12@host") -> dict[str, Any]:
    return {"cause": cause, "worker": worker, "at": datetime.fromtimestamp(AT + after_s, UTC).isoformat(timespec="seconds")}


def job(*attempts: dict[str, Any], failed: bool = False) -> Job:
    ended = {"type": "job/gave-up", "message": "It stopped."} if failed else {}
    state = JobState.FAILED if failed else JobState.SUCCEEDED
    return Job(target_id="trn_1", kind=JobKind.TRAINING, state=state, attempts=len(attempts), error={"attempts": list(attempts), **ended})


def said(one: Job, *faults: Injected) -> list[str]:
    return list(reasons.failures([one], faults, LEASE_S, 3))


KILLED = Injected("kill_train_worker", "train-worker-1", AT, AT)


def test_an_attempt_that_a_fault_explains_is_true() -> None:
    assert said(job(attempt()), KILLED) == []
    assert said(job(attempt(), attempt(), attempt(), failed=True), KILLED) == []


@pytest.mark.parametrize(
    "untrue",
    [
        attempt(after_s=60),
        attempt(after_s=-5),
        attempt(worker="render-12@host"),
        attempt(cause=endings.SERVER_DOWN),
        attempt(cause=endings.PROGRAM_FAULT),
    ],
    ids=["long after", "before", "another kind of worker", "another cause", "our own fault"],
)
def test_one_that_none_explains_is_not(untrue: dict[str, Any]) -> None:
    assert len(said(job(untrue), KILLED)) == 1


def test_giving_up_too_soon_is_seen() -> None:
    (problem,) = said(job(attempt(), attempt(), failed=True), KILLED)
    assert problem.startswith("untrue reason: trn_1 gave up after 2 attempts")
    assert len(said(job(attempt() | {"kept": 4}, attempt() | {"kept": 4}, attempt() | {"kept": 4}, failed=True), KILLED)) == 1


@pytest.fixture
def trained(storage: Storage, world: World) -> Adapter:
    account = world.account()
    adapter = world.adapter(world.training(world.subject(account))[0])
    adapter.card = {"samples": [{"file": "sample-0.png", "prompt": "a cat"}]}
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    storage.objects.put(sample_of(adapter), picture.getvalue())
    storage.objects.put(keys.adapter_card(account.id, adapter.id), json.dumps(adapter.card).encode())
    return adapter


def test_card_and_samples_are_looked_at(storage: Storage, trained: Adapter) -> None:
    assert problems(storage, [trained]) == []
    storage.objects.put(sample_of(trained), b"\x89PNG cut off")
    assert len(problems(storage, [trained])) == 1
    storage.objects.erase([sample_of(trained)])
    assert len(problems(storage, [trained])) == 1
    trained.card = {"samples": []}
    assert len(problems(storage, [trained])) == 2


def sample_of(adapter: Adapter) -> str:
    return keys.adapter_sample(adapter.account_id, adapter.id, "sample-0.png")


def problems(storage: Storage, adapters: Sequence[Adapter]) -> list[str]:
    return list(audit._adapters(storage, audit.Rows({}, {}, {}, list(adapters), [], [], [])))

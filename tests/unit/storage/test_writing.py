"""An erasure and what is being stored at that moment: the receipt waits for it, and nothing arrives after."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Event
from time import sleep
from typing import Any

import pytest
from sqlalchemy import func, select, update

from core.errors import JobCanceled, LeaseLost, ServiceDown
from storage import erasure, jobs, keys, scheduler, subjects, writing
from storage.jobs import Lease
from storage.tables import Account, Erasure, Subject, Training, Write, now
from storage.wiring import Storage
from tests.unit.storage.conftest import FakePost, World


@pytest.fixture
def miso(world: World) -> Subject:
    return world.subject(world.account("ada@example.com"), "Miso")


class SlowStore:
    """Begins to store, then waits; the object arrives whatever happened meanwhile, as with a server that has all of a request."""

    def __init__(self, objects: Any) -> None:
        self._objects, self.begun, self.go = objects, Event(), Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def put(self, key: str, data: bytes, content_type: str = "") -> None:
        self.begun.set()
        assert self.go.wait(30)
        self._objects.put(key, data, content_type)


def stored(storage: Storage, account_id: str) -> list[str]:
    return list(storage.objects.versions(keys.account_prefix(account_id)))


def notes(storage: Storage) -> int:
    with storage.db.reader() as session:
        return session.scalar(select(func.count()).select_from(Write)) or 0


@pytest.mark.parametrize("scope", ["account", "subject"])
def test_a_slow_write_holds_up_the_receipt_and_leaves_nothing(
    storage: Storage, world: World, miso: Subject, post: FakePost, scope: str
) -> None:
    training, job = world.training(miso)
    slow = SlowStore(storage.objects)
    said: list[type[BaseException]] = []

    def work(lease: Lease) -> None:
        with pytest.raises((LeaseLost, JobCanceled)) as refusal:
            lease.put(_checkpoint(training), b"weights")
        said.append(refusal.type)
        raise refusal.value

    with ThreadPoolExecutor(2) as others:
        working = others.submit(jobs.run, replace(storage, objects=slow), job.id, "worker", work)  # type: ignore[arg-type]
        assert slow.begun.wait(30)
        target = {"account": miso.account_id, "subject": miso.id}[scope]
        erasing = others.submit(erasure.erase, storage, post, scope, target)
        sleep(0.5)
        assert not erasing.done() and notes(storage) == 1
        slow.go.set()
        receipt = erasing.result(30)
        assert stored(storage, miso.account_id) == []
        assert working.result(30) == "stepped back" and said
    assert receipt.body["scope"] == scope and notes(storage) == 0


def test_a_writer_that_died_holds_up_the_receipt_for_its_time_only(
    storage: Storage, world: World, miso: Subject, post: FakePost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "SETTLES_WITHIN_S", 0.2)
    training, _ = world.training(miso)
    with storage.db.session() as session:
        session.add(Write(id="wrt_1", key=_checkpoint(training), ends_by=now() + timedelta(seconds=60)))
    with pytest.raises(writing.StillWriting):
        erasure.erase(storage, post, "subject", miso.id)
    with storage.db.session() as session:
        session.execute(update(Erasure).values(started_at=now() - timedelta(minutes=2)))
    assert scheduler.tick(storage, post)["erasures_resumed"] == 1, "looked at, not finished"
    assert _unfinished(storage) == 1
    storage.objects.put(_checkpoint(training), b"arrived after all")
    with storage.db.session() as session:
        session.execute(update(Write).values(ends_by=now() - timedelta(seconds=1)))
    scheduler.tick(storage, post)
    assert _unfinished(storage) == 0 and stored(storage, miso.account_id) == [] and notes(storage) == 0


def test_a_write_after_the_erasure_began_is_not_begun(storage: Storage, world: World, miso: Subject, post: FakePost) -> None:
    training, job = world.training(miso)

    def work(lease: Lease) -> None:
        erasure.erase(storage, post, "subject", miso.id)
        lease.put(_checkpoint(training), b"weights")

    store = SlowStore(storage.objects)
    assert jobs.run(replace(storage, objects=store), job.id, "worker", work) == "stepped back"  # type: ignore[arg-type]
    assert not store.begun.is_set()
    with pytest.raises(writing.OwnerGone), _photo_of(storage, miso):
        raise AssertionError("there is nobody to store for")


def test_what_is_stored_beside_the_target_holds_up_nobody(storage: Storage, world: World, miso: Subject, post: FakePost) -> None:
    tofu = world.subject(Account(id=miso.account_id), "Tofu")
    with _photo_of(storage, tofu):
        erasure.erase(storage, post, "subject", miso.id)
        assert notes(storage) == 1
    assert notes(storage) == 0


def test_a_database_that_restarts_is_waited_for(storage: Storage, miso: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "ASK_AGAIN_S", 0.01)
    answers = iter([ServiceDown("restarting"), ServiceDown("restarting"), True])

    def stands(_session: Any) -> bool:
        answer = next(answers)
        if isinstance(answer, ServiceDown):
            raise answer
        return answer

    with writing.announced(storage, ["accounts/x/y"], stands, patience_s=5):
        assert notes(storage) == 1
    with pytest.raises(ServiceDown), writing.announced(storage, ["accounts/x/y"], lambda _: next(iter([_down()])), patience_s=0):
        raise AssertionError("not reached")


def _down() -> bool:
    raise ServiceDown("restarting")


def _checkpoint(training: Training) -> str:
    return keys.training_prefix(training.account_id, training.subject_id, training.id) + "checkpoint.safetensors"


@contextmanager
def _photo_of(storage: Storage, subject: Subject) -> Iterator[None]:
    key = keys.photo(subject.account_id, subject.id, "pho_1")
    with writing.announced(storage, [key], lambda session: subjects.stands(session, subject.account_id, subject.id)):
        yield


def _unfinished(storage: Storage) -> int:
    with storage.db.reader() as session:
        return session.scalar(select(func.count()).select_from(Erasure).where(Erasure.finished_at.is_(None))) or 0

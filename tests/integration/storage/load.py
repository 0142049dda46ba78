"""Customers and workers at full tilt on real storage code, so that an erasure meets everything that can be under way."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from core.errors import JobFailed, ServiceDown, UserError
from core.words import JobKind, JobState, new_id
from storage import adapters, idempotency, jobs, keys, photos, portraits, scheduler, subjects, trainings, writing
from storage.jobs import Lease
from storage.tables import Account, Adapter, Job, Photo, Portrait, PortraitImage, Subject, Training
from storage.wiring import Storage
from tests.unit.storage.conftest import FakePost

WORKERS = 3
CUSTOMERS = 4  # of each account, at the same time
STEP_S = 0.01
JUDGING_S = 0.5  # from the question whether the subject exists to the photo's objects: where an erasure most often meets it


@dataclass
class Load:
    """``faults``: what no customer and no worker should see; ``outcomes``: how jobs ended, by target's account."""

    storage: Storage
    post: FakePost
    faults: list[BaseException] = field(default_factory=list)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, accounts: list[Account]) -> Iterator[None]:
        customers = [lambda account=account: self._be_customer(account) for account in accounts for _ in range(CUSTOMERS)]
        everyone: list[Callable[[], None]] = [*customers, *[self._work] * WORKERS, self._schedule]
        threads = [threading.Thread(target=self._repeat, args=(one,), daemon=True) for one in everyone]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads), "a thread hangs"

    def _repeat(self, turn: Callable[[], None]) -> None:
        while not self.stop.wait(STEP_S):
            try:
                turn()
            except (UserError, IntegrityError):  # not found, already running, full, changed meanwhile: what a customer is told
                pass
            except BaseException as fault:
                self.faults.append(fault)

    # What customers do

    def _be_customer(self, account: Account) -> None:
        with self.storage.db.reader() as session:
            mine = list(session.scalars(select(Subject).where(Subject.account_id == account.id)))
            fitted = list(session.scalars(select(Adapter).where(Adapter.account_id == account.id)))
        if mine:
            subject = random.choice(mine)
            random.choice([self._upload, self._upload, self._train])(subject)
        if fitted:
            self._ask_for_portrait(random.choice(fitted))

    def _upload(self, subject: Subject) -> None:
        """As the API takes a photo in: judged, then its objects are stored, then its row, which a vanished subject refuses."""
        photo_id = new_id("pho")
        key, thumb = keys.photo(subject.account_id, subject.id, photo_id), keys.photo_thumb(subject.account_id, subject.id, photo_id)
        self.stop.wait(JUDGING_S)
        row = Photo(id=photo_id, account_id=subject.account_id, subject_id=subject.id, filename="x.jpg", object_key=key, thumb_key=thumb)
        row.sha256, row.dhash, row.width, row.height, row.size_bytes, row.verdict = "0" * 64, "0" * 16, 8, 8, 8, "good"
        try:
            with writing.announced(self.storage, [key, thumb], lambda session: subjects.stands(session, subject.account_id, subject.id)):
                self._put(row)
        except writing.OwnerGone:
            pass

    def _put(self, row: Photo) -> None:
        try:
            for place in (row.object_key, row.thumb_key):
                self.storage.objects.put(place, row.id.encode())
            with self.storage.db.session() as session:
                photos.add(session, self.storage.settings, row)
        except BaseException as error:
            self.storage.objects.erase([row.object_key, row.thumb_key])
            if not isinstance(error, ServiceDown):
                raise
            with self.storage.db.reader() as session:  # a folder that an erasure sweeps away under the file that is being written
                subjects.get(session, row.account_id, row.subject_id)
            raise

    def _train(self, subject: Subject) -> None:
        with self._once(subject.account_id) as body, self.storage.db.session() as session:
            training, _ = trainings.create(session, self.storage.settings, subject.account_id, subject.id)
            body.append(f"{training.id} of {subject.id}")

    def _ask_for_portrait(self, adapter: Adapter) -> None:
        with self._once(adapter.account_id) as body, self.storage.db.session() as session:
            portrait, _ = portraits.create(
                session, self.storage.settings, adapter.account_id, adapter_id=adapter.id, prompt="a cat", count=2
            )
            body.append(f"{portrait.id} by {adapter.id}")

    @contextmanager
    def _once(self, account_id: str) -> Iterator[list[str]]:
        """With an Idempotency-Key, as the API does: the answer is remembered after the work is committed."""
        key, body = new_id("key"), list[str]()
        with self.storage.db.session() as session:
            subjects.open_account(session, account_id)
            idempotency.begin(session, account_id, key, sha256(key.encode()).hexdigest())
        with idempotency.acting(account_id, key):
            yield body
        with self.storage.db.session() as session:
            idempotency.finish(session, account_id, key, 201, " ".join(body).encode())

    # What workers do

    def _work(self) -> None:
        with self.storage.db.reader() as session:
            waiting = list(session.scalars(select(Job).where(Job.state == JobState.STARTING).limit(20)))
        if waiting:
            job = random.choice(waiting)
            work = self._fit if job.kind == JobKind.TRAINING else self._render
            outcome = jobs.run(self.storage, job.id, threading.current_thread().name, work)
            self.outcomes[job.account_id, outcome] += 1

    def _fit(self, lease: Lease) -> None:
        with self.storage.db.reader() as session:
            training = session.get(Training, lease.target_id)
        if training is None:
            raise JobFailed("This training was erased.")
        prefix = keys.training_prefix(lease.account_id, training.subject_id, training.id)
        for step in range(5):
            lease.check()
            lease.progress(stage="fit", step=step, total=5)
            lease.put(f"{prefix}checkpoint-{step}-{lease.fence}.safetensors", b"weights")
            self.stop.wait(STEP_S)
        adapter = Adapter(
            id=adapters.new_adapter_id(), account_id=lease.account_id, subject_id=training.subject_id, training_id=training.id
        )
        adapter.object_key, adapter.sha256, adapter.size_bytes, adapter.base_model = "", "0" * 64, 3, "miniature"
        adapter.rank, adapter.alpha, adapter.trigger_token, adapter.class_word = 32, 32.0, training.trigger_token, "cat"
        adapter.object_key = keys.adapter_weights(lease.account_id, adapter.id)
        lease.put(adapter.object_key, b"lora")
        lease.finish(lambda session: void(adapters.add(session, adapter)))

    def _render(self, lease: Lease) -> None:
        with self.storage.db.reader() as session:
            portrait = session.get(Portrait, lease.target_id)
        if portrait is None:
            raise JobFailed("This portrait was erased.")
        images = [self._picture(lease, portrait, n) for n in range(portrait.count)]
        lease.finish(lambda session: [portraits.add_image(session, image) for image in images] and None)

    def _picture(self, lease: Lease, portrait: Portrait, n: int) -> PortraitImage:
        lease.check()
        key = keys.portrait_prefix(portrait.account_id, portrait.id) + f"{n}-{lease.fence}.png"
        lease.put(key, b"png")
        self.stop.wait(STEP_S)
        image = PortraitImage(account_id=portrait.account_id, portrait_id=portrait.id, n=n, seed=n, object_key=key)
        image.sha256, image.width, image.height = "0" * 64, 8, 8
        return image

    # What happens although nobody asks

    def _schedule(self) -> None:
        scheduler.tick(self.storage, self.post)


def void(_: object) -> None: ...

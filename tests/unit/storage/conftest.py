"""A real SQLite file, a real folder of objects, and rows to begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from core.words import JobKind, new_id
from storage import jobs, keys, subjects
from storage.tables import Account, Adapter, Job, Photo, Portrait, PortraitImage, Subject, Training
from storage.wiring import Storage, open_storage


def job_settings(tmp_path: Path, **changes: Any) -> Settings:
    values = {"lease_s": 5, "heartbeat_s": 0.3, "min_photos": 3, "max_photos": 5}
    return Settings(_env_file=None, var_dir=tmp_path / "var", **(values | changes))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return job_settings(tmp_path)


@pytest.fixture
def storage(settings: Settings) -> Iterator[Storage]:
    storage = open_storage(settings)
    storage.db.create_all()
    yield storage
    storage.db.close()


@dataclass
class FakePost:
    """Keeps what it was given; ``fails_with`` makes it fail."""

    sent: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    fails_with: Exception | None = None

    def send(self, to: str, template: str, context: dict[str, Any], dedupe_key: str) -> None:
        if self.fails_with:
            raise self.fails_with
        self.sent.append((to, template, context))

    def erase_for(self, address: str) -> int:
        before = len(self.sent)
        self.sent = [mail for mail in self.sent if mail[0] != address]
        return before - len(self.sent)

    def held_for(self, address: str) -> int:
        return sum(mail[0] == address for mail in self.sent)

    def forget_expired(self) -> int:
        """As a mail server, which keeps nothing."""
        return 0


@pytest.fixture
def post() -> FakePost:
    return FakePost()


@dataclass
class World:
    """Makes rows and their objects."""

    storage: Storage

    def account(self, email: str = "ada@example.com") -> Account:
        account = Account(id=new_id("acc"), email=email)
        with self.storage.db.session() as session:
            session.add(account)
        return account

    def subject(self, account: Account, name: str = "Miso") -> Subject:
        with self.storage.db.session() as session:
            return subjects.create(session, account.id, name, "cat", "I agree.")

    def photo(self, subject: Subject, verdict: str = "good") -> Photo:
        photo_id = new_id("pho")
        key, thumb = keys.photo(subject.account_id, subject.id, photo_id), keys.photo_thumb(subject.account_id, subject.id, photo_id)
        photo = Photo(
            id=photo_id, account_id=subject.account_id, subject_id=subject.id, filename="miso.jpg", object_key=key, thumb_key=thumb
        )
        photo.sha256, photo.dhash, photo.width, photo.height, photo.size_bytes, photo.verdict = "0" * 64, "0" * 16, 10, 10, 3, verdict
        self.storage.objects.put(key, b"pic")
        self.storage.objects.put(thumb, b"thumb")
        with self.storage.db.session() as session:
            session.add(photo)
        return photo

    def training(self, subject: Subject, trigger_token: str = "zokzex") -> tuple[Training, Job]:
        training = Training(
            id=new_id("trn"), account_id=subject.account_id, subject_id=subject.id, base_model="miniature", trigger_token=trigger_token
        )
        with self.storage.db.session() as session:
            session.add(training)
            session.flush()
            return training, jobs.create(session, subject.account_id, JobKind.TRAINING, training.id)

    def adapter(self, training: Training) -> Adapter:
        adapter_id = new_id("ada")
        key = keys.adapter_weights(training.account_id, adapter_id)
        adapter = Adapter(id=adapter_id, account_id=training.account_id, subject_id=training.subject_id, training_id=training.id)
        adapter.object_key, adapter.sha256, adapter.size_bytes, adapter.base_model = key, "0" * 64, 3, "miniature"
        adapter.rank, adapter.alpha, adapter.trigger_token, adapter.class_word = 32, 32.0, training.trigger_token, "cat"
        self.storage.objects.put(key, b"lora")
        with self.storage.db.session() as session:
            session.add(adapter)
        return adapter

    def portrait(self, adapter: Adapter) -> Portrait:
        portrait = Portrait(id=new_id("por"), account_id=adapter.account_id, adapter_id=adapter.id, prompt="a cat", seed=1, count=1)
        key = keys.portrait_image(adapter.account_id, portrait.id, 0)
        image = PortraitImage(id=new_id("img"), account_id=adapter.account_id, portrait_id=portrait.id, n=0, seed=1, object_key=key)
        image.sha256, image.width, image.height = "0" * 64, 8, 8
        self.storage.objects.put(key, b"png")
        with self.storage.db.session() as session:
            session.add(portrait)
            session.flush()
            session.add(image)
            jobs.create(session, adapter.account_id, JobKind.PORTRAIT, portrait.id)
        return portrait

    def job(self, job: Job) -> Job:
        """The row as it is now."""
        with self.storage.db.reader() as session:
            return session.get_one(Job, job.id)


@pytest.fixture
def world(storage: Storage) -> World:
    return World(storage)

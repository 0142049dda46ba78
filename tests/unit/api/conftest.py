"""A real application over SQLite and a folder store in a temporary folder; no broker, so publishing fails softly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.app import create_app
from core.settings import Settings
from storage.tables import Mail
from storage.wiring import Storage, open_storage
from tests.unit.api.site import SITE, Customer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, var_dir=tmp_path / "var", public_url=SITE, broker_url="redis://127.0.0.1:1/0")


@pytest.fixture
def storage(settings: Settings) -> Iterator[Storage]:
    opened = open_storage(settings)
    opened.db.create_all()
    yield opened
    opened.db.close()


@pytest.fixture
def client(settings: Settings, storage: Storage) -> Iterator[TestClient]:
    """A browser that is not signed in: its requests say that our own pages sent them."""
    with TestClient(create_app(settings, storage), base_url=SITE, headers={"Origin": SITE}, follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def customer(client: TestClient, storage: Storage) -> Customer:
    """Signed in by the link in the mail."""
    return sign_in(client, storage, "mia@example.com")


def sign_in(client: TestClient, storage: Storage, email: str) -> Customer:
    assert client.post("/v1/sign-in", json={"email": email}).status_code == 202
    with storage.db.reader() as session:
        mail = session.scalars(select(Mail).where(Mail.to == email).order_by(Mail.created_at.desc())).first()
    assert mail
    token = mail.context["path"].partition("token=")[2]
    assert client.post("/v1/sign-in/confirm", json={"token": token}).status_code == 200
    return Customer(client, token)

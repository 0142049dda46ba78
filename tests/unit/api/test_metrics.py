from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from api.app import create_app
from core.settings import Settings
from core.words import JobKind, new_id
from storage import jobs, totals
from storage.tables import Account
from storage.wiring import Storage
from tests.unit.api.site import SITE

TOKEN = {"Authorization": "Bearer s3cret"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"metrics_token": type(settings.secret_key)("s3cret")})


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def has(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, frozenset(labels.items())))


def test_the_figures_are_what_the_database_says(client: TestClient, storage: Storage) -> None:
    with storage.db.session() as session:
        session.add(Account(id="acc_1", email="ada@example.com"))
        session.flush()
        waiting, failing = (jobs.create(session, "acc_1", JobKind.TRAINING, new_id("trn")) for _ in range(2))
    jobs.run(storage, failing.id, "w", lambda lease: lease.metrics(device="cpu") or 1 / 0)  # goes back to the queue: not an end
    assert totals.count_ended(storage) == 0
    with storage.db.session() as session:
        jobs.request_cancel(session, session.get_one(type(waiting), waiting.id))
    totals.count_ended(storage)
    answer = client.get("/metrics", headers=TOKEN)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert has(answer.text, "likeness_queue_jobs", kind="training", state="starting") == 1
    assert has(answer.text, "likeness_jobs_total", kind="training", state="canceled", reason="", cause="") == 1
    assert has(answer.text, "likeness_database_up") == 1
    assert "example.com" not in answer.text


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}])
def test_not_without_the_token(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 401
    assert "likeness_" not in answer.text


def test_where_no_token_is_set_there_is_nothing(storage: Storage, settings: Settings) -> None:
    bare = settings.model_copy(update={"metrics_token": type(settings.secret_key)("")})
    with TestClient(create_app(bare, storage), base_url=SITE) as client:
        assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404


def test_a_database_that_is_down_is_a_figure_too(tmp_path: Path) -> None:
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
    settings = Settings(_env_file=None, var_dir=tmp_path, public_url=SITE, database_url=nowhere, metrics_token="s3cret")
    text = TestClient(create_app(settings), base_url=SITE).get("/metrics", headers=TOKEN).text
    assert has(text, "likeness_database_up") == 0
    assert "likeness_queue_jobs" not in text


def test_a_port_of_their_own(settings: Settings, storage: Storage) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = settings.model_copy(update={"metrics_port": port})
    with TestClient(create_app(own, storage), base_url=SITE):
        assert has(httpx.get(f"http://127.0.0.1:{port}/metrics").text, "likeness_database_up") == 1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")

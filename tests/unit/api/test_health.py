from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from core.settings import Settings
from tests.unit.api.site import SITE


def test_the_process_is_up(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_ready_without_a_broker_which_is_named(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert (answer.json()["database"], answer.json()["store"]) == ("ok", "ok")
    assert answer.json()["broker"].startswith("down: ")


@pytest.fixture
def without_database(tmp_path: Path) -> TestClient:
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
    settings = Settings(_env_file=None, var_dir=tmp_path, public_url=SITE, database_url=nowhere, broker_url="redis://127.0.0.1:1/0")
    return TestClient(create_app(settings), base_url=SITE)


def test_not_ready_without_a_database(without_database: TestClient) -> None:
    answer = without_database.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["database"].startswith("down: ")


def test_a_server_that_is_down_is_said_plainly_with_a_time_to_come_back(without_database: TestClient) -> None:
    answer = without_database.post("/v1/sign-in", json={"email": "mia@example.com"})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:likeness:service/down")
    assert answer.headers["retry-after"]
    assert "127.0.0.1" not in answer.text

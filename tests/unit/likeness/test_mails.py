"""Mails that were given up, as an operator finds and mends them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.settings import Settings
from likeness.cli import app
from mail.post import Post
from storage import mails
from storage.migrations import upgrade
from storage.tables import Mail, now
from storage.wiring import Storage, open_storage
from tests.unit.storage.conftest import World

EMAIL = "ada@example.com"


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("LIKENESS_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("COLUMNS", "300")
    settings = Settings()
    upgrade(settings.database)
    return open_storage(settings)


@pytest.fixture
def given_up(storage: Storage) -> Mail:
    account = World(storage).account(EMAIL)
    with storage.db.session() as session:
        context = {"subject_id": "sub_1", "subject_name": "Miso"}
        mail = mails.enqueue(session, EMAIL, "training_done", context, "training_done:trn_1", account.id)
        mail.failed_at, mail.attempts, mail.last_error = now(), 10, f"MailRefused: no such user {EMAIL}"
    return mail


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["mails", *words])
    return result.exit_code, result.output


def test_found_mended_and_sent(storage: Storage, given_up: Mail) -> None:
    code, said = run("failed")
    assert (code, given_up.id in said, "no such user (address)" in said, EMAIL in said) == (0, True, True, False)
    assert mails.deliver_due(storage, Post(storage.settings)) == 0
    assert run("retry", given_up.id) == (0, "1 will be sent again\n")
    assert mails.deliver_due(storage, Post(storage.settings)) == 1
    assert given_up.id not in run("failed")[1]


def test_all_at_once_and_what_is_not_there(storage: Storage, given_up: Mail) -> None:
    assert run("retry", "mail_none")[0] == 1
    assert run("retry")[0] == run("retry", given_up.id, "--all")[0] == 1
    assert run("retry", "--all") == (0, "1 will be sent again\n")
    assert run("retry", "--all") == (0, "0 will be sent again\n")

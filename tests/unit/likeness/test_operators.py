"""The operator's commands on a real database and folder, as a person types them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from core.errors import JobFailed
from core.settings import Settings
from likeness.cli import app
from storage import jobs, totals
from storage.migrations import upgrade
from storage.tables import Account
from storage.wiring import Storage, open_storage
from tests.unit.storage.conftest import World


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("LIKENESS_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("COLUMNS", "300")
    settings = Settings()
    upgrade(settings.database)
    return settings


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return open_storage(settings)


@pytest.fixture
def world(storage: Storage) -> World:
    return World(storage)


def likeness(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(app, list(words), **options)


@pytest.fixture
def account(world: World) -> Account:
    account = world.account("ada@example.com")
    training, _ = world.training(world.subject(account))
    world.portrait(world.adapter(training))
    return account


def test_an_account_is_erased_and_nothing_is_found_of_it(settings: Settings, account: Account, tmp_path: Path) -> None:
    before = likeness("scan", "--email", "ada@example.com")
    assert before.exit_code == 1
    assert f"accounts/{account.id}" in before.output
    receipt = tmp_path / "receipt.json"
    erased = likeness("erase", "account", "--email", "Ada@Example.com", "--yes", "--receipt", str(receipt))
    assert erased.exit_code == 0, erased.output
    after = likeness("scan", "--account", account.id)
    assert (after.exit_code, after.stdout) == (0, "")
    assert likeness("verify-receipt", str(receipt)).exit_code == 0
    again = likeness("erase", "account", account.id, "--yes")
    assert json.loads(again.stdout)["id"] == json.loads(receipt.read_text())["id"], "a repeat gives the same receipt"


def test_erasing_asks_first(settings: Settings, account: Account) -> None:
    assert likeness("erase", "account", account.id, input="n\n").exit_code == 1
    assert f"accounts/{account.id}" in likeness("scan", "--account", account.id).output


@pytest.mark.parametrize("words", [["account"], ["subject", "--email", "ada@example.com"], ["account", "acc_1", "--email", "a@b.example"]])
def test_erasing_wants_to_know_what(settings: Settings, words: list[str]) -> None:
    result = likeness("erase", *words, "--yes")
    assert result.exit_code == 1
    assert "What is to be erased?" in result.output


@pytest.mark.parametrize("words", [["account", "--email", "nobody@example.com"], ["subject", "sub_nowhere"]])
def test_what_is_not_there_is_not_erased(settings: Settings, words: list[str]) -> None:
    result = likeness("erase", *words, "--yes")
    assert result.exit_code == 1
    assert "No such" in result.output


def test_a_receipt_that_was_touched_is_refused(settings: Settings, account: Account, tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    likeness("erase", "account", account.id, "--yes", "--receipt", str(path))
    own_key = likeness("keys").stdout.split()[2]
    assert likeness("verify-receipt", str(path), "--public-key", own_key).exit_code == 0
    assert likeness("verify-receipt", str(path), "--public-key", "A" * 43 + "=").exit_code == 1
    path.write_text(json.dumps(json.loads(path.read_text()) | {"objects": 0}))
    touched = likeness("verify-receipt", str(path))
    assert touched.exit_code == 1
    assert "does not fit" in touched.output


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"signature": "x"}', "not json"])
def test_what_is_no_receipt_is_said_to_be_none(settings: Settings, tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    result = likeness("verify-receipt", str(tmp_path / "file"))
    assert result.exit_code == 1
    assert "is not a receipt" in result.output


def test_what_a_restored_backup_brings_back_goes_again(settings: Settings, storage: Storage, world: World, tmp_path: Path) -> None:
    subject = world.subject(world.account("ada@example.com"))
    other = world.subject(world.account("bob@example.com"))
    world.photo(subject)
    database, backup = Path(settings.database.removeprefix("sqlite:///")), tmp_path / "backup.db"
    with closing(sqlite3.connect(database)) as live, closing(sqlite3.connect(backup)) as copy:
        live.backup(copy)
    likeness("erase", "account", subject.account_id, "--yes")
    (tmp_path / "receipts").write_text(likeness("receipts").stdout)
    with closing(sqlite3.connect(backup)) as copy, closing(sqlite3.connect(database)) as live:
        copy.backup(live)  # the restore
    assert likeness("scan", "--account", subject.account_id).exit_code == 1, "she is back"
    again = likeness("erase-again", str(tmp_path / "receipts"), "--yes")
    assert again.exit_code == 0, again.output
    assert subject.account_id in again.stdout
    assert likeness("scan", "--account", subject.account_id).exit_code == 0
    assert likeness("scan", "--account", other.account_id).exit_code == 1, "nobody else went"
    assert "0 of their targets" in likeness("erase-again", str(tmp_path / "receipts"), "--yes").output


def test_erasing_again_takes_no_forged_receipts(settings: Settings, account: Account, tmp_path: Path) -> None:
    digest = sha256(account.id.encode()).hexdigest()
    (tmp_path / "receipts").write_text(json.dumps({"scope": "account", "target_sha256": digest, "signature": "AAAA"}))
    result = likeness("erase-again", str(tmp_path / "receipts"), "--yes")
    assert (result.exit_code, "no receipt of this installation" in result.output) == (1, True)
    assert likeness("scan", "--account", account.id).exit_code == 1


def test_jobs_are_listed_tried_again_and_stopped(storage: Storage, world: World) -> None:
    training, job = world.training(world.subject(world.account("ada@example.com")))

    def work(lease: jobs.Lease) -> None:
        raise JobFailed("No cat.")

    jobs.run(storage, job.id, "train-1@gpu", work)
    table = likeness("jobs", "list", "--state", "failed")
    assert job.id in table.output and "job/failed" in table.output and "ada@" not in table.output
    assert likeness("jobs", "retry", training.id).exit_code == 0
    assert json.loads(likeness("jobs", "list", "--json").stdout)["state"] == "starting"
    assert likeness("jobs", "retry", job.id).exit_code == 1
    assert "is canceled" in likeness("jobs", "cancel", job.id).output
    assert "is canceled" in likeness("jobs", "cancel", job.id).output, "once more does no harm"
    assert likeness("jobs", "cancel", "job_nowhere").exit_code == 1


def test_the_schedulers_health_is_its_last_round(storage: Storage) -> None:
    assert likeness("healthcheck", "scheduler").exit_code == 1
    totals.note_pass(storage)
    assert likeness("healthcheck", "scheduler").exit_code == 0


def test_a_workers_health_is_that_nothing_lies(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert likeness("healthcheck", "train").exit_code == 0
    monkeypatch.setenv("LIKENESS_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    assert likeness("healthcheck", "both").exit_code == 1


def test_an_api_that_does_not_run_is_not_healthy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_PORT", "1")
    result = likeness("healthcheck", "api")
    assert (result.exit_code, "does not answer" in result.output) == (1, True)

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from core.errors import UserError
from storage import accounts
from storage.export import export
from storage.wiring import Storage
from tests.unit.storage.conftest import World


def test_everything_of_the_account_and_of_nobody_else(storage: Storage, world: World, tmp_path: Path) -> None:
    account = world.account()
    subject = world.subject(account)
    photo = world.photo(subject)
    adapter = world.adapter(world.training(subject)[0])
    portrait = world.portrait(adapter)
    world.photo(world.subject(world.account("bo@example.com"), "Rex"))
    with storage.db.session() as session:
        key_row, _ = accounts.create_api_key(session, account.id, "laptop")
    with zipfile.ZipFile(export(storage, account.id, tmp_path / "all.zip")) as archive:
        assert archive.testzip() is None
        text = archive.read("data.json").decode()
        names = set(archive.namelist())
        assert archive.read(f"portraits/{portrait.id}/000001/0.png") == b"png"
    data = json.loads(text)
    assert {f"adapters/{adapter.id}/adapter.safetensors", f"subjects/{subject.id}/photos/{photo.id}.jpg"} < names
    assert [row["name"] for row in data["subjects"]] == ["Miso"]
    assert data["accounts"][0]["email"] == "ada@example.com"
    assert data["consents"][0]["text"] == "I agree."
    assert key_row.key_hash not in text and "bo@example.com" not in text
    assert list(tmp_path.glob(".export-*")) == []


def test_no_such_account(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        export(storage, "acc_none", tmp_path / "all.zip")
    assert not (tmp_path / "all.zip").exists()

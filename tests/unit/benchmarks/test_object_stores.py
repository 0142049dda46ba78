"""Which store a benchmark asks, and that its row says so."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import object_stores
from storage.s3 import S3Store

CONTENT = bytes(range(256)) * 50_000  # 12.8 MB: more than one part of a download


def test_a_real_s3_server_through_the_products_own_store(tmp_path: Path) -> None:
    with object_stores.loopback_store(tmp_path / "objects") as (store, name):
        assert isinstance(store, S3Store)
        assert name == object_stores.S3
        store.put("adapter", CONTENT)
        store.download("adapter", tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == CONTENT
        with pytest.raises(KeyError):
            store.download("another", tmp_path / "nothing")


def test_versions_are_listed_without_their_contents(tmp_path: Path) -> None:
    with object_stores.s3_store(tmp_path) as store:
        store.client.put_bucket_versioning(Bucket=store.bucket, VersioningConfiguration={"Status": "Enabled"})
        for content in (CONTENT, CONTENT[:100], CONTENT):
            store.put("adapter", content)
        listed = store.client.list_object_versions(Bucket=store.bucket)["Versions"]
        assert [version["Size"] for version in listed] == [len(CONTENT), 100, len(CONTENT)]
        assert store.get("adapter") == CONTENT
        assert store.erase("adapter").count == 3 and "Versions" not in store.client.list_object_versions(Bucket=store.bucket)


def test_a_server_of_ranges_gives_the_products_own_store_what_lies_in_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "buckets" / object_stores.BUCKET / "an adapter"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    with object_stores.ranged_store(tmp_path / "buckets") as store:
        store.download("an adapter", tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == CONTENT
        with pytest.raises(KeyError):
            store.download("another", tmp_path / "nothing")


@pytest.mark.parametrize("missing", ["boto3", "moto"])
def test_without_its_packages_a_stand_in_that_says_so(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> Any:
        return None if name == missing else find_spec(name)

    monkeypatch.setattr(object_stores, "find_spec", found)
    (tmp_path / "adapter").write_bytes(CONTENT)
    with object_stores.loopback_store(tmp_path) as (store, name):
        assert not isinstance(store, S3Store)
        assert name == object_stores.STAND_IN
        store.download("adapter", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == CONTENT


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_stores, "_MOTO", "benchmarks.no_such_server")
    with pytest.raises(RuntimeError, match="no_such_server"):
        object_stores.S3Server(tmp_path / "log")

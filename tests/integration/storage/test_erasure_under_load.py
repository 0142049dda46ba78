"""On SQLite, with a folder and with a versioned bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from storage.wiring import Storage, open_storage
from tests.integration.storage.erasing_under_load import (
    SETTINGS,
    accounts,
    impatient,
    load,
    quiet,
    test_nothing_of_a_part_is_left_while_everything_goes_on,
    test_nothing_of_the_account_is_left_and_the_neighbour_lost_nothing,
)
from tests.unit.storage.conftest import job_settings, world
from tests.unit.storage.moto_store import s3_url

__all__ = [
    "accounts",
    "impatient",
    "load",
    "quiet",
    "s3_url",
    "test_nothing_of_a_part_is_left_while_everything_goes_on",
    "test_nothing_of_the_account_is_left_and_the_neighbour_lost_nothing",
    "world",
]


@pytest.fixture
def versioned_bucket(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client, name = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1"), f"likeness-{abs(hash(tmp_path))}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return f"s3://{name}?endpoint_url={s3_url}&region=us-east-1&addressing=path"


@pytest.fixture(params=["folder", "versioned bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    store_url = "" if request.param == "folder" else request.getfixturevalue("versioned_bucket")
    opened = open_storage(job_settings(tmp_path, **SETTINGS, store_url=store_url))
    opened.db.create_all()
    yield opened
    opened.db.close()

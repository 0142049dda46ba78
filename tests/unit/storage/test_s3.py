"""S3 with its habits: how uploads go in, what a store ignores, what breaks in the middle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest

from core.errors import ServiceDown, UserError
from storage import s3_uploads
from storage.objects import UploadForm
from storage.s3 import S3Store
from storage.s3_client import S3Options
from storage.s3_setup import allows, cors_rules, prepare
from tests.unit.storage.moto_store import bucket, s3_url
from tests.unit.storage.s3_proxy import Habits, store_with

__all__ = ["bucket", "s3_url"]


@pytest.fixture
def habits() -> Habits:
    return Habits()


@pytest.fixture
def address(habits: Habits, s3_url: str) -> Iterator[str]:
    with store_with(habits, s3_url) as url:
        yield url


def store_at(address: str, bucket: str, **options: str) -> S3Store:
    more = "".join(f"&{name}={value}" for name, value in options.items())
    return S3Store.from_url(f"s3://{bucket}?endpoint_url={address}&region=us-east-1&addressing=path{more}")


def send(form: UploadForm, data: bytes) -> httpx.Response:
    if form.method == "POST":
        return httpx.post(form.url, data=form.fields, files={"file": ("x.jpg", data)})
    return httpx.put(form.url, content=data, headers=form.headers)


def test_a_store_that_takes_posts_is_sent_posts(address: str, bucket: str) -> None:
    store = store_at(address, bucket)
    way = store.upload_way()
    assert (way.method, way.capped) == ("POST", True)
    form = store.presign_upload("acc/in", 100, "image/jpeg", 60)
    assert send(form, b"x" * 101).status_code == 400
    assert send(form, b"x" * 100).is_success
    assert store.size("acc/in") == 100


@pytest.mark.parametrize("status", [501, 405, 403])
def test_a_store_that_refuses_posts_is_sent_puts_of_a_signed_length(address: str, bucket: str, habits: Habits, status: int) -> None:
    habits.refuses_post = status
    store = store_at(address, bucket)
    way = store.upload_way()
    assert (way.method, way.capped) == ("PUT", True)
    assert str(status) in way.note
    form = store.presign_upload("acc/in", 100, "image/jpeg", 60, size=4)
    assert "content-length" in parse_qs(urlsplit(form.url).query)["X-Amz-SignedHeaders"][0].split(";")
    assert send(form, b"jpegs").status_code == 403
    assert not store.exists("acc/in")
    assert send(form, b"jpeg").is_success
    assert store.get("acc/in") == b"jpeg"


def test_a_put_needs_the_size_first(address: str, bucket: str, habits: Habits) -> None:
    habits.refuses_post = 501
    with pytest.raises(UserError) as error:
        store_at(address, bucket).presign_upload("acc/in", 100, "image/jpeg", 60)
    assert error.value.type == "uploads/size-needed"


def test_a_store_that_ignores_every_limit_is_named(s3_url: str, bucket: str) -> None:
    """moto itself: it takes any POST and any PUT."""
    way = store_at(s3_url, bucket).upload_way()
    assert (way.method, way.capped) == ("POST", False)
    assert "ignores" in way.note


def test_the_way_is_asked_once_and_nothing_stays_of_it(address: str, bucket: str, habits: Habits, s3_url: str) -> None:
    store = store_at(address, bucket)
    store.upload_way()
    asked = len(habits.seen)
    for _ in range(3):
        store.presign_upload("acc/in", 100, "image/jpeg", 60)
    assert len(habits.seen) == asked
    assert list(store_at(s3_url, bucket).versions("")) == []


def test_what_the_operator_says_is_not_tried(bucket: str) -> None:
    store = store_at("http://127.0.0.1:1", bucket, upload="put")
    assert store.presign_upload("acc/in", 100, "image/jpeg", 60, size=4).method == "PUT"


def test_a_store_that_is_down_for_a_moment_decides_nothing(
    address: str, bucket: str, habits: Habits, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(address, bucket)
    store.ping()
    habits.fails = [200, 503]  # the question whether the bucket is there, then the first form
    with pytest.raises(ServiceDown, match="503"):
        store.upload_way()
    asked = len(habits.seen)
    with pytest.raises(ServiceDown, match="503"):  # not asked again by every request
        store.upload_way()
    assert len(habits.seen) == asked
    monkeypatch.setattr(s3_uploads, "ASKED_AGAIN_AFTER_S", 0.0)
    assert store.upload_way().method == "POST"


def test_links_are_signed_for_the_address_that_browsers_know(address: str, bucket: str) -> None:
    store = store_at(address, bucket, public_url="https://photos.example.com")
    assert store.presign_get("acc/a", 60).startswith(f"https://photos.example.com/{bucket}/acc/a?")
    assert store.presign_upload("acc/in", 100, "image/jpeg", 60).url == f"https://photos.example.com/{bucket}"
    store.put("acc/a", b"x")
    assert store.get("acc/a") == b"x"


def test_encryption_is_asked_for_and_read_back(address: str, bucket: str) -> None:
    store = store_at(address, bucket, sse="AES256")
    store.put("acc/a", b"x")
    assert store.encryption_of("acc/a") == "AES256"
    form = store.presign_upload("acc/in", 100, "image/jpeg", 60)
    assert form.fields["x-amz-server-side-encryption"] == "AES256"
    put = s3_uploads.UploadForms(store.options, store.client).put("acc/in", 4, "image/jpeg", 60)
    assert send(put, b"jpeg").is_success
    assert store.encryption_of("acc/in") == "AES256"


def test_a_store_that_ignores_encryption_gets_nothing(address: str, bucket: str, habits: Habits) -> None:
    habits.ignores_encryption = True
    store = store_at(address, bucket, sse="AES256")
    for _ in range(2):
        with pytest.raises(ServiceDown, match="ignores sse=AES256"):
            store.put("acc/a", b"face")
    assert list(store.versions("acc/")) == []


def test_a_body_that_breaks_off_is_read_again(address: str, bucket: str, habits: Habits) -> None:
    store = store_at(address, bucket)
    store.put("acc/a", b"0123456789" * 1000)
    habits.breaks_off = 1
    assert store.get("acc/a") == b"0123456789" * 1000
    habits.breaks_off = 2
    with pytest.raises(ServiceDown):
        store.get("acc/a")


def test_a_moment_of_errors_is_bridged_and_a_long_one_is_named(address: str, bucket: str, habits: Habits) -> None:
    store = store_at(address, bucket)
    habits.fails = [500, 503]
    store.put("acc/a", b"x")
    assert store.get("acc/a") == b"x"
    habits.fails = [500] * 8
    with pytest.raises(ServiceDown):
        store.get("acc/a")
    assert 0 < len(habits.fails) < 8, "bounded"


def test_bulk_deletes_carry_the_checksum_that_older_stores_want(address: str, bucket: str, habits: Habits) -> None:
    habits.wants_md5 = True
    store = store_at(address, bucket)
    for n in range(3):
        store.put(f"acc/{n}", b"x")
    assert store.erase("acc/").count == 3


def test_readiness_sees_a_missing_bucket_and_does_not_wait_for_a_dead_store(address: str, bucket: str) -> None:
    store_at(address, bucket).ping()
    with pytest.raises(ServiceDown, match="likeness prepare"):
        store_at(address, "no-such-bucket").ping()
    began = time.monotonic()
    with pytest.raises(ServiceDown, match="does not answer"):
        store_at("http://127.0.0.1:1", bucket).ping()
    assert time.monotonic() - began < 10


def test_versioning_is_told(s3_url: str, bucket: str) -> None:
    store = store_at(s3_url, bucket)
    assert store.versioning() == ""
    boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1").put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    assert store.versioning() == "Enabled"


@pytest.mark.parametrize("more", ["&upload=maybe", "&sse=rot13", "&acl=public-read"])
def test_a_slip_in_the_url_is_seen_at_once(more: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket"):
        S3Options.from_url(f"s3://bucket?region=eu-1{more}")


def test_prepare_makes_what_is_missing_and_leaves_the_rest(address: str, bucket: str) -> None:
    store, site = store_at(address, f"{bucket[:50]}-new"), "https://likeness.example.com"
    assert len(prepare(store, site)) == 2
    store.ping()
    assert prepare(store, site) == []
    theirs = {"AllowedOrigins": ["https://else.example.com"], "AllowedMethods": ["GET"]}
    store.client.put_bucket_cors(Bucket=store.bucket, CORSConfiguration={"CORSRules": [theirs]})
    assert len(prepare(store, site)) == 1
    rules = cors_rules(store)
    assert len(rules) == 2, "the operator's own rule stands"
    assert allows(rules, site)
    assert not allows(rules, "https://else.example.com")


def test_prepare_in_a_region_of_its_own(address: str, bucket: str) -> None:
    store = S3Store.from_url(f"s3://{bucket[:50]}-eu?endpoint_url={address}&region=eu-central-1&addressing=path")
    prepare(store, "https://likeness.example.com")
    store.ping()

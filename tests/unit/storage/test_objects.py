"""What every object store promises, on a folder and on an S3 server (with and without versions)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import boto3
import httpx
import pytest

from core.errors import ServiceDown, UserError
from storage.folder import FolderStore
from storage.objects import ObjectStore, key_digest
from storage.s3 import S3Store
from tests.unit.storage.moto_store import bucket, s3_url

__all__ = ["bucket", "s3_url"]


@pytest.fixture
def s3(s3_url: str, bucket: str) -> S3Store:
    return S3Store.from_url(f"s3://{bucket}?endpoint_url={s3_url}&region=us-east-1&addressing=path")


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects", b"k" * 32, "http://localhost:8000")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return request.getfixturevalue(request.param)


def test_what_is_put_is_got(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a/b/one.bin", b"first")
    store.put("a/b/one.bin", b"second")
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    store.put("a/b/two.bin", source, "image/png")
    store.download("a/b/two.bin", tmp_path / "new" / "copy")
    assert store.get("a/b/one.bin") == b"second"
    assert (tmp_path / "new" / "copy").read_bytes() == b"from a file"
    assert store.size("a/b/two.bin") == 11
    assert store.exists("a/b/two.bin")


def test_a_missing_key_is_a_key_error(store: ObjectStore, tmp_path: Path) -> None:
    for ask in (store.get, store.size, lambda key: store.download(key, tmp_path / "copy")):
        with pytest.raises(KeyError):
            ask("no/such")
    assert not store.exists("no/such")
    assert not (tmp_path / "copy").exists()


def test_list_is_by_prefix(store: ObjectStore) -> None:
    for key in ("acc/1/a", "acc/1/b/c", "acc/10/a", "other"):
        store.put(key, b"x")
    assert list(store.list("acc/1/")) == ["acc/1/a", "acc/1/b/c"]
    assert list(store.list("acc/1")) == ["acc/1/a", "acc/1/b/c", "acc/10/a"]
    assert list(store.list("nothing/")) == []


def test_erase_takes_the_prefix_and_nothing_beside_it(store: ObjectStore) -> None:
    for key in ("acc/1/a", "acc/1/b/c", "acc/10/a"):
        store.put(key, b"x")
    erased = store.erase("acc/1/")
    assert erased.count == 2
    assert erased.digests == tuple(sorted([key_digest("acc/1/a"), key_digest("acc/1/b/c")]))
    assert list(store.list("acc/")) == ["acc/10/a"]
    assert store.erase("acc/1/").count == 0


def test_erase_keys(store: ObjectStore) -> None:
    for key in ("acc/a", "acc/ab"):
        store.put(key, b"x")
    assert store.erase(["acc/a", "acc/missing"]).count == 1
    assert list(store.list("acc/")) == ["acc/ab"]


def test_every_version_is_erased(s3: S3Store, s3_url: str, bucket: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put("acc/1/a", b"one")
    s3.put("acc/1/a", b"two")
    client.delete_object(Bucket=bucket, Key="acc/1/a")  # only a marker
    assert list(s3.versions("acc/1/")) == ["acc/1/a"] * 3
    assert s3.erase("acc/1/").count == 3
    assert list(s3.versions("acc/")) == []
    left = client.list_object_versions(Bucket=bucket)
    assert "Versions" not in left
    assert "DeleteMarkers" not in left


def test_an_unfinished_upload_is_erased(s3: S3Store, s3_url: str, bucket: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    for key in ("acc/1/a", "acc/2/b"):
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * 100)
    assert (list(s3.list("acc/")), list(s3.versions("acc/1/"))) == ([], ["acc/1/a"])
    assert s3.erase("acc/1/").count == 1
    assert list(s3.versions("acc/")) == ["acc/2/b"]


@pytest.fixture
def plain_s3_url(s3_url: str) -> Iterator[str]:
    """The same server behind a gate that knows neither versions nor unfinished uploads, as some S3-compatible stores do."""
    gate = ThreadingHTTPServer(("127.0.0.1", 0), type("PlainGate", (Gate,), {"behind": s3_url}))
    Thread(target=gate.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{gate.server_port}"
    gate.shutdown()
    gate.server_close()


class Gate(BaseHTTPRequestHandler):
    behind: str

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "GET" and urlsplit(self.path).query.startswith(("versions", "uploads")):
            return self.answer(501, b"<Error><Code>NotImplemented</Code><Message>no versions here</Message></Error>")
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        answer = httpx.request(self.command, self.behind + self.path, content=body, headers=headers)
        return self.answer(answer.status_code, answer.content)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

    def log_message(self, *_: object) -> None: ...


def test_a_store_that_knows_no_versions_is_erased_all_the_same(plain_s3_url: str, bucket: str) -> None:
    plain = S3Store.from_url(f"s3://{bucket}?endpoint_url={plain_s3_url}&region=us-east-1&addressing=path")
    for key in ("acc/1/a", "acc/1/b/c", "acc/10/a"):
        plain.put(key, b"x")
    assert list(plain.versions("acc/1/")) == ["acc/1/a", "acc/1/b/c"]
    erased = plain.erase("acc/1/")
    assert (erased.count, len(erased.digests)) == (2, 2)
    assert plain.erase(["acc/10/a", "acc/missing"]).count == 1
    assert list(plain.versions("acc/")) == []


def test_a_presigned_form_uploads_and_a_link_serves(s3: S3Store) -> None:
    form = s3.presign_upload("acc/in", 100, "image/jpeg", 60)
    answer = httpx.post(form.url, data=form.fields, files={"file": ("x.jpg", b"jpeg")})
    assert answer.status_code in (200, 204)
    assert httpx.get(s3.presign_get("acc/in", 60)).content == b"jpeg"
    assert "content-length-range" in _policy(form.fields["policy"])


def test_a_store_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with pytest.raises(ServiceDown, match="store"):
        S3Store.from_url("s3://bucket?endpoint_url=http://127.0.0.1:1&region=us-east-1").get("key")


def test_a_bucket_that_does_not_exist_is_not_a_missing_key(s3_url: str, s3: S3Store) -> None:
    elsewhere = S3Store.from_url(f"s3://no-such-bucket?endpoint_url={s3_url}&region=us-east-1&addressing=path")
    with pytest.raises(ServiceDown, match="NoSuchBucket"):
        elsewhere.get("key")


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a/.hidden", "a\\b", "a/\n"])
def test_no_key_leaves_the_folder(folder: FolderStore, key: str) -> None:
    with pytest.raises(ValueError, match="unsafe"):
        folder.put(key, b"x")
    with pytest.raises(ValueError, match="unsafe"):
        folder.erase(key + "/")


def test_erasing_leaves_no_empty_folders_and_no_half_files(folder: FolderStore) -> None:
    folder.put("acc/1/a/b", b"x")
    (folder.root / "acc/1/.part-abc").write_bytes(b"half")
    assert list(folder.list("acc/")) == ["acc/1/a/b"]
    assert sorted(folder.versions("acc/")) == ["acc/1/.part-abc", "acc/1/a/b"]
    folder.erase("acc/1/")
    assert not (folder.root / "acc/1").exists()


def test_what_is_put_while_its_folder_is_erased_empty_is_there(folder: FolderStore) -> None:
    """Each photo's upload is erased once it is judged, and takes the empty folder with it, under the next one's feet."""

    def bring(customer: int) -> int:
        keys = [f"accounts/a/incoming/{customer}-{n}" for n in range(150)]
        for key in keys:
            folder.put(key, b"photo")
            assert folder.erase([key]).count == 1
        return len(keys)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(bring, range(4))) == 600
    assert not list(folder.root.iterdir())


def test_a_file_in_a_folders_place_is_told(folder: FolderStore) -> None:
    folder.put("accounts", b"a file")
    with pytest.raises(ServiceDown, match="cannot be used"):
        folder.put("accounts/a", b"x")


def test_links_are_signed_and_expire(folder: FolderStore) -> None:
    token = folder.presign_get("acc/a", 60, "portrait.png").rpartition("/")[2]
    assert folder.verify(token, "get").key == "acc/a"
    assert folder.verify(token, "get").filename == "portrait.png"
    expired = folder.presign_get("acc/a", -1).rpartition("/")[2]
    other_key = FolderStore(folder.root, b"x" * 32, "").presign_get("acc/a", 60).rpartition("/")[2]
    body, _, signature = token.partition(".")
    altered = f"{body}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    for bad, op in ((token, "put"), (altered, "get"), (expired, "get"), (other_key, "get"), ("", "get"), ("é.é", "get")):
        with pytest.raises(UserError) as refusal:
            folder.verify(bad, op)
        assert refusal.value.status == 403


def test_an_upload_form_carries_its_limits(folder: FolderStore) -> None:
    form = folder.presign_upload("acc/in", 100, "image/jpeg", 60)
    grant = folder.verify(form.url.rpartition("/")[2], "put")
    assert (grant.key, grant.max_bytes, grant.content_type) == ("acc/in", 100, "image/jpeg")
    assert form.url.startswith("http://localhost:8000/v1/uploads/")


@pytest.mark.parametrize("url", ["s3://", "s3://bucket/folder", "s3://bucket?endpoint=x"])
def test_a_wrong_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket"):
        S3Store.from_url(url)


def _policy(field: str) -> str:
    import base64

    return base64.b64decode(field).decode()

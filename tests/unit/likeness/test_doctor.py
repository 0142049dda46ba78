"""What the doctor finds, on real stores, folders and mail servers; nothing of it is pretended."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from typer.testing import CliRunner

from core.settings import Settings
from likeness.checks import Finding, post, servers, store, weights
from likeness.cli import app
from likeness.doctor import examine
from likeness.prepare import run_prepare
from storage.migrations import upgrade
from tests.unit.storage.moto_store import bucket, s3_url
from tests.unit.storage.s3_proxy import Habits, store_with

__all__ = ["bucket", "s3_url"]

SITE = "https://likeness.example.com"


def found(check: Any, settings: Settings, name: str = "x", **more: Any) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(name, lambda one: check(one, **more), settings)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, var_dir=tmp_path / "var", public_url=SITE)  # type: ignore[call-arg]


@pytest.fixture
def habits() -> Habits:
    return Habits()


@pytest.fixture
def on_s3(settings: Settings, habits: Habits, s3_url: str, bucket: str) -> Iterator[Settings]:
    with store_with(habits, s3_url) as address:
        yield settings.model_copy(update={"store_url": f"s3://{bucket}?endpoint_url={address}&region=us-east-1&addressing=path"})


def test_a_store_in_order(on_s3: Settings) -> None:
    list(run_prepare(on_s3))
    findings = found(store.object_store, on_s3)
    assert {name: finding.level for name, finding in findings.items()} == dict.fromkeys(
        ("store", "links", "uploads", "browsers", "versions", "encryption", "erasing"), "ok"
    )
    assert "POST" in findings["uploads"].said


def test_a_store_that_takes_no_posts_is_in_order_too(on_s3: Settings, habits: Habits) -> None:
    habits.refuses_post = 501
    uploads = found(store.object_store, on_s3)["uploads"]
    assert (uploads.level, "presigned PUT" in uploads.said, "refuses POST (501)" in uploads.said) == ("ok", True, True)


def test_what_a_store_does_not_hold_is_a_warning_with_advice(on_s3: Settings, habits: Habits) -> None:
    habits.checks = False
    findings = found(store.object_store, on_s3)
    assert findings["uploads"].level == "warn" and "proxy" in findings["uploads"].fix
    assert findings["browsers"].level == "warn" and findings["browsers"].fix == "Run: likeness prepare"


def test_a_missing_bucket_is_a_failure_and_prepare_mends_it(on_s3: Settings) -> None:
    elsewhere = on_s3.model_copy(update={"store_url": on_s3.store_url.replace("?", "-x?", 1)})
    failed = found(store.object_store, elsewhere, "store")["store"]
    assert failed.level == "fail" and "likeness prepare" in failed.said + failed.fix
    list(run_prepare(elsewhere))
    assert found(store.object_store, elsewhere)["store"].level == "ok"


def test_a_public_address_that_cannot_be_reached_is_only_a_warning(on_s3: Settings) -> None:
    outside = on_s3.model_copy(update={"store_url": on_s3.store_url + "&public_url=http://127.0.0.1:1"})
    links = found(store.object_store, outside)["links"]
    assert links.level == "warn" and "Host" in links.fix


def test_encryption_that_is_ignored_is_a_failure(on_s3: Settings, habits: Habits) -> None:
    asked = on_s3.model_copy(update={"store_url": on_s3.store_url + "&sse=AES256"})
    assert "read back" in found(store.object_store, asked)["encryption"].said
    habits.ignores_encryption = True
    assert "ignores sse=AES256" in found(store.object_store, asked, "store")["store"].said


def test_versions_that_stay_are_a_failure(on_s3: Settings, s3_url: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("s3", endpoint_url=s3_url, region_name="us-east-1")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    kept = found(store.object_store, on_s3)
    assert "every one" in kept["versions"].said
    assert (kept["erasing"].level, "2 stored versions" in kept["erasing"].said) == ("ok", True)
    monkeypatch.setattr("storage.s3_versions.Versions.under", lambda *_: iter(()))  # as a store that hides its versions
    monkeypatch.setattr("storage.s3.S3Store.versions", lambda self, prefix: iter([prefix]))
    assert found(store.object_store, on_s3)["erasing"].level == "fail"


def test_a_folder_is_a_store(settings: Settings) -> None:
    assert {finding.level for finding in found(store.object_store, settings).values()} == {"ok"}
    assert not list((settings.var_dir / "objects").rglob("*doctor*"))


class Inbox(Message):
    def __init__(self) -> None:
        super().__init__()
        self.subjects: list[str] = []

    def handle_message(self, message: Any) -> None:
        self.subjects.append(str(message["Subject"]))


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def smtp(inbox: Inbox) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Controller(inbox, hostname="127.0.0.1", port=port)
    server.start()
    yield f"smtp://127.0.0.1:{port}?tls=none"
    server.stop()


def test_mail_is_tried_short_of_sending_and_sent_if_asked(settings: Settings, smtp: str, inbox: Inbox) -> None:
    settings = settings.model_copy(update={"mail_url": smtp})
    assert found(post.mail, settings)["mail"].level == "ok"
    assert inbox.subjects == []
    assert found(post.test_message, settings, to="ada@example.com")["test message"].level == "ok"
    assert inbox.subjects == ["Likeness can send mail"]


def test_a_mail_server_that_is_down_is_a_failure_with_advice(settings: Settings) -> None:
    failed = found(post.mail, settings.model_copy(update={"mail_url": "smtp://127.0.0.1:1?tls=none"}), "mail")["mail"]
    assert failed.level == "fail"
    assert found(post.mail, settings.model_copy(update={"mail_url": "smtp://h?tls=maybe"}), "mail")["mail"].level == "fail"


def test_a_folder_outbox_in_production_reaches_nobody(settings: Settings) -> None:
    production = settings.model_copy(update={"database_url": "postgresql+psycopg://db/x"})
    assert found(post.mail, settings)["mail"].level == "ok"
    assert found(post.mail, production)["mail"].level == "warn"


def test_processes_on_several_machines_need_one_key_and_an_https_address(settings: Settings) -> None:
    production = settings.model_copy(update={"database_url": "postgresql+psycopg://db/x"})
    assert found(servers.shared, settings)["secret key"].level == "ok"
    failed = found(servers.shared, production)
    assert (failed["secret key"].level, failed["site"].level) == ("fail", "ok")
    plain = {"secret_key": "k", "public_url": "http://likeness.example.com", "database_url": production.database_url}
    keyed = Settings(_env_file=None, var_dir=settings.var_dir, **plain)
    assert {name: one.level for name, one in found(servers.shared, keyed).items()} == {"secret key": "ok", "site": "warn"}


def base(folder: Path, **parts: bytes) -> Path:
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"], "image_encoder": [None, None]}
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, data in parts.items():
        (folder / "transformer" / name.replace("__", ".")).write_bytes(data)
    return folder


def of_base(settings: Settings, path: str) -> dict[str, Finding]:
    return found(weights.base_model, settings.model_copy(update={"base_model": path}))


def test_a_base_model_is_whole_readable_and_not_pickled(settings: Settings, tmp_path: Path) -> None:
    assert of_base(settings, str(base(tmp_path / "good", model__safetensors=b"x")))["base model"].level == "ok"
    for folder in (tmp_path / "nowhere", base(tmp_path / "empty"), base(tmp_path / "pickled", model__bin=b"x")):
        assert of_base(settings, str(folder))["base model"].level == "fail", folder
    pickled = of_base(settings, str(tmp_path / "pickled"))["base model"]
    assert "model.bin" in pickled.said and "never loaded" in pickled.fix


@pytest.mark.parametrize(
    ("model", "level"), [("miniature", "ok"), ("black-forest-labs/FLUX.1-dev", "warn"), ("black-forest-labs/FLUX.2-klein-base-4B", "ok")]
)
def test_the_licence_is_said_and_what_it_forbids(settings: Settings, model: str, level: str) -> None:
    assert of_base(settings, model)["licence"].level == level


def test_a_hub_id_that_is_not_here_yet_is_a_warning_and_none_at_all_a_failure(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert of_base(settings, "black-forest-labs/FLUX.1-dev")["base model"].level == "warn"
    assert of_base(settings, "black forest labs")["base model"].level == "fail"


def test_a_worker_without_its_gpu_is_a_failure(settings: Settings) -> None:
    assert found(weights.device, settings)["device"].level == "ok"
    large = settings.model_copy(update={"base_model": "black-forest-labs/FLUX.1-dev", "device": "cpu"})
    assert found(weights.device, large)["device"].level == "warn"
    assert found(weights.device, settings.model_copy(update={"device": "teapot"}))["x"].level == "fail"


def test_the_whole_of_it_has_a_line_each_and_an_exit_code(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("LIKENESS_DATABASE_URL", "postgresql+psycopg://likeness:hunter2@127.0.0.1:1/x")
    result = CliRunner().invoke(app, ["doctor"])
    lines = result.output.splitlines()
    assert result.exit_code == 1
    assert any(line.startswith("FAIL database") and "LIKENESS_DATABASE_URL" in line for line in lines)
    assert any(line.startswith("ok   store") for line in lines), "one illness does not hide the rest"
    assert "hunter2" not in result.output


def test_warnings_fail_only_if_asked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likeness.doctor.servers.broker", lambda _: iter(()))
    monkeypatch.setenv("LIKENESS_VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("LIKENESS_BASE_MODEL", "black-forest-labs/FLUX.1-dev")
    upgrade(Settings().database)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
    assert CliRunner().invoke(app, ["doctor", "--strict"]).exit_code == 1

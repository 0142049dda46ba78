"""Against a stand-in that speaks the hub's HTTP on a loopback port; the client is the real huggingface_hub."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from core.errors import UserError
from diffusion import pulling
from tests.hub_server import COMMIT, FakeHub, serving

REPOSITORY = "maker/flux"
FILES = {
    "model_index.json": b'{"_class_name": "FluxPipeline"}',
    "README.md": b"---\n---\n",
    "LICENSE.md": b"terms",
    "flux-single-file.safetensors": b"x" * 5000,
    "transformer/config.json": b"{}",
    "transformer/weights.safetensors": bytes(range(256)) * 400,
    "transformer/weights.fp16.safetensors": b"y" * 5000,
    "vae/weights.bin": b"pickle",
}
CARD = {"license": "other", "license_name": "flux-terms", "license_link": "LICENSE.md"}
WEIGHTS = "transformer/weights.safetensors"
WANTED = {"model_index.json", "README.md", "LICENSE.md", "transformer/config.json", "transformer/weights.safetensors"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub(REPOSITORY, dict(FILES), dict(CARD))) as running:
        yield running


@pytest.fixture
def at(hub: FakeHub, tmp_path: Path) -> dict[str, Any]:
    return {"endpoint": hub.endpoint, "cache": tmp_path / "cache"}


def test_an_offer_names_commit_licence_and_size(at: dict[str, Any]) -> None:
    offer = pulling.look_up(REPOSITORY, **at)
    assert (offer.revision, offer.licence) == (COMMIT, "flux-terms")
    assert offer.licence_url == f"https://huggingface.co/{REPOSITORY}/blob/{COMMIT}/LICENSE.md"
    assert offer.size == offer.missing_bytes == sum(len(FILES[name]) for name in WANTED)


def test_a_pull_takes_the_pipeline_and_nothing_else(hub: FakeHub, at: dict[str, Any]) -> None:
    folder = pulling.pull(pulling.look_up(REPOSITORY, **at), **at)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == WANTED
    assert (folder / "transformer/weights.safetensors").read_bytes() == FILES["transformer/weights.safetensors"]
    (one,) = pulling.held(at["cache"])
    assert (one.repository, one.revision, one.is_pipeline) == (REPOSITORY, COMMIT, True)
    asked = Counter(name for name, _ in hub.sent)
    again = pulling.look_up(REPOSITORY, COMMIT, **at)
    assert again.missing_bytes == 0 and pulling.pull(again, **at) == folder
    assert Counter(name for name, _ in hub.sent) == asked


def test_an_encoder_has_its_weights_beside_its_config(hub: FakeHub, at: dict[str, Any]) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"w" * 100, "pytorch_model.bin": b"pickle", "onnx/model.safetensors": b"o"}
    folder = pulling.pull(pulling.look_up(REPOSITORY, **at), **at)
    assert {path.name for path in folder.iterdir() if path.is_file()} == {"config.json", "model.safetensors"}
    assert not pulling.held(at["cache"])[0].is_pipeline


def test_a_broken_connection_goes_on_at_the_byte(hub: FakeHub, at: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what it writes at once: ten megabytes otherwise
    hub.piece = 35_000
    folder = pulling.pull(pulling.look_up(REPOSITORY, **at), **at)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert [wanted for name, wanted in hub.sent if name == WEIGHTS] == ["", "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_a_pull_that_was_given_up_keeps_its_whole_files(hub: FakeHub, at: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    offer = pulling.look_up(REPOSITORY, **at)
    hub.piece = 0
    with pytest.raises(UserError) as broken:
        pulling.pull(offer, **at)
    assert broken.value.type == "base-model/unreachable"
    before = {name for name, _ in hub.sent} - {WEIGHTS}
    hub.piece = None
    hub.sent.clear()
    folder = pulling.pull(offer, **at)
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert before and not before & {name for name, _ in hub.sent}


@pytest.mark.parametrize(("repository", "revision", "type_"), [("maker/none", None, "not-found"), (REPOSITORY, "no-such", "not-found")])
def test_what_does_not_exist_is_said(at: dict[str, Any], repository: str, revision: str | None, type_: str) -> None:
    with pytest.raises(UserError) as refused:
        pulling.look_up(repository, revision, **at)
    assert refused.value.type == f"base-model/{type_}"


def test_a_gated_model_says_where_to_accept(hub: FakeHub, at: dict[str, Any]) -> None:
    offer = pulling.look_up(REPOSITORY, **at)
    hub.gated = True
    with pytest.raises(UserError) as refused:
        pulling.pull(offer, **at)
    assert refused.value.type == "base-model/gated" and "HF_TOKEN" in refused.value.detail


def test_without_a_network_the_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        pulling.look_up(REPOSITORY, endpoint="http://127.0.0.1:9", cache=tmp_path)
    assert refused.value.type == "base-model/unreachable" and "network" in refused.value.detail


def test_a_full_disk_is_seen_before_the_download(hub: FakeHub, at: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    offer = pulling.look_up(REPOSITORY, **at)
    monkeypatch.setattr(pulling, "SPARE_BYTES", 10**18)
    with pytest.raises(UserError, match="space"):
        pulling.pull(offer, **at)
    assert not hub.sent

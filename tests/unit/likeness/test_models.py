import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from diffusion import pulling
from likeness.cli import app
from tests.hub_server import COMMIT, FakeHub, serving

REPOSITORY = "maker/flux"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The command line as it is, with the hub's address and cache turned to a loopback server and an empty folder."""
    files = {"model_index.json": b"{}", "transformer/config.json": b"{}", "transformer/weights.safetensors": b"w" * 2000}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIKENESS_VAR_DIR", str(tmp_path / "var"))
    with serving(FakeHub(REPOSITORY, files, {"license": "apache-2.0"})) as running:
        aim(monkeypatch, running.endpoint, tmp_path / "cache")
        yield running


LOOK_UP, PULL, HELD = pulling.look_up, pulling.pull, pulling.held


def aim(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    monkeypatch.setattr(pulling, "look_up", partial(LOOK_UP, endpoint=endpoint, cache=cache))
    monkeypatch.setattr(pulling, "pull", partial(PULL, endpoint=endpoint, cache=cache))
    monkeypatch.setattr(pulling, "held", partial(HELD, cache=cache))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def rows() -> dict[str, dict]:
    return {row["model"]: row for row in map(json.loads, run("list", "--json").output.splitlines())}


def test_nothing_is_downloaded_before_the_licence_is_accepted(hub: FakeHub) -> None:
    refused = run("pull", REPOSITORY)
    assert refused.exit_code == 1 and "apache-2.0" in refused.output and "--accept-licence" in refused.output
    assert not hub.sent and REPOSITORY not in rows()


def test_a_pull_is_pinned_recorded_and_listed(hub: FakeHub, tmp_path: Path) -> None:
    done = run("pull", REPOSITORY, "--accept-licence")
    assert done.exit_code == 0 and f"LIKENESS_BASE_REVISION={COMMIT}" in done.output.replace("\n", " ")
    (entry,) = json.loads((tmp_path / "var" / "licences.json").read_text())
    assert (entry["model"], entry["revision"], entry["licence"]) == (REPOSITORY, COMMIT, "apache-2.0")
    listed = rows()[REPOSITORY]
    assert (listed["revision"], listed["licence"], listed["state"]) == (COMMIT, "apache-2.0", "here") and listed["bytes"] > 2000
    assert run("pull", REPOSITORY).exit_code == 0  # accepted once
    hub.card = {"license": "other", "license_name": "new-terms"}
    assert run("pull", REPOSITORY).exit_code == 1


def test_the_list_names_what_is_known_and_not_here(hub: FakeHub) -> None:
    known = rows()
    assert known["miniature"]["licence"] == "Apache-2.0"
    assert known["black-forest-labs/FLUX.1-dev"]["state"] == "not here"
    assert "Non-Commercial" in known["black-forest-labs/FLUX.1-dev"]["licence"]
    assert "FLUX.2-klein" in run("list").output


@pytest.mark.parametrize("model", ["miniature", "/tmp"])
def test_what_is_no_hub_id_is_said(hub: FakeHub, model: str) -> None:
    refused = run("pull", model)
    assert refused.exit_code == 1 and not hub.sent and "Traceback" not in refused.output


def test_without_a_network_one_line_says_so(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aim(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    refused = run("pull", REPOSITORY)
    assert refused.exit_code == 1 and "cannot be reached" in refused.output

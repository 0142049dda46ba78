"""docker-compose.yml, .env.example and the Dockerfile fit one another and the code. No engine runs here: structure is what is tested."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command

from core.settings import Settings
from likeness.cli import app
from storage.s3_client import S3Options
from tests.unit.deploy.files import COMPOSE, DOCKERFILE, ENV_EXAMPLE, OPERATIONS, ROOT, compose, env_names, env_values

OURS = re.compile(r"^likeness:(cpu|cuda)$")
SET_BY_IMAGE = {"LIKENESS_VAR_DIR", "LIKENESS_CACHE_DIR", "LIKENESS_HOST"}
# Ports and switches whose defaults do; the handbook names them.
DEFAULTS_DO = {"SITE_BIND", "SITE_PORT", "STORE_BIND", "STORE_PORT", "LIKENESS_LOG_JSON", "LIKENESS_METRICS_PORT", "LIKENESS_DEVICE"}
FILLED = {"LIKENESS_SECRET_KEY": "00ff", "POSTGRES_PASSWORD": "abc", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
PROFILES = {"gpus", "gpu", "cpu", "tls", "try"}


def services() -> dict[str, dict[str, Any]]:
    return dict(compose()["services"])


def ours() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services().items() if OURS.match(service["image"])}


def filled_in(text: str, values: dict[str, str]) -> str:
    """Compose's ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``, innermost first."""
    pattern = re.compile(r"\$\{([A-Z_0-9]+)(?::([-?])([^${}]*))?\}")
    while found := pattern.search(text):
        name, sign, other = found.groups()
        value = values.get(name) or (other if sign == "-" else "")
        assert value or sign != "?", f"{name} must be set"
        text = text[: found.start()] + value + text[found.end() :]
    return text


def environment(service: dict[str, Any], **changes: str) -> dict[str, str]:
    values = {**env_values(), **FILLED, **changes}
    return {name: filled_in(str(value), values) for name, value in service.get("environment", {}).items()}


def test_the_schema_of_compose_holds() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_setting_is_one_of_ours() -> None:
    known = {f"LIKENESS_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"LIKENESS_[A-Z0-9_]+", COMPOSE.read_text() + ENV_EXAMPLE.read_text() + DOCKERFILE.read_text()))
    assert named <= known, named - known
    assert known >= SET_BY_IMAGE


def test_every_variable_of_compose_is_explained_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", COMPOSE.read_text()))
    explained = env_names() | DEFAULTS_DO
    assert used <= explained, used - explained
    handbook = OPERATIONS.read_text(encoding="utf-8")
    assert not {name for name in DEFAULTS_DO if f"`{name}" not in handbook}


def test_nothing_secret_has_a_default() -> None:
    values = env_values()
    assert [values[name] for name in FILLED] == [""] * len(FILLED)
    for name in FILLED:
        assert re.search(rf"\$\{{{name}:\?", COMPOSE.read_text()), f"{name} must be asked for"


@pytest.mark.parametrize("name", sorted(ours()))
def test_our_services_run_commands_that_exist(name: str) -> None:
    service = ours()[name]
    for words in (service["command"], service.get("healthcheck", {}).get("test", ["CMD", "likeness", "doctor"])[2:]):
        command = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
        command.make_context(words[0], [str(word) for word in words[1:]])  # refuses a role or option that is none


@pytest.mark.parametrize("name", sorted(ours()))
def test_our_services_may_do_little(name: str) -> None:
    service = ours()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["build"]["target"] == service["image"].partition(":")[2]
    assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", DOCKERFILE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(ours()))
def test_our_services_get_settings_that_open(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {**env_values(), **FILLED, **environment(ours()[name])}.items():
        monkeypatch.setenv(variable, value)
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert settings.database == "postgresql+psycopg://likeness:abc@postgres:5432/likeness"
    assert settings.broker_url == "redis://redis:6379/0"
    store = S3Options.from_url(settings.store)
    assert (store.bucket, store.endpoint_url, store.public_url) == ("likeness", "http://store:8333", "http://localhost:8333")
    assert settings.mail.startswith("smtp://mailpit:1025")
    assert settings.secret_key.get_secret_value() == "00ff"


def test_an_operators_own_servers_replace_ours() -> None:
    own = {
        "LIKENESS_DATABASE_URL": "postgresql+psycopg://db/x",
        "LIKENESS_STORE_URL": "s3://b?region=eu-1",
        "LIKENESS_BROKER_URL": "amqp://q",
    }
    assert environment(services()["api"], **own).items() >= own.items()


def test_what_is_named_exists() -> None:
    whole = compose()
    for name, service in services().items():
        assert set(service.get("depends_on", {})) <= set(services()), name
        assert set(service.get("profiles", [])) <= PROFILES, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in whole["volumes"], (name, volume)
    mounted = {volume.split(":")[0] for service in services().values() for volume in service.get("volumes", [])}
    assert set(whole["volumes"]) <= mounted


def test_every_profile_that_the_example_names_has_workers() -> None:
    served = {profile: set() for profile in PROFILES}
    for service in ours().values():
        if service["command"][0] == "worker":
            for profile in service["profiles"]:
                served[profile] |= {"train", "render"} if service["command"][1] == "both" else {service["command"][1]}
    assert all(served[profile] == {"train", "render"} for profile in ("gpus", "gpu", "cpu"))
    assert set(env_values()["COMPOSE_PROFILES"].split(",")) <= PROFILES


def test_what_lasts_is_watched_and_comes_back() -> None:
    for name, service in services().items():
        if name == "prepare":
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert service["logging"]["options"]["max-size"], name


def test_images_are_pinned_and_none_is_minio() -> None:
    for name, service in services().items():
        if not OURS.match(service["image"]):
            assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?$", service["image"]), name
            assert "minio" not in service["image"]


def test_the_broker_keeps_what_it_holds() -> None:
    command = [str(word) for word in services()["redis"]["command"]]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert (options["--maxmemory-policy"], options["--appendonly"]) == ("noeviction", "yes")
    assert any(volume.endswith(":/data") for volume in services()["redis"]["volumes"])


def test_gpus_are_reserved_where_cuda_runs_and_only_there() -> None:
    for name, service in ours().items():
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert bool(devices) == service["image"].endswith("cuda"), name
        assert all(device["driver"] == "nvidia" and device["capabilities"] == ["gpu"] for device in devices)
    trains, renders = (services()[f"{role}-worker"]["deploy"] for role in ("train", "render"))
    assert trains != renders, "two workers, two GPUs"


def test_servers_behind_are_not_published() -> None:
    published = {name for name, service in services().items() if service.get("ports")}
    assert published == {"api", "store", "proxy", "mailpit"}
    for name in published - {"proxy"}:
        assert all(filled_in(port, {}).startswith("127.0.0.1:") for port in services()[name]["ports"]), name


def test_images_run_as_nobody_special() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    final = {re.match(r"\S+ AS (\S+)", stage).group(1): stage for stage in stages}  # type: ignore[union-attr]
    for target in ("cpu", "cuda"):
        users = re.findall(r"^USER (.+)$", final[target], re.MULTILINE)
        assert users[-1:] == ["10001:10001"], target
        assert final[target].rstrip().endswith("USER 10001:10001"), "nothing runs as root after it"


def test_everything_that_the_rooms_need_gets_into_the_wheel() -> None:
    """Data files travel by pattern: a new kind of file must be added to the patterns."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = [pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    patterns = {pattern.lstrip("*") for pattern in project["tool"]["setuptools"]["package-data"]["*"]}
    tracked = subprocess.run(["git", "ls-files", *rooms], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    missing = {path for path in tracked if (ROOT / path).suffix not in patterns | {".py", ".md"}}
    assert not missing
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{room}" for room in rooms} <= set(ignored), "every room reaches the builder"

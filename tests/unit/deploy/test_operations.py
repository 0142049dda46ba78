"""docs/operations.md names what there is."""

from __future__ import annotations

import re

from typer.main import get_command

from core.settings import Settings
from likeness.cli import app
from likeness.doctor import FIXES
from tests.unit.deploy.files import OPERATIONS, ROOT, compose
from tests.unit.deploy.settings_table import table, written


def text() -> str:
    return OPERATIONS.read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_codes() -> None:
    assert written() == table(), "run: python -m tests.unit.deploy.settings_table"


def test_no_setting_is_made_up() -> None:
    known = {f"LIKENESS_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"LIKENESS_[A-Z0-9_]*[A-Z0-9]", text()))
    assert named <= known, named - known


def test_every_command_that_it_gives_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    given = set(re.findall(r"(?:^|`|exec (?:-T )?\S+ )likeness ([a-z-]+)", text(), re.MULTILINE))
    assert given <= set(commands), given - set(commands)
    assert {"doctor", "prepare", "scan", "erase", "verify-receipt", "jobs", "keys", "healthcheck"} <= given


def test_every_service_of_compose_that_it_names_exists() -> None:
    named = set(re.findall(r"docker compose (?:exec|restart|logs|stop|start)(?: -[A-Za-z]+)* ([a-z][a-z-]+)", text()))
    assert named <= set(compose()["services"]), named


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text()):
        assert (OPERATIONS.parent / target).exists(), target


def test_what_the_doctor_checks_is_explained() -> None:
    assert not {name for name in FIXES if name not in text()}
    assert (ROOT / ".env.example").exists()

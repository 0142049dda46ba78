"""The table of settings in docs/operations.md, made from the code: ``python -m tests.unit.deploy.settings_table`` writes it anew."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from core.settings import Settings
from tests.unit.deploy.files import OPERATIONS

BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def table() -> str:
    rows = [f"| `LIKENESS_{name.upper()}` | {shown(field.default)} | {said(field)} |" for name, field in Settings.model_fields.items()]
    return "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def shown(default: Any) -> str:
    plain = default.get_secret_value() if isinstance(default, SecretStr) else default
    return "" if plain is None or plain == "" else f"`{str(plain).lower() if isinstance(plain, bool) else plain}`"


def said(field: Any) -> str:
    assert field.description, "every setting says what it is"
    return str(field.description).replace("|", "\\|")


def written() -> str:
    """What stands in the handbook now."""
    return OPERATIONS.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def write() -> None:
    before, _, rest = OPERATIONS.read_text(encoding="utf-8").partition(BEGIN)
    OPERATIONS.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    write()

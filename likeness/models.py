"""``likeness models``: base models and encoders from the hub, their licences shown, and accepted before anything is downloaded."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from api.site import base_card, known_bases
from core.errors import UserError
from core.settings import Settings
from likeness.plain import out, plainly, settings_with

app = typer.Typer(no_args_is_help=True, help="Download base models and encoders, and see which are here.")


@app.command()
@plainly
def pull(
    model: Annotated[
        str, typer.Argument(help="Hub id, such as black-forest-labs/FLUX.2-klein-base-4B. Default: LIKENESS_BASE_MODEL.")
    ] = "",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: LIKENESS_BASE_REVISION, else the newest.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence that is shown, without being asked.")
    ] = False,
) -> None:
    """Download a model, pinned to a commit. Run it again to go on where it was interrupted."""
    from diffusion import pulling

    settings = settings_with()
    repository = model or settings.base_model
    _require_hub_id(repository)
    own_revision = settings.base_revision if repository == settings.base_model else None
    offer = pulling.look_up(repository, revision or own_revision)
    licence, warning, url = _what_to_accept(offer)
    out.print(f"{offer.repository} at {offer.revision}: {offer.size / 1e9:.1f} GB, of which {offer.missing_bytes / 1e9:.1f} GB to download")
    out.print(f"Licence: [bold]{licence}[/] {url}\n{warning}".rstrip())
    accepted = Acceptances(settings)
    if not accepted.has(repository, licence):
        _ask(repository, accept_licence)
        accepted.add(repository, offer.revision, licence)
    folder = pulling.pull(offer)
    out.print(f"In {folder}\nSet LIKENESS_BASE_MODEL={repository} LIKENESS_BASE_REVISION={offer.revision}", soft_wrap=True)


@app.command("list")
@plainly
def list_models(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Models in the cache, and those that are known to work."""
    from diffusion import pulling

    rows = model_rows(settings_with(), pulling.held())
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(Column("model", overflow="fold"), "revision", "size", "licence", "accepted", "", box=None, pad_edge=False)
    for row in rows:
        size = f"{row['bytes'] / 1e9:.1f} GB" if row["bytes"] else ""
        table.add_row(row["model"], row["revision"][:12], size, row["licence"], row["accepted"][:10], row["state"])
    out.print(table)


def model_rows(settings: Settings, held: list[Any]) -> list[dict[str, Any]]:
    """The shipped one, those of the cache, then known ones that are not here."""
    accepted = Acceptances(settings)
    shipped = {"model": "miniature", "revision": "", "bytes": 0, "licence": base_card(str(settings.miniature_dir / "flux")).licence}
    rows = [shipped | {"accepted": "", "state": "ships with the project"}]
    for one in held:
        when, licence = accepted.of(one.repository)
        facts = {
            "model": one.repository,
            "revision": one.revision,
            "bytes": one.size,
            "licence": licence or base_card(one.repository).licence,
        }
        rows.append(facts | {"accepted": when, "state": "in use" if _in_use(settings, one) else "here"})
    here = {one.repository.lower() for one in held}
    for name in known_bases():
        if name.lower() not in here:
            row = {"model": name, "revision": "", "bytes": 0, "licence": base_card(name).licence}
            rows.append(row | {"accepted": accepted.of(name)[0], "state": "not here"})
    return rows


def _in_use(settings: Settings, one: Any) -> bool:
    return settings.base_model.lower() == one.repository.lower() and settings.base_revision in (None, one.revision)


def _require_hub_id(repository: str) -> None:
    if repository == "miniature":
        raise UserError("base-model/shipped", "The miniature ships with the project", "Name a hub id, or set LIKENESS_BASE_MODEL to one.")
    if Path(repository).is_dir() or Path(repository).is_absolute():
        raise UserError("base-model/folder", f"{repository} is a folder", "There is nothing to download: the workers read it as it is.")


def _what_to_accept(offer: Any) -> tuple[str, str, str]:
    """Licence, warning and address: our own card's where there is one, since it says what a service may do."""
    card = base_card(offer.repository)
    if card.commercial is not None:
        return card.licence, card.note, card.url
    return offer.licence, "Read whether a service may use it.", offer.licence_url


def _ask(repository: str, accepted: bool) -> None:
    if accepted or (sys.stdin.isatty() and typer.confirm("Do you accept this licence?")):
        return
    fix = f"Read it, then run: likeness models pull {repository} --accept-licence"
    raise UserError("base-model/licence", "The licence was not accepted, so nothing was downloaded", fix)


class Acceptances:
    """Who runs this service accepted which licence, when: ``licences.json`` in the data folder."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.var_dir / "licences.json"

    def has(self, repository: str, licence: str) -> bool:
        return any(entry["licence"] == licence for entry in self._entries(repository))

    def of(self, repository: str) -> tuple[str, str]:
        """When and which, the last time; empty if never."""
        entries = self._entries(repository)
        return (entries[-1]["accepted_at"], entries[-1]["licence"]) if entries else ("", "")

    def add(self, repository: str, revision: str, licence: str) -> None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"model": repository, "revision": revision, "licence": licence, "accepted_at": when}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps([*self._all(), entry], indent=1) + "\n", encoding="utf-8")

    def _entries(self, repository: str) -> list[dict[str, str]]:
        return [entry for entry in self._all() if entry["model"].lower() == repository.lower()]

    def _all(self) -> list[dict[str, str]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else []

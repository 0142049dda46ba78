"""Facts that pages state: who made the base model and under which licence, limits, the consent text. All of it data, none of it guessed."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from core.settings import Settings
from storage import consents

KNOWN_BASES = Path(__file__).with_name("base_models.toml")


@dataclass(frozen=True)
class BaseCard:
    """What a person must know before choosing a base model. ``commercial``: None where its card does not say."""

    title: str
    licence: str
    note: str = ""
    url: str = ""
    commercial: bool | None = None


@dataclass(frozen=True)
class Site:
    settings: Settings
    base: BaseCard
    consent_text: str
    consent_sha256: str
    store_origins: tuple[str, ...]

    @property
    def secure(self) -> bool:
        return self.settings.site_url.startswith("https://")


def site_facts(settings: Settings) -> Site:
    text = consents.TEXT.strip()
    return Site(settings, base_card(settings.base_model_path), text, sha256(text.encode()).hexdigest(), store_origins(settings.store))


def base_card(path: str) -> BaseCard:
    """From the folder's own ``likeness.json``, else what is known of a hub id, else the licence that the folder's README names."""
    own = Path(path) / "likeness.json"
    facts = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    if "licence" in facts:
        title = facts.get("title") or Path(path).name
        return BaseCard(title, facts["licence"], _text(facts.get("notes", "")), facts.get("url", ""), facts.get("commercial"))
    known = {name.lower(): card for name, card in known_bases().items()}.get(path.lower())
    return known or BaseCard(title=Path(path).name, licence=_licence_in_readme(Path(path) / "README.md"))


def _text(notes: str | list[str]) -> str:
    return notes if isinstance(notes, str) else " ".join(notes)


@cache
def known_bases() -> dict[str, BaseCard]:
    """By hub id."""
    rows = tomllib.loads(KNOWN_BASES.read_text(encoding="utf-8"))["base"]
    return {row.pop("id"): BaseCard(**row) for row in rows}


def _licence_in_readme(readme: Path) -> str:
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    found = re.search(r"^license(?:_name)?:\s*(\S+)", text, re.MULTILINE)
    return found.group(1) if found else "not stated: check with its maker before use"


def store_origins(store_url: str) -> tuple[str, ...]:
    """Where browsers fetch pictures from and send photos to, besides this site; for the Content-Security-Policy."""
    url = urlsplit(store_url)
    if url.scheme != "s3":
        return ()
    options = parse_qs(url.query)
    endpoint = (options.get("public_url") or options.get("endpoint_url") or [""])[0]
    if not endpoint:
        return ("https://*.amazonaws.com",)
    parts = urlsplit(endpoint)
    return (f"{parts.scheme}://{parts.netloc}", f"{parts.scheme}://{url.netloc}.{parts.netloc}")

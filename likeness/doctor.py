"""``likeness doctor``: one line for each thing that the service needs, with what to do where it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from rich.console import Console

from core.errors import ServiceDown, UserError
from core.settings import Settings
from likeness.checks import Finding, failure, post, servers, store, weights

Check = Callable[[Settings], Iterable[Finding]]
SHOWN = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
FIXES = {
    "database": "Check LIKENESS_DATABASE_URL, and that the server runs and takes connections from here.",
    "migrations": "Check the database first.",
    "broker": "Check LIKENESS_BROKER_URL. While it is down, jobs wait in the database.",
    "store": "Check LIKENESS_STORE_URL and the AWS_… credentials; `likeness prepare` makes the bucket.",
    "mail": "Check LIKENESS_MAIL_URL: host, port, tls=starttls or ssl, user and password (percent-encoded).",
}


def run_doctor(settings: Settings, console: Console, send_to: str = "", strict: bool = False) -> bool:
    """Prints every finding; True if nothing fails (``strict``: and nothing needs a warning)."""
    checks: dict[str, Check] = {
        "database": servers.database,
        "migrations": servers.migrations,
        "broker": servers.broker,
        "settings": servers.shared,
        "store": store.object_store,
        "mail": post.mail,
        "base model": weights.base_model,
        "encoders": weights.encoders,
        "device": weights.device,
    }
    if send_to:
        checks["test message"] = partial(post.test_message, to=send_to)
    findings = [shown for name, check in checks.items() for shown in _shown(console, examine(name, check, settings))]
    bad = {"fail", "warn"} if strict else {"fail"}
    return not any(finding.level in bad for finding in findings)


def examine(name: str, check: Check, settings: Settings) -> Iterable[Finding]:
    """The check's findings; whatever it raises is one more. A doctor that dies of the illness helps nobody."""
    try:
        yield from check(settings)
    except UserError as error:
        yield failure(name, error.title, error.detail)
    except (ServiceDown, OSError, ValueError) as error:
        yield failure(name, str(error), FIXES.get(name, ""))
    except Exception as error:
        yield failure(name, f"{type(error).__name__}: {error}", FIXES.get(name, ""))


def _shown(console: Console, findings: Iterable[Finding]) -> Iterable[Finding]:
    for finding in findings:
        fix = f"  → {finding.fix}" if finding.fix else ""
        console.print(f"{SHOWN[finding.level]} {finding.what:13} ", end="")
        console.print(f"{' '.join(finding.said.split())}{fix}", soft_wrap=True, markup=False)  # servers say things in several lines
        yield finding

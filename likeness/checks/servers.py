"""Database, migrations, broker, and the settings that every process must share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import redis
from kombu import Connection
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from likeness.checks import Finding, failure, good, warning
from storage.broker import resolve_broker_url
from storage.migrations import current_revision, newest_revision
from storage.wiring import open_storage

BROKER_TIMEOUT_S = 3


def database(settings: Settings) -> Iterator[Finding]:
    db = open_storage(settings).db
    with db.reader() as session:
        session.execute(text("select 1"))
        skew_s = 0.0 if db.is_sqlite else _skew_s(session)
        version = "" if db.is_sqlite else f", PostgreSQL {session.scalar(text('show server_version'))}"
    yield good("database", f"{db.url.render_as_string(hide_password=True)}{version}")
    if abs(skew_s) > settings.lease_s / 10:  # leases are compared by the clocks of those who read them
        said = f"this machine's clock is {skew_s:+.1f} s from the database server's; a lease lasts {settings.lease_s:.0f} s"
        yield warning("clock", said, "Run NTP (chrony or systemd-timesyncd) on every machine.")


def migrations(settings: Settings) -> Iterator[Finding]:
    current, newest = current_revision(settings.database), newest_revision()
    if current == newest:
        yield good("migrations", f"at {newest}")
    else:
        yield failure("migrations", f"the schema is at {current}, this version needs {newest}", "Run: likeness migrate")


def broker(settings: Settings) -> Iterator[Finding]:
    url = resolve_broker_url(settings)
    with Connection(url, connect_timeout=BROKER_TIMEOUT_S) as connection:
        connection.ensure_connection(max_retries=1, timeout=BROKER_TIMEOUT_S)
    yield good("broker", url.split("@")[-1])
    if url.startswith("redis"):
        yield from _redis_keeps(url)


def shared(settings: Settings) -> Iterator[Finding]:
    """Where several machines serve one site, all of them must agree on these."""
    several = not settings.database.startswith("sqlite")
    if settings.secret_key.get_secret_value():
        yield good("secret key", "given")
    elif several:
        fix = "Set LIKENESS_SECRET_KEY to the same for every process (openssl rand -hex 32), and keep a copy: receipts are signed with it."
        yield failure("secret key", f"each machine makes its own, in {settings.var_dir}", fix)
    else:
        yield good("secret key", f"kept in {settings.var_dir / 'secret.key'}: back it up, receipts are signed with it")
    host = urlsplit(settings.site_url).hostname or ""
    if several and (not settings.public_url or (settings.site_url.startswith("http://") and host not in ("localhost", "127.0.0.1"))):
        fix = "Set LIKENESS_PUBLIC_URL to the https address that customers use: links in mails and cookies depend on it."
        yield warning("site", settings.site_url, fix)
    else:
        yield good("site", settings.site_url)


def _skew_s(session: Session) -> float:
    before = datetime.now(UTC)
    there = session.scalar(text("select clock_timestamp()"))
    after = datetime.now(UTC)
    middle = before + (after - before) / 2
    return 0.0 if there is None or before <= there <= after else (middle - there).total_seconds()


def _redis_keeps(url: str) -> Iterator[Finding]:
    client = redis.Redis.from_url(url.replace("redis+socket://", "unix://", 1), socket_timeout=BROKER_TIMEOUT_S, decode_responses=True)
    try:
        policy, log = (client.config_get(name).get(name, "") for name in ("maxmemory-policy", "appendonly"))
    except redis.RedisError:
        said = "its settings cannot be read (a managed server?)"
        yield warning("broker keeps", said, "Make sure that maxmemory-policy is noeviction: evicted keys break the queues.")
        return
    if policy != "noeviction":
        yield failure("broker keeps", f"maxmemory-policy is {policy}", "Set it to noeviction: evicted keys break the queues.")
    elif log != "yes":
        said = "noeviction, but not append-only: a restart loses the messages; jobs that wait are published again within minutes"
        yield warning("broker keeps", said, "Set appendonly yes.")
    else:
        yield good("broker keeps", "noeviction, append-only")

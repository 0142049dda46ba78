"""Everything of an account in one zip file: rows as JSON, photos, adapters, portraits."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from core.errors import not_found
from storage import keys
from storage.tables import Base
from storage.wiring import Storage

HIDDEN_TABLES = {"web_sessions", "idempotency_records", "mails"}  # ours, not theirs: hashes of tokens, remembered answers, the outbox
HIDDEN_COLUMNS = {"key_hash", "secret", "previous_secret", "worker", "lease_until", "fence", "object_key", "thumb_key"}
README = "Everything that Likeness keeps of your account: data.json holds the records, the folders hold the files.\n"


def export(storage: Storage, account_id: str, path: Path) -> Path:
    """Write the zip to ``path``, whole or not at all. One file is in memory at a time only while it is copied from disk."""
    with storage.db.reader() as session:
        data = {table.name: rows for table in Base.metadata.sorted_tables if (rows := _rows(session, table, account_id))}
    if not data:
        raise not_found("account")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".export-")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("README.txt", README)
            archive.writestr("data.json", json.dumps(data, indent=2, ensure_ascii=False, default=_plain))
            _add_objects(storage, archive, account_id, path.parent)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def _rows(session: Session, table: Table, account_id: str) -> list[dict[str, Any]]:
    owner = table.c.id if table.name == "accounts" else table.c.get("account_id")
    if owner is None or table.name in HIDDEN_TABLES:
        return []
    shown = [column for column in table.columns if column.name not in HIDDEN_COLUMNS]
    return [dict(row) for row in session.execute(select(*shown).where(owner == account_id)).mappings()]


def _add_objects(storage: Storage, archive: zipfile.ZipFile, account_id: str, scratch: Path) -> None:
    prefix = keys.account_prefix(account_id)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".export-") as folder:
        copy = Path(folder) / "object"
        for key in storage.objects.list(prefix):
            try:
                storage.objects.download(key, copy)
            except KeyError:  # erased while we read
                continue
            archive.write(copy, str(PurePosixPath(key.removeprefix(prefix))))


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)

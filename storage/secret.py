"""The key that signs sessions, links and receipts: given by the operator, or made once and kept in var_dir."""

from __future__ import annotations

import os
import secrets
import tempfile
from hashlib import sha256
from hmac import digest
from pathlib import Path

from core.settings import Settings


def secret_key(settings: Settings) -> bytes:
    """32 bytes. The same for every process of one installation."""
    given = settings.secret_key.get_secret_value()
    return sha256(given.encode()).digest() if given else _kept(settings.var_dir / "secret.key")


def derived_key(settings: Settings, purpose: str) -> bytes:
    """A 32-byte key of its own for each purpose, so that what signs links cannot sign receipts."""
    return digest(secret_key(settings), purpose.encode(), "sha256")


def _kept(path: Path) -> bytes:
    if not path.exists():
        _create_once(path)
    return bytes.fromhex(path.read_text(encoding="ascii").strip())


def _create_once(path: Path) -> None:
    """Two processes may start at once: a hard link makes the first whole file win."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".secret-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(name)

"""Trigger tokens: a short pronounceable word that means nothing, so that the adapter alone gives it a meaning."""

from __future__ import annotations

import secrets

_HEADS = ("zo", "za", "zu", "xi", "xo", "vu", "vy", "qui", "jo", "ky", "wu", "zi")
_JOINTS = ("rvx", "kz", "vz", "zk", "xk", "qv", "zv", "xv", "jz", "vk")  # no English word has one of these inside
_TAILS = ("ex", "iz", "ok", "ux", "av", "on", "ari", "olo", "umi", "eko")


def new_trigger_token() -> str:
    """Such as ``zokzex``: 1,200 of them; the caller checks that the account does not use it yet."""
    return "".join(secrets.choice(part) for part in (_HEADS, _JOINTS, _TAILS))

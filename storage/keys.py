"""Object keys. Everything of an account lies under one prefix, so erasure is one sweep."""

from __future__ import annotations


def account_prefix(account: str) -> str:
    return f"accounts/{account}/"


def subject_prefix(account: str, subject: str) -> str:
    return f"accounts/{account}/subjects/{subject}/"


def upload(account: str, subject: str, upload_id: str) -> str:
    return f"accounts/{account}/subjects/{subject}/incoming/{upload_id}"


def photo(account: str, subject: str, photo_id: str, extension: str = "jpg") -> str:
    return f"accounts/{account}/subjects/{subject}/photos/{photo_id}.{extension}"


def photo_thumb(account: str, subject: str, photo_id: str) -> str:
    return f"accounts/{account}/subjects/{subject}/photos/{photo_id}.thumb.webp"


def training_prefix(account: str, subject: str, training: str) -> str:
    """Checkpoints of one run, by attempt."""
    return f"accounts/{account}/subjects/{subject}/trainings/{training}/"


def training_attempt(account: str, subject: str, training: str, fence: int) -> str:
    """What one hold of a training's job stores. ``fence`` grows with each, so names sort by age and nobody writes where another does."""
    return f"{training_prefix(account, subject, training)}{fence:06d}/"


def adapter_prefix(account: str, adapter: str) -> str:
    return f"accounts/{account}/adapters/{adapter}/"


def adapter_weights(account: str, adapter: str) -> str:
    return adapter_prefix(account, adapter) + "adapter.safetensors"


def adapter_card(account: str, adapter: str) -> str:
    return adapter_prefix(account, adapter) + "card.json"


def adapter_sample(account: str, adapter: str, file: str) -> str:
    """A validation picture, by the name that the card gives it."""
    return adapter_prefix(account, adapter) + file


def portrait_prefix(account: str, portrait: str) -> str:
    return f"accounts/{account}/portraits/{portrait}/"


def portrait_attempt(account: str, portrait: str, fence: int) -> str:
    return f"{portrait_prefix(account, portrait)}{fence:06d}/"


def portrait_image(account: str, portrait: str, n: int, fence: int = 1) -> str:
    return f"{portrait_attempt(account, portrait, fence)}{n}.png"

"""Base models and encoders from the hub, pinned to a commit, into the hub's own cache, where the workers look for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound

from core.errors import UserError
from diffusion.hub import HUB_ERRORS, advice

# A pipeline's parts lie in folders; what lies beside them are the maker's own formats of the same weights, as large again.
PIPELINE_FILES = ["model_index.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.model", "*/*.jinja", "LICENSE*", "README.md"]
SINGLE_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "LICENSE*", "README.md"]
OTHER_TYPES = ["*.fp16.*", "*.non_ema.*", "onnx/*", "openvino/*"]
SPARE_BYTES = 2 * 2**30  # left free on the disk


@dataclass(frozen=True)
class Offer:
    """What the hub has under a name at one commit. ``missing_bytes`` is what a pull would download."""

    repository: str
    revision: str
    licence: str
    licence_url: str
    gated: bool
    files: tuple[str, ...]
    size: int
    missing_bytes: int


@dataclass(frozen=True)
class Held:
    """One commit of a model in the cache."""

    repository: str
    revision: str
    size: int
    folder: Path
    is_pipeline: bool


def look_up(repository: str, revision: str | None = None, *, endpoint: str | None = None, cache: Path | None = None) -> Offer:
    """Asks the hub; ``revision`` is a branch, a tag or a commit (None: the main branch), and becomes a commit."""
    with _advised(repository):
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision)
        assert info.sha
        names = [file.rfilename for file in info.siblings or []]
        wanted = PIPELINE_FILES if "model_index.json" in names else SINGLE_MODEL_FILES
        plan: Any = snapshot_download(repository, dry_run=True, **_asked(info.sha, wanted, endpoint, cache))
    licence, url = _licence(repository, info)
    missing = sum(file.file_size for file in plan if file.will_download)
    return Offer(repository, info.sha, licence, url, bool(info.gated), tuple(wanted), sum(file.file_size for file in plan), missing)


def pull(offer: Offer, *, endpoint: str | None = None, cache: Path | None = None) -> Path:
    """Downloads what is missing and returns the folder. A broken connection goes on at the byte; whole files of an earlier pull stay.

    :class:`core.errors.UserError` if the disk is too small, the repository is gated, or the hub cannot be reached.
    """
    _require_space(offer, Path(cache or constants.HF_HUB_CACHE))
    with _advised(offer.repository):
        return Path(snapshot_download(offer.repository, **_asked(offer.revision, list(offer.files), endpoint, cache)))


def held(cache: Path | None = None) -> list[Held]:
    """Models in the cache, by name."""
    try:
        repositories = scan_cache_dir(cache).repos
    except CacheNotFound:
        return []
    found = [
        Held(
            repo.repo_id,
            commit.commit_hash,
            commit.size_on_disk,
            commit.snapshot_path,
            (commit.snapshot_path / "model_index.json").exists(),
        )
        for repo in repositories
        if repo.repo_type == "model"
        for commit in repo.revisions
    ]
    return sorted(found, key=lambda one: (one.repository, one.revision))


def _asked(commit: str, files: list[str], endpoint: str | None, cache: Path | None) -> dict[str, Any]:
    return {"revision": commit, "allow_patterns": files, "ignore_patterns": OTHER_TYPES, "endpoint": endpoint, "cache_dir": cache}


def _licence(repository: str, info: Any) -> tuple[str, str]:
    """As the model's card names it; "other" has a name and a link of its own."""
    card = info.card_data.to_dict() if info.card_data else {}
    name = card.get("license_name") or card.get("license") or "not stated"
    link = card.get("license_link") or ""
    page = f"https://huggingface.co/{repository}"
    url = link if link.startswith("http") else f"{page}/blob/{info.sha}/{link}" if link else page
    return (name if name != "other" else "not stated"), url


def _require_space(offer: Offer, cache: Path) -> None:
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < offer.missing_bytes + SPARE_BYTES:
        needed, has = (f"{size / 1e9:.0f} GB" for size in (offer.missing_bytes + SPARE_BYTES, free))
        raise UserError(
            "base-model/disk", "Too little space on the disk", f"{needed} are needed under {cache}, {has} are free: set HF_HOME."
        )


@contextmanager
def _advised(repository: str) -> Iterator[None]:
    try:
        yield
    except HUB_ERRORS as error:
        raise advice(repository, error) from error

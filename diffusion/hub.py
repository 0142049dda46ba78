"""Getting a base model's files: a local folder as it is, a hub id through the hub's cache. The hub's errors become advice."""

from __future__ import annotations

from pathlib import Path

import httpx
from diffusers import DiffusionPipeline
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from core.errors import UserError


def fetch(path: str, revision: str | None = None) -> Path:
    """The local folder of a base model, downloading what its pipeline needs (safetensors, configs, tokenizers) if ``path`` is a hub id."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path.startswith((".", "~")):
        raise UserError("base-model/no-such-folder", "No such folder", f"{path} is not a folder: set LIKENESS_BASE_MODEL.")
    try:
        return Path(DiffusionPipeline.download(path, revision=revision, use_safetensors=True))
    except (ValueError, OSError, httpx.HTTPError) as error:
        raise advice(path, error) from error


def advice(path: str, error: Exception) -> UserError:
    """What the operator can do. diffusers wraps the hub's error in an OSError: what counts is its cause."""
    match error.__cause__ or error:
        case GatedRepoError():
            fix = f"Accept its licence at https://huggingface.co/{path}, then set HF_TOKEN to a token of that account."
            return UserError("base-model/gated", f"{path} is gated", fix)
        case RepositoryNotFoundError() | RevisionNotFoundError():
            fix = "Check the hub id and the revision; if it is private, set HF_TOKEN."
            return UserError("base-model/not-found", f"No such base model: {path}", fix)
        case HFValidationError() | ValueError() as wrong:
            return UserError("base-model/bad-name", f"Not a base model: {path}", f"Give a folder or a hub id. ({wrong})")
        case other:
            fix = f"Check the network, download it elsewhere, or give a folder. ({type(other).__name__})"
            return UserError("base-model/unreachable", f"{path} is not in the cache and the hub cannot be reached", fix)

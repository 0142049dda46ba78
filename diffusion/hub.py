"""Getting a base model's files: a local folder as it is, a hub id through the hub's cache. The hub's errors become advice."""

from __future__ import annotations

from pathlib import Path

import httpx
from diffusers import DiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

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
    except (HFValidationError, ValueError) as error:
        raise UserError("base-model/bad-name", f"Not a base model: {path}", f"Give a folder or a hub id. ({error})") from error
    except GatedRepoError as error:
        raise UserError(
            "base-model/gated",
            f"{path} is gated",
            f"Accept its licence at https://huggingface.co/{path}, then set HF_TOKEN to a token of that account.",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError("base-model/not-found", f"No such base model: {path}", "Check the hub id and revision, or set HF_TOKEN.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, httpx.TransportError, OSError) as error:
        raise UserError(
            "base-model/unreachable",
            f"{path} is not in the cache and the hub cannot be reached",
            f"Check the network, download it elsewhere, or give a folder. ({error.__class__.__name__})",
        ) from error

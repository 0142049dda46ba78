"""Getting a base model's files: a local folder as it is, a hub id through the hub's cache. The hub's errors become advice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from core.errors import UserError

# Errors of the HTTP client come through as they are, and which client that is depends on huggingface_hub's version.
HUB_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    OSError,
    *(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError" and issubclass(kind, Exception)),
)


def fetch(path: str, revision: str | None = None) -> Path:
    """The local folder of a base model, downloading what its pipeline needs (safetensors, configs, tokenizers) if ``path`` is a hub id."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path.startswith((".", "~")):
        raise UserError("base-model/no-such-folder", "No such folder", f"{path} is not a folder: set LIKENESS_BASE_MODEL.")
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(path, revision=revision, use_safetensors=True))
    except HUB_ERRORS as error:
        raise advice(path, error) from error


TELLING = (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError, OfflineModeIsEnabled)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def advice(path: str, error: Exception) -> UserError:
    """What the operator can do. diffusers wraps the hub's error, and the hub's own wraps that of the connection: what says most counts."""
    chain = list(_causes(error))
    match next((one for one in chain if isinstance(one, TELLING)), chain[-1]):
        case GatedRepoError():
            fix = f"Accept its licence at https://huggingface.co/{path}, then set HF_TOKEN to a token of that account."
            return UserError("base-model/gated", f"{path} is gated", fix)
        case RepositoryNotFoundError() | RevisionNotFoundError():
            fix = "Check the hub id and the revision; if it is private, set HF_TOKEN."
            return UserError("base-model/not-found", f"No such base model: {path}", fix)
        case HFValidationError() | ValueError() as wrong:
            return UserError("base-model/bad-name", f"Not a base model: {path}", f"Give a folder or a hub id. ({wrong})")
        case OfflineModeIsEnabled():
            fix = "HF_HUB_OFFLINE is set: unset it for a download, or give a folder."
            return UserError("base-model/unreachable", f"{path} is not in the cache and the hub may not be asked", fix)
        case other:
            fix = f"Check the network, download it elsewhere, or give a folder. ({type(other).__name__})"
            return UserError("base-model/unreachable", f"{path} is not in the cache and the hub cannot be reached", fix)

"""Base model, its licence, the encoders that judge, and the device that runs them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from api.site import base_card
from core.settings import Settings
from likeness.checks import Finding, failure, good, warning

PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def base_model(settings: Settings) -> Iterator[Finding]:
    path = settings.base_model_path
    yield _folder(Path(path)) if _is_folder(path) else _hub("base model", path, "model_index.json", settings.base_revision)
    card = base_card(path)
    said = f"{card.title}: {card.licence}"
    if card.commercial is False:
        yield warning("licence", said, card.note or "Not for commercial use without a licence from its maker.")
    elif card.licence.startswith("not stated"):
        yield warning("licence", said, "Read its licence before customers pay for pictures.")
    else:
        yield good("licence", said)


def encoders(settings: Settings) -> Iterator[Finding]:
    for what, path in (("identity", settings.identity_encoder_path), ("text-image", settings.text_image_encoder_path)):
        if not _is_folder(path):
            yield _hub(what, path, "config.json")
        elif os.access(Path(path) / "config.json", os.R_OK):
            yield good(what, path)
        else:
            yield failure(what, f"{path} holds no readable config.json", "Set the folder or hub id of the encoder.")


def device(settings: Settings) -> Iterator[Finding]:
    """In a process of the doctor's own, which forks nothing afterwards."""
    from diffusion.devices import describe, free_memory, pick_device

    found = pick_device(settings.device)
    said = f"{describe(found)}, {free_memory(found) / 2**30:.0f} GiB free"
    if found.type == "cpu" and settings.base_model != "miniature":
        fix = "Right for the API and the scheduler. On a worker: install the CUDA target, reserve a GPU, set LIKENESS_DEVICE=cuda."
        yield warning("device", said, fix)
    else:
        yield good("device", said)


def _is_folder(path: str) -> bool:
    return Path(path).is_absolute() or path.startswith((".", "~")) or Path(path).is_dir()


def _folder(folder: Path) -> Finding:
    """Every part that ``model_index.json`` names is there and readable, and none of it is pickled."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return failure("base model", f"{folder} holds no readable model_index.json", "Set LIKENESS_BASE_MODEL to a folder or a hub id.")
    parts = [name for name, made_by in index.items() if isinstance(made_by, list) and made_by[0]]
    missing = [name for name in parts if not (folder / name).is_dir() or not any(os.scandir(folder / name))]
    closed = [str(path) for path in folder.rglob("*") if path.is_file() and not os.access(path, os.R_OK)]
    if missing:
        return failure("base model", f"{folder} lacks {', '.join(missing)}", "Copy the whole folder again.")
    if closed:
        return failure("base model", f"{closed[0]} cannot be read", f"Let user {os.geteuid()} read the folder: chmod -R a+rX {folder}")
    pickled = [path.name for path in folder.rglob("*") if path.suffix in PICKLED]
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    if not size:
        said = f"{folder} holds no safetensors{f', only {pickled[0]}' if pickled else ''}"
        return failure("base model", said, "Pickled weights are never loaded: get the safetensors.")
    return good("base model", f"{folder}, {size / 2**30:.2f} GiB")


def _hub(what: str, hub_id: str, file: str, revision: str | None = None) -> Finding:
    try:
        cached = try_to_load_from_cache(hub_id, file, revision=revision)
    except HFValidationError:
        return failure(what, f"{hub_id} is neither a folder nor a hub id", "Set a folder, or an id such as black-forest-labs/FLUX.1-dev.")
    if isinstance(cached, str):
        return good(what, f"{hub_id}, in the hub's cache")
    fix = "A worker fetches it when it starts: accept its licence on the hub, set HF_TOKEN, and keep HF_HOME on a volume."
    return warning(what, f"{hub_id} is not in this machine's cache", fix)

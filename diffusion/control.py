"""A ControlNet beside the base model: a small network that reads a picture of a pose and steers the denoising."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from diffusers import FluxControlNetModel
from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from core.errors import UserError
from core.logs import get_logger
from diffusion.hub import advice
from diffusion.loading import BaseModel

log = get_logger("diffusion")

POSE = "pose"  # the pipeline of the family that takes the ControlNet, and the mode that uses it
UNION_POSE_MODE = 4  # of InstantX's and Shakker's FLUX.1-dev ControlNet Union: canny 0, tile 1, depth 2, blur 3, pose 4
SHAPES = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")


@dataclass(frozen=True)
class Control:
    """``scale`` and ``until`` (share of the steps) are how strongly and how long it steers unless a style says otherwise: 0.85 to 0.80 is
    what avatar pipelines publish for FLUX.1-dev; ``likeness.json`` in its folder may name others. ``mode``: a union's number for poses.
    """

    model: Any
    mode: int | None = None
    scale: float = 0.85
    until: float = 0.8


def add_control(base: BaseModel, path: str, revision: str | None = None) -> Control:
    """Loads a folder or hub id in diffusers' FluxControlNetModel layout and gives it to ``base``.

    :class:`core.errors.UserError` if it cannot be read, or was made for another base model.
    """
    if POSE not in base.family.pipelines:
        raise UserError("control/family", f"{base.family.name} takes no ControlNet", "Leave LIKENESS_CONTROLNET empty for this base model.")
    folder = _fetch(path, revision)
    control = _described(_read(folder, base), folder)
    _require_fit(control.model, base, path)
    base.control = control
    log.info("controlnet loaded", controlnet=path, union_mode=control.mode)
    return control


def _fetch(path: str, revision: str | None) -> Path:
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except (ValueError, OSError, httpx.HTTPError) as error:
        raise advice(path, error) from error


def _read(folder: Path, base: BaseModel) -> Any:
    try:
        model = FluxControlNetModel.from_pretrained(folder, torch_dtype=base.dtype, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError("control/incomplete", "The ControlNet cannot be read", f"{folder}: {error}") from error
    return model.eval().requires_grad_(False).to(base.device)


def _described(model: Any, folder: Path) -> Control:
    path = folder / "likeness.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = {name: facts[name] for name in ("mode", "scale", "until") if name in facts}
    return Control(model, **({"mode": UNION_POSE_MODE if model.union else None} | known))


def _require_fit(model: Any, base: BaseModel, path: str) -> None:
    differ = [name for name in SHAPES if model.config[name] != base.transformer.config[name]]
    if differ:
        raise UserError("control/other-base", "This ControlNet was made for another base model", f"{path} differs in {', '.join(differ)}.")

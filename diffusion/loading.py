"""A base model in memory: its components as ``model_index.json`` names them, on one device, frozen, ready for adapters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from core.errors import UserError
from core.limits import free_main_memory
from core.logs import get_logger
from diffusion.devices import GIB_HEADROOM, free_memory, pick_device
from diffusion.families import Family, family_of
from diffusion.hub import fetch
from diffusion.precision import Precision, choose, room_for_both_orders
from diffusion.quantise import quantise
from diffusion.streaming import stream
from diffusion.text import PromptEmbeds, encode_prompts
from diffusion.visiting import Visitor, size

if TYPE_CHECKING:
    from diffusion.control import Control

log = get_logger("diffusion")


@dataclass
class BaseModel:
    """The frozen base. ``path`` is what the operator named (hub id or folder), ``folder`` where its files lie."""

    path: str
    folder: Path
    family: Family
    device: torch.device
    precision: Precision
    parts: dict[str, Any]  # diffusers component name → module, tokenizer or scheduler
    offloaded: set[str] = field(default_factory=set)  # parts that stay on the CPU and visit the device while in use
    control: Control | None = None  # a ControlNet for poses, if the operator has one: :func:`diffusion.control.add_control`
    _visitors: dict[str, Visitor] = field(default_factory=dict, repr=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.precision.dtype

    @property
    def transformer(self) -> Any:
        return self.parts["transformer"]

    @property
    def vae(self) -> Any:
        return self.parts["vae"]

    @property
    def scheduler(self) -> Any:
        return self.parts["scheduler"]

    @property
    def text_encoders(self) -> dict[str, Any]:
        return {name: self.parts[name] for name in self.family.text_encoder_names}

    @property
    def tokenizers(self) -> dict[str, Any]:
        return {name: self.parts[name] for name in self.family.tokenizer_names}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What ``likeness.json`` in the folder says of this base: ``resolution``, ``licence``, ``notes``, ``recipe`` (overrides)."""
        path = self.folder / "likeness.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def index(self) -> dict[str, Any]:
        """``model_index.json``: the pipeline's class, its components, and options such as ``is_distilled``."""
        return json.loads((self.folder / "model_index.json").read_text(encoding="utf-8"))

    @cached_property
    def empty_prompt(self) -> PromptEmbeds:
        """What guidance without a guidance embedding steers away from; one row."""
        return encode_prompts(self, [""])

    @property
    def resolution(self) -> int:
        """Default side in pixels."""
        return int(self.facts.get("resolution", self.family.default_resolution))

    @cached_property
    def max_text_tokens(self) -> int:
        return self.family.max_text_tokens(self.tokenizers)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the model index and the transformer's config and first shard's header: which weights an adapter was fitted on."""
        return _fingerprint(self.folder)

    def components(self) -> dict[str, Any]:
        """What a diffusers pipeline class of the family takes; all pipelines share these very modules."""
        return dict(self.parts)

    def pipeline(self, mode: str = "text_to_image") -> Any:
        """A pipeline over the shared components, with a scheduler of its own, since schedulers keep the state of one run."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        beside = {"controlnet": self.control.model} if mode == "pose" and self.control else {}
        made_with = self.components() | {"scheduler": scheduler} | beside | self.family.pipeline_options(self.index)
        pipeline = self.family.pipelines[mode](**made_with)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @contextmanager
    def at_hand(self, *names: str) -> Iterator[None]:
        """Brings offloaded parts to the device while they are used; ``text_encoders`` stands for all of them. May be nested."""
        visiting = self.offloaded & set(self._named(names))
        self.offloaded -= visiting
        try:
            for name in visiting:
                self._visitor(name).come(self.device)
            yield
        finally:
            for name in visiting:
                self._visitor(name).leave()
            self.offloaded |= visiting

    def send_away(self, *names: str) -> set[str]:
        """Parts that lie on the GPU leave it for main memory, and only visit until they are :meth:`call_back`-ed; returns which.

        None where main memory has no room for them. Those that are streamed are not on the GPU.
        """
        here = {name for name in self._named(names) if self._lies_here(name)}
        if sum(size(self.parts[name]) for name in here - set(self._visitors)) + GIB_HEADROOM > free_main_memory():
            return set()
        for name in here:
            self._visitor(name).leave()
        self.offloaded |= here
        if here:
            torch.cuda.empty_cache()  # what comes in their place is of other sizes
        return here

    def call_back(self, names: set[str]) -> None:
        """What was sent away lies on the GPU again, or goes on visiting if there is no room any more."""
        for name in sorted(names & self.offloaded):
            try:
                self._visitor(name).come(self.device)
                self.offloaded.discard(name)
            except torch.OutOfMemoryError:
                self._visitor(name).leave()
                log.warning("a part of the base model stays in main memory: the GPU is full", part=name)

    def _named(self, names: Sequence[str]) -> list[str]:
        return [part for name in names for part in (self.family.text_encoder_names if name == "text_encoders" else [name])]

    def _lies_here(self, name: str) -> bool:
        return self.device.type != "cpu" and next(self.parts[name].parameters()).device.type == self.device.type

    def _visitor(self, name: str) -> Visitor:
        if name not in self._visitors:
            self._visitors[name] = Visitor(self.parts[name])
        return self._visitors[name]


def load_base(
    path: str | Path, *, precision: str = "auto", device: str = "auto", revision: str | None = None, backward: bool = True
) -> BaseModel:
    """Loads a folder or a hub id in the diffusers layout, from safetensors only. ``backward=False``: nobody will train on it, so fp8
    weights need not be held in a second memory order.

    Raises :class:`core.errors.UserError` with what to do (gated or unknown repository, no network, no GPU for the precision asked).
    """
    folder = fetch(str(path), revision)
    family = family_of(folder)
    where = pick_device(device)
    held = choose(precision, where, transformer_bytes(folder))
    parts = _load_parts(folder, held)
    both_orders = backward and room_for_both_orders(where, transformer_bytes(folder))
    quantise(parts["transformer"], held, where, both_orders=both_orders)
    base = BaseModel(str(path), folder, family, where, held, parts)
    _place(base)
    log.info("base model loaded", base=base.path, family=family.name, device=str(where), precision=held.name)
    return base


def transformer_bytes(folder: Path) -> int:
    """Size of the transformer's weight files; 0 where there are none."""
    return sum(file.stat().st_size for file in (folder / "transformer").glob("*.safetensors"))


def _load_parts(folder: Path, precision: Precision) -> dict[str, Any]:
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()  # their warnings quote the customers' prompts
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=precision.dtype, use_safetensors=True)
    except (OSError, SafetensorError) as error:
        raise UserError("base-model/incomplete", "The base model cannot be read", f"{folder}: {error}") from error
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return parts


def _place(base: BaseModel) -> None:
    """The transformer always lives on the device; the others too if there is room. Else the VAE visits, and text encoders are streamed."""
    base.transformer.to(base.device)
    for name in ("vae", *base.family.text_encoder_names):
        module = base.parts[name]
        if base.device.type == "cpu" or size(module) + GIB_HEADROOM < free_memory(base.device):
            module.to(base.device)
        elif name == "vae":
            base.offloaded.add(name)
        else:
            stream(module, base.device)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("model_index.json", "transformer/config.json"):
        digest.update((folder / name).read_bytes())
    for shard in sorted((folder / "transformer").glob("*.safetensors")):
        with shard.open("rb") as file:
            digest.update(file.read(1 << 20))  # header and the first weights: enough to tell two trainings of one shape apart
    return digest.hexdigest()[:16]

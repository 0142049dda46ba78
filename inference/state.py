"""What a render worker keeps between jobs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

from core import garbage
from core.settings import Settings
from diffusion.control import add_control
from diffusion.credentials import Credentials, credentials_of
from diffusion.loading import BaseModel, load_base
from inference.adapters import AdapterCache
from inference.engine import Engine
from inference.loaded import LoadedAdapter
from inference.prefetch import Prefetcher
from inference.reading import read_adapter
from inference.redrawing import Usual
from inference.safety import Safety, open_safety
from inference.style_shelf import StyleShelf
from inference.turns import Turns
from inference.upscale import Upscaler, open_upscaler
from inference.warmup import warm_up
from metrics.encoders import IdentityEncoder, load_identity_encoder
from storage.wiring import Storage


@dataclass
class RenderState:
    """The base model on its device, adapters nearby, whose turn it is, the encoder that scores."""

    storage: Storage
    base: BaseModel

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.base)

    @cached_property
    def cache(self) -> AdapterCache:
        near = partial(LoadedAdapter.moved, device=self.base.device) if self.base.device.type == "cuda" else None
        return AdapterCache(self.storage, partial(read_adapter, self.base), near)

    @cached_property
    def encoder(self) -> IdentityEncoder:
        return load_identity_encoder(self.settings.identity_encoder_path, self.base.device)

    @cached_property
    def styles(self) -> StyleShelf:
        return StyleShelf(self.base, self.settings)

    @cached_property
    def safety(self) -> Safety:
        return open_safety(self.settings, self.base.device)

    @cached_property
    def upscaler(self) -> Upscaler:
        return open_upscaler(self.settings, self.base.device)

    @cached_property
    def credentials(self) -> Credentials | None:
        return credentials_of(self.settings)

    @cached_property
    def usual(self) -> Usual:
        return Usual()

    @cached_property
    def turns(self) -> Turns:
        return Turns(self.storage)

    @cached_property
    def prefetcher(self) -> Prefetcher:
        return Prefetcher(self.turns, self.cache)

    @property
    def settings(self) -> Settings:
        return self.storage.settings

    def warm_up(self, *, alone: bool) -> None:
        """On a GPU: compiles, and measures whether folding adapters pays. ``alone``: nobody else uses this base model."""
        if self.base.device.type == "cuda":
            warm_up(self.engine, cache=self.settings.caches / "graphs", alone=alone)

    def sweep(self) -> None:
        """Drops erased adapters everywhere in this worker."""
        gone = self.cache.sweep(also=self.engine.held)
        if gone:
            self.engine.forget(gone)


def open_state(storage: Storage) -> RenderState:
    """Loads the base model that the settings name."""
    settings = storage.settings
    base = load_base(
        settings.base_model_path, precision=settings.precision, device=settings.device, revision=settings.base_revision, backward=False
    )
    return share_state(storage, base, alone=True)


def share_state(storage: Storage, base: BaseModel, *, alone: bool = False) -> RenderState:
    """On a base model that is loaded already, and that somebody else uses too unless ``alone``."""
    if storage.settings.controlnet_path and base.control is None:
        add_control(base, storage.settings.controlnet_path)
    state = RenderState(storage, base)
    state.warm_up(alone=alone)
    garbage.settle()
    return state

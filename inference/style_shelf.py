"""Style adapters at hand: operator data, read from the style folders once, and again when the file changes."""

from __future__ import annotations

from core.settings import Settings
from core.styles import find_adapter
from diffusion.loading import BaseModel
from inference.loaded import LoadedAdapter
from inference.lru import ByteLru
from inference.reading import read_adapter


class StyleShelf:
    def __init__(self, base: BaseModel, settings: Settings) -> None:
        self.base, self.settings = base, settings
        self._held: ByteLru[LoadedAdapter] = ByteLru(settings.adapter_cache_bytes // 4)

    def load(self, name: str) -> LoadedAdapter:
        """:class:`core.errors.UserError` if there is no such file, or it is no adapter of this base model."""
        path = find_adapter(self.settings, name)
        stamp = f"style:{name}@{path.stat().st_mtime_ns:x}"
        found = self._held.get(stamp)
        if found is None:
            found = read_adapter(self.base, path, stamp)
            self._held.put(stamp, found, found.nbytes)
        return found

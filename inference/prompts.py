"""Prompt embeddings, kept for all jobs: the text encoders are frozen and know nothing of adapters, so a prompt is encoded once."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from diffusion.loading import BaseModel
from diffusion.text import PromptEmbeds, encode_prompts
from inference.lru import ByteLru

CACHE_BYTES = 256 * 2**20  # FLUX.1-dev: 4 MB a prompt


class PromptCache:
    """Bounded in bytes, least recently used first out; keyed by the prompt and by which encoders read it. Safe for threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._embeds: ByteLru[PromptEmbeds] = ByteLru(limit)
        self._fingerprints: dict[Path, str] = {}
        self._lock = threading.Lock()

    def embeds(self, base: BaseModel, prompt: str) -> PromptEmbeds:
        with self._lock:
            key = f"{self._fingerprint(base)} {base.dtype} {prompt}"
            found = self._embeds.get(key)
            if found is None:
                found = encode_prompts(base, [prompt])
                self._embeds.put(key, found, found.prompt_embeds.nbytes + found.pooled_prompt_embeds.nbytes)
            return found

    def _fingerprint(self, base: BaseModel) -> str:
        if base.folder not in self._fingerprints:
            self._fingerprints[base.folder] = encoders_fingerprint(base)
        return self._fingerprints[base.folder]


def encoders_fingerprint(base: BaseModel) -> str:
    """Digest of the encoders' and tokenizers' files: small ones whole, of weights their size and first megabyte."""
    digest = hashlib.sha256()
    for name in (*base.family.text_encoder_names, *base.family.tokenizer_names):
        for path in sorted((base.folder / name).glob("*")):
            digest.update(f"{name}/{path.name}:{path.stat().st_size}:".encode())
            with path.open("rb") as file:
                digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]

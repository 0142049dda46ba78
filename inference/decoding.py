"""Latents to pictures beside the next picture's steps: on a GPU the VAE works in a thread and stream of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL import Image

from diffusion.latents import decode_latents, to_images
from diffusion.loading import BaseModel


class Decoder:
    def __init__(self, base: BaseModel) -> None:
        self.base = base
        beside = base.device.type == "cuda" and "vae" not in base.offloaded  # on a CPU it would take the cores that the steps need
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode") if beside else None
        self._stream: torch.cuda.Stream | None = None

    def submit(self, latents: torch.Tensor) -> Callable[[], list[Image.Image]]:
        """Normalised latents [B, C, h, w]; call the answer for the pictures. Each is decoded alone, so none depends on its neighbours."""
        if self._thread is None:
            images = [image for row in latents.split(1) for image in self._decode(row)]
            return lambda: images
        ready = torch.cuda.Event()
        ready.record(torch.cuda.current_stream(self.base.device))
        futures = [self._thread.submit(self._decode_beside, row, ready) for row in latents.split(1)]
        return lambda: [image for future in futures for image in _result(future)]

    def _decode_beside(self, latents: torch.Tensor, ready: torch.cuda.Event) -> list[Image.Image]:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.base.device)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            latents.record_stream(self._stream)
            return self._decode(latents)

    def _decode(self, latents: torch.Tensor) -> list[Image.Image]:
        return to_images(decode_latents(self.base, latents))


def _result(future: Future[list[Image.Image]]) -> list[Image.Image]:
    return future.result()

"""Encoders that see what a test says: pictures carry what they show in ``info``."""

import hashlib

import numpy as np
import torch
from PIL import Image

from trainer.photos import TrainingPhoto


def photo(number: int, shows: str = "miso", name: str = "", description: str = "", looks_like: int | None = None) -> TrainingPhoto:
    """``shows`` is what encoders see; ``looks_like`` makes its pixels nearly those of another number."""
    image = blocks(number if looks_like is None else looks_like)
    if looks_like is not None:
        image.putpixel((0, 0), (number % 256, 0, 0))
    image.info["shows"] = shows
    return TrainingPhoto(f"{number:064x}", name or f"{number}.jpg", image, description)


def blocks(seed: int) -> Image.Image:
    """A picture that no other seed's resembles, in pixels or in hash."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((72, 72), Image.Resampling.NEAREST)


def word_vector(text: str, size: int = 8192) -> torch.Tensor:
    """Unit vector of a bag of words: texts that share words are near each other."""
    vector = torch.zeros(size)
    for word in text.replace(",", " ").split():
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % size] += 1
    return torch.nn.functional.normalize(vector, dim=0)


class FakeIdentity:
    """Vectors by what a picture shows, each with a little of its own."""

    id = "fake-identity"

    def __init__(self, own: float = 0.2) -> None:
        self.own = own

    def embed(self, images: list[Image.Image]) -> torch.Tensor:
        rows = [word_vector(image.info["shows"]) + self.own * word_vector(f"picture-{i}") for i, image in enumerate(images)]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


class FakeTextImage:
    id = "fake-text-image"
    temperature = 100.0

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([word_vector(text) for text in texts])

    embed_kept = embed_texts

    def embed_images(self, images: list[Image.Image]) -> torch.Tensor:
        return torch.stack([word_vector(image.info["shows"]) for image in images])

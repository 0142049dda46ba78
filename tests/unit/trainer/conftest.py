from pathlib import Path

import pytest
from PIL import Image

from diffusion.loading import BaseModel, load_base
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from tests.tiny import build_tiny_flux
from tests.tiny_encoders import build_tiny_clip, build_tiny_dino
from trainer.bench import Bench
from trainer.caches import CaptionedPhoto, TrainingCache, build_cache
from trainer.recipe import Recipe


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(build_tiny_flux(tmp_path_factory.mktemp("tiny") / "flux"), precision="fp32", device="cpu")


def stripes(number: int, size: tuple[int, int] = (40, 48)) -> Image.Image:
    """A picture of its own for every number: a diagonal of colours."""
    image = Image.new("RGB", size)
    image.putdata(
        [((x * 5 + number * 40) % 256, (y * 5 + number * 20) % 256, (x * y + number) % 256) for y in range(size[1]) for x in range(size[0])]
    )
    return image


@pytest.fixture(scope="session")
def cache(base: BaseModel) -> TrainingCache:
    photos = [CaptionedPhoto(f"{n:064x}", stripes(n), f"a photo of zokzex cat, number {n}") for n in range(5)]
    return build_cache(base, photos, base.resolution)


@pytest.fixture
def recipe(base: BaseModel, cache: TrainingCache) -> Recipe:
    return Recipe.for_run(len(cache), base, {"checkpoint_every": 2})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture(scope="session")
def bench(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """With a base of its own: a bench keeps slots on it."""
    folder = tmp_path_factory.mktemp("encoders")
    own = load_base(base.folder, precision="fp32", device="cpu")
    identity, text_image = build_tiny_dino(folder / "dino"), build_tiny_clip(folder / "clip")
    return Bench(own, load_identity_encoder(identity), load_text_image_encoder(text_image))

import numpy as np
import pytest
import torch
from PIL import Image

from core.styles import Style
from diffusion.loading import load_base
from lab.pictures import Catalogue, Judged
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from tests.tiny import build_tiny_flux
from tests.tiny_encoders import build_tiny_clip, build_tiny_dino
from trainer.bench import Bench


def photo(seed, side=48):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    base = load_base(build_tiny_flux(folder / "flux"), precision="fp32", device="cpu")
    dino, clip = build_tiny_dino(folder / "dino"), build_tiny_clip(folder / "clip")
    return Bench(base, load_identity_encoder(dino), load_text_image_encoder(clip))


@pytest.fixture(scope="session")
def pictures():
    names = {"photo": "a photo of {subject}", "oil": "an oil painting of {subject}"}
    styles = [Style(name=name, title=name.title(), prompt=prompt, num_inference_steps=2) for name, prompt in names.items()]
    return Catalogue(styles)


@pytest.fixture
def judged():
    """Pictures whose cosine to the first axis is what the test says."""

    def make(cosines, fidelity=0.3, images=None):
        embeds = torch.tensor([[c, (1 - c * c) ** 0.5, 0.0] for c in cosines])
        return Judged(images or [photo(900 + n) for n in range(len(cosines))], embeds, [fidelity] * len(cosines), [1.0] * len(cosines))

    return make

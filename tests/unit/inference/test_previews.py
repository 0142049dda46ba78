import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from core.settings import Settings
from diffusion.latents import encode_images
from diffusion.loading import load_base
from inference.previews import EVERY_S, SIDE, Previewer, Projection, colour_fields, data_url, estimate
from inference.requests import RenderRequest


@pytest.fixture(scope="module")
def miniature():
    return load_base(Settings(_env_file=None).base_model_path, precision="fp32", device="cpu")


def test_a_preview_of_the_miniature_has_the_pictures_colours(miniature):
    projection = Projection.fit(miniature)
    assert projection.explained > 0.8
    unseen = colour_fields(3, 256, seed=99)[2:3]
    preview = projection.draw(encode_images(miniature, unseen))
    wanted = avg_pool2d(unseen, unseen.shape[-1] // preview.height)[0].movedim(0, -1).numpy()
    got = np.asarray(preview) / 127.5 - 1
    assert np.abs(got - wanted).mean() < 0.15 < np.abs(got - wanted[::-1]).mean()


def test_previews_are_small(miniature):
    projection = Projection.fit(miniature)
    wide = projection.draw(torch.randn(1, miniature.vae.config.latent_channels, 64, 128))
    assert wide.size == (SIDE, SIDE // 2)
    url = data_url(wide)
    assert len(url) < 4000
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == wide.size


def test_the_estimate_undoes_an_euler_step():
    clean, noise = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    at = {sigma: (1 - sigma) * clean + sigma * noise for sigma in (0.9, 0.6)}
    assert torch.allclose(estimate(at[0.9], at[0.6], 0.9, 0.6), clean, atol=1e-5)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Sigmas:
    sigmas = torch.linspace(1, 0, 11)


def test_previews_come_now_and_then_and_never_before_the_second_step():
    shown, clock = [], Clock()
    previewer = Previewer(Projection(torch.zeros(5, 3), 1.0), lambda tokens: tokens.view(1, 4, 2, 2), shown.append, clock)
    drawn_at = []
    for step in range(10):
        clock.now += EVERY_S / 2 + 0.01
        previewer.after_step(Sigmas, step, torch.zeros(1, 4, 4))
        drawn_at.append(len(shown))
    assert drawn_at == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]


def test_showing_previews_changes_no_picture(engine, make_adapter, monkeypatch):
    monkeypatch.setattr("inference.previews.EVERY_S", 0.0)
    request, shown = RenderRequest("a cat", seed=3, num_inference_steps=5), []
    plain = engine.render(request, make_adapter(1))
    watched = engine.render(request, make_adapter(1), on_preview=shown.append)
    assert np.array_equal(np.asarray(plain[0]), np.asarray(watched[0]))
    assert len(shown) == 4

import numpy as np
import pytest
from PIL import Image

from inference.scoring import score_likeness
from metrics.encoders import load_identity_encoder
from metrics.identity import likeness
from tests.tiny_encoders import build_tiny_dino


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_identity_encoder(build_tiny_dino(tmp_path_factory.mktemp("world") / "dino"))


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)) for _ in range(count)]


def card(encoder, photos, base, real):
    reference = encoder.embed(photos).mean(0).tolist()
    return {"reference_embedding": reference, "scores": {"likeness": {"base": base, "real": real}}, "encoders": {"identity": encoder.id}}


def test_the_cards_mean_vector_stands_for_all_photos(encoder):
    photos, images = pictures(5, 0), pictures(3, 1)
    raw = likeness(encoder.embed(images), encoder.embed(photos)).tolist()
    scores = score_likeness(images, card(encoder, photos, base=-1.0, real=1.0), encoder)
    assert scores == pytest.approx([(value + 1) / 2 for value in raw], abs=1e-3)


def test_a_card_of_another_encoder_gives_no_score(encoder):
    other = card(encoder, pictures(3, 0), 0.0, 1.0)
    other["encoders"]["identity"] = "someone/else@00000000"
    assert score_likeness(pictures(2, 1), other, encoder) == [None, None]


@pytest.mark.parametrize("missing", [{}, {"scores": {"likeness": {"base": 0.1, "real": 0.9}}}, {"reference_embedding": [1.0]}])
def test_a_card_without_its_anchors_gives_no_score(encoder, missing):
    assert score_likeness(pictures(2, 1), missing, encoder) == [None, None]


def test_anchors_that_do_not_tell_apart_give_no_score(encoder):
    photos = pictures(3, 0)
    assert score_likeness(photos[:1], card(encoder, photos, base=0.9, real=0.9), encoder) == [None]

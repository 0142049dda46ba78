import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.words import Mode
from inference.modes import find_mode, fit_area
from inference.requests import RenderRequest


def photo(seed=0, size=(60, 40)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def request(mode, **values):
    return RenderRequest("a cat", num_inference_steps=4, mode=mode, **values)


def pixels(images):
    return np.asarray(images[0])


def test_the_reference_photo_decides_the_picture(engine):
    one, again, other = (engine.render(request(Mode.REFERENCE, reference=photo(seed))) for seed in (0, 0, 1))
    assert np.array_equal(pixels(one), pixels(again))
    assert not np.array_equal(pixels(one), pixels(other))


def test_a_reference_gives_what_the_kontext_pipeline_gives(engine):
    square = photo(size=(32, 32))
    ours = engine.render(request(Mode.REFERENCE, reference=square, seed=3))
    pipeline = engine.base.pipeline("reference")
    theirs = pipeline(
        square,
        "a cat",
        width=32,
        height=32,
        max_area=32 * 32,
        _auto_resize=False,
        num_inference_steps=4,
        guidance_scale=3.5,
        max_sequence_length=engine.base.max_text_tokens,
        generator=torch.Generator("cpu").manual_seed(3),
    ).images
    assert np.abs(pixels(ours).astype(int) - pixels(theirs).astype(int)).max() <= 1


def test_a_reference_mode_without_a_photo_says_so(base):
    with pytest.raises(UserError, match="needs a photo"):
        find_mode(base, request(Mode.REFERENCE))


@pytest.mark.parametrize("mode", [Mode.STACKED, Mode.POSE])
def test_a_mode_that_is_not_there_is_refused_with_those_that_are(engine, mode):
    with pytest.raises(UserError, match="text_to_image, reference, two_pass"):
        engine.render(request(mode))


def test_two_passes_use_the_adapter_in_the_first_only(engine, make_adapter):
    adapter = make_adapter(1)
    seen = []
    half, full = (request(Mode.TWO_PASS, options={"strength": strength}) for strength in (0.5, 1.0))
    with_adapter = engine.render(half, adapter, lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert not np.array_equal(pixels(with_adapter), pixels(engine.render(half)))
    # at full strength nothing of the first pass is left, so the second must not know the adapter
    assert np.array_equal(pixels(engine.render(full, adapter)), pixels(engine.render(full)))


def test_two_pass_options_out_of_range_are_refused(engine):
    with pytest.raises(UserError, match="two-pass"):
        engine.render(request(Mode.TWO_PASS, options={"strength": 0}))


@pytest.mark.parametrize(("size", "expected"), [((60, 40), (320, 208)), ((1000, 1000), (256, 256)), ((10, 4000), (16, 5120))])
def test_a_photo_keeps_its_shape_at_the_pictures_area(size, expected):
    assert fit_area(Image.new("RGB", size), 256 * 256).size == expected

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.poses import find_pose
from core.words import Mode
from diffusion.control import add_control
from diffusion.loading import load_base
from inference.engine import Engine
from inference.modes import find_mode, fit_area
from inference.poses import pose_picture
from inference.requests import RenderRequest
from tests.tiny import build_tiny_control

FRONT = "portrait-front"


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


def test_a_mode_that_is_not_there_is_refused_with_those_that_are(engine):
    with pytest.raises(UserError, match="text_to_image, reference, two_pass, stacked"):
        engine.render(request(Mode.POSE))


@pytest.mark.parametrize("mode", [Mode.STACKED, Mode.TWO_PASS])
def test_a_mode_that_needs_a_style_adapter_says_so(engine, mode):
    with pytest.raises(UserError, match="lacks its style adapter"):
        engine.render(request(mode))


@pytest.mark.parametrize(("name", "value"), [("strength", 0), ("first_pass_scale", 2.1), ("strength", "much")])
def test_two_pass_options_out_of_range_are_named(engine, name, value):
    with pytest.raises(UserError) as refused:
        engine.render(request(Mode.TWO_PASS, style_adapter="blueprint", options={name: value}))
    assert refused.value.extra == {"parameter": name}


@pytest.fixture
def posing(tiny_flux, tmp_path):
    """An engine of its own, with a ControlNet that has an effect: untaught, but not zero."""
    base = load_base(tiny_flux, precision="fp32", device="cpu")
    add_control(base, str(build_tiny_control(tmp_path / "control", base.transformer)))
    engine = Engine(base)
    yield engine
    engine.slot.clear()


def test_the_skeleton_decides_the_picture(posing):
    first, again, other = (posing.render(request(Mode.POSE, options={"pose": pose})) for pose in (FRONT, FRONT, "close-up-left"))
    assert np.array_equal(pixels(first), pixels(again))
    assert not np.array_equal(pixels(first), pixels(other))


def test_a_pose_gives_what_the_controlnet_pipeline_gives(posing):
    ours = posing.render(request(Mode.POSE, seed=3, options={"pose": FRONT, "control_scale": 0.7, "control_until": 0.5}))
    theirs = posing.base.pipeline("pose")(
        "a cat",
        control_image=pose_picture(find_pose(FRONT), 32, 32),
        controlnet_conditioning_scale=0.7,
        control_guidance_end=0.5,
        width=32,
        height=32,
        num_inference_steps=4,
        guidance_scale=3.5,
        max_sequence_length=posing.base.max_text_tokens,
        generator=torch.Generator("cpu").manual_seed(3),
    ).images
    assert np.abs(pixels(ours).astype(int) - pixels(theirs).astype(int)).max() <= 1


def test_the_adapter_works_under_a_pose(posing, make_adapter):
    bare, with_adapter = (posing.render(request(Mode.POSE), adapter) for adapter in (None, make_adapter(1)))
    assert not np.array_equal(pixels(bare), pixels(with_adapter))


def test_a_pose_that_is_not_in_the_bank_is_refused(posing):
    with pytest.raises(UserError, match="No such pose"):
        posing.render(request(Mode.POSE, options={"pose": "handstand"}))


def test_a_controlnet_of_another_base_is_refused(tiny_flux, tmp_path):
    base = load_base(tiny_flux, precision="fp32", device="cpu")
    folder = build_tiny_control(tmp_path / "control", base.transformer, joint_attention_dim=24)
    with pytest.raises(UserError, match="joint_attention_dim"):
        add_control(base, str(folder))
    assert base.control is None


@pytest.mark.parametrize(("size", "expected"), [((60, 40), (320, 208)), ((1000, 1000), (256, 256)), ((10, 4000), (16, 5120))])
def test_a_photo_keeps_its_shape_at_the_pictures_area(size, expected):
    assert fit_area(Image.new("RGB", size), 256 * 256).size == expected

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
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


@pytest.mark.parametrize(("name", "value"), [("strength", 0), ("first_pass_scale", 2.1), ("second_pass_scale", -1), ("strength", "much")])
def test_two_pass_options_out_of_range_are_named(engine, name, value):
    with pytest.raises(UserError) as refused:
        engine.render(request(Mode.TWO_PASS, style_adapter="blueprint", options={name: value}))
    assert refused.value.extra == {"parameter": name}


def styled(mode, **values):
    return request(mode, style_adapter="blueprint", **values)


def test_stacked_wears_both_adapters_each_at_its_own_scale(engine, make_adapter):
    subject, style = make_adapter(1), make_adapter(2)

    def drawn(lora_scale, style_scale):
        return engine.render(styled(Mode.STACKED, lora_scale=lora_scale, options={"style_scale": style_scale}), subject, style=style)

    both, only_subject, only_style = drawn(1.0, 0.7), drawn(1.0, 0.0), drawn(0.0, 0.7)
    assert np.array_equal(pixels(only_subject), pixels(engine.render(request(Mode.TEXT_TO_IMAGE), subject)))
    assert np.array_equal(pixels(only_style), pixels(engine.render(styled(Mode.STACKED, options={"style_scale": 0.7}), style=style)))
    assert len({pixels(images).tobytes() for images in (both, only_subject, only_style)}) == 3


def test_stacked_gives_what_diffusers_gives_with_two_adapters(tiny_flux, engine, make_adapter):
    subject, style = make_adapter(1), make_adapter(2)
    ours = engine.render(styled(Mode.STACKED, seed=3, lora_scale=0.9, options={"style_scale": 0.6}), subject, style=style)
    plain = FluxPipeline.from_pretrained(tiny_flux)
    for adapter, name in ((subject, "subject"), (style, "style")):
        plain.load_lora_weights(dict(adapter.state), adapter_name=name)
    plain.set_adapters(["subject", "style"], adapter_weights=[0.9, 0.6])
    theirs = plain(
        "a cat",
        width=32,
        height=32,
        num_inference_steps=4,
        guidance_scale=3.5,
        max_sequence_length=engine.base.max_text_tokens,
        generator=torch.Generator("cpu").manual_seed(3),
    ).images
    assert np.abs(pixels(ours).astype(int) - pixels(theirs).astype(int)).max() <= 2


def test_two_passes_use_the_style_in_the_first_only_and_the_subject_in_both(engine, make_adapter):
    subject, style = make_adapter(1), make_adapter(2)
    seen = []
    half, full = (styled(Mode.TWO_PASS, options={"strength": strength}) for strength in (0.5, 1.0))
    with_both = engine.render(half, subject, lambda done, total: seen.append((done, total)), style=style)
    assert seen == [(n, 6) for n in range(1, 7)]
    assert not np.array_equal(pixels(with_both), pixels(engine.render(half, subject)))
    # at full strength nothing of the first pass is left, so what differs is what the second pass wears
    assert np.array_equal(pixels(engine.render(full, subject, style=style)), pixels(engine.render(full, subject)))
    assert not np.array_equal(pixels(engine.render(full, subject)), pixels(engine.render(full)))


def test_a_style_that_the_base_does_not_know_can_be_kept_in_the_second_pass(engine, make_adapter):
    style = make_adapter(2)

    def drawn(**options):
        return pixels(engine.render(styled(Mode.TWO_PASS, options={"strength": 1.0, **options}), style=style))  # the second pass alone

    assert np.array_equal(drawn(second_pass_scale=0), drawn())
    assert not np.array_equal(drawn(second_pass_scale=0.7), drawn())
    assert np.array_equal(drawn(second_pass_scale=0.7, first_pass_scale=0.1), drawn(second_pass_scale=0.7, first_pass_scale=2.0))


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

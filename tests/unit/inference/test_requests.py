import pytest

from core.errors import UserError
from core.styles import catalogue
from core.words import Mode
from inference.requests import RenderRequest, request_from
from storage.portraits import _recipe


def test_seeds_follow_the_first_and_sides_default_to_the_bases():
    request = RenderRequest("a cat", seed=10, count=3, height=48)
    assert request.seeds == [10, 11, 12]
    assert request.sides(32) == (32, 48)


@pytest.mark.parametrize("style", catalogue().values(), ids=lambda style: style.name)
def test_every_style_of_the_catalogue_can_be_asked_for(style):
    request = request_from("a cat", 1, 1, _recipe(style))
    assert (request.mode, request.lora_scale) == (style.mode, style.lora_scale)
    assert request.options == style.options


def test_what_no_field_knows_is_the_modes_option():
    request = request_from("a cat", 1, 1, {"mode": "two_pass", "strength": 0.8, "width": None})
    assert (request.mode, request.options, request.width) == (Mode.TWO_PASS, {"strength": 0.8}, 0)


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({"mode": "hologram"}, "mode"),
        ({"width": 100}, "width"),
        ({"height": 4096}, "height"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": 50}, "guidance_scale"),
        ({"lora_scale": -1}, "lora_scale"),
    ],
)
def test_a_parameter_out_of_range_is_named(params, parameter):
    with pytest.raises(UserError) as refused:
        request_from("a cat", 1, 1, params)
    assert refused.value.extra == {"parameter": parameter}
    assert refused.value.detail

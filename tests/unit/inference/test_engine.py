import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from core.errors import JobCanceled
from diffusion import lora
from diffusion.loading import load_base
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.slot import IDENTITY

REQUEST = RenderRequest("a photo of a cat", seed=7, num_inference_steps=3)


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


def same(one, other):
    return np.array_equal(pixels(one), pixels(other))


def test_swapping_back_gives_the_pixels_of_a_base_that_never_saw_an_adapter(engine, tiny_flux, make_adapter):
    fresh = Engine(load_base(tiny_flux, precision="fp32", device="cpu")).render(REQUEST)
    first, second = engine.render(REQUEST, make_adapter(1)), engine.render(REQUEST, make_adapter(2))
    assert not same(first, second)
    assert not same(first, fresh)
    assert same(engine.render(REQUEST), fresh)


@pytest.mark.parametrize("between", [{}, {"rank": 8}, {"target_set": "attention"}, {"dtype": torch.bfloat16}])
def test_an_adapter_looks_the_same_whatever_was_in_the_slot_before(engine, make_adapter, between):
    alone = engine.render(REQUEST, make_adapter(1))
    engine.render(REQUEST, make_adapter(2, **between))
    assert same(engine.render(REQUEST, make_adapter(1)), alone)


def test_outside_of_a_render_the_transformer_is_the_bare_base(engine, make_adapter):
    layers = dict(engine.base.transformer.named_modules())
    engine.render(REQUEST, make_adapter(1))
    assert dict(engine.base.transformer.named_modules()) == layers


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp32", torch.bfloat16), ("bf16", torch.bfloat16)])
def test_plain_diffusers_loads_the_file_and_gives_our_pixels(tiny_flux, make_adapter, tmp_path, precision, dtype):
    engine = Engine(load_base(tiny_flux, precision=precision, device="cpu"))
    adapter = make_adapter(3, dtype=dtype)
    lora.save(tmp_path / "adapter.safetensors", adapter.state, {})
    engine.render(REQUEST, make_adapter(4, dtype=dtype))  # ours comes through a copy into a used slot
    ours = engine.render(REQUEST, adapter)

    plain = FluxPipeline.from_pretrained(tiny_flux, dtype=engine.base.dtype)
    plain.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    theirs = plain(
        REQUEST.prompt,
        width=engine.base.resolution,
        height=engine.base.resolution,
        num_inference_steps=3,
        guidance_scale=REQUEST.resolved({}).guidance_scale,
        max_sequence_length=engine.base.max_text_tokens,
        generator=torch.Generator("cpu").manual_seed(REQUEST.seed),
    ).images
    difference = np.abs(pixels(ours).astype(int) - pixels(theirs).astype(int))
    # the products are the same, their order of rounding is not; bf16 pictures of a random net differ by a few levels here and there
    assert difference.max() <= (1 if precision == "fp32" else 12) and difference.mean() < 1
    assert not same(ours, engine.render(REQUEST))


def test_scale_0_is_the_base_and_scale_changes_the_picture(engine, make_adapter):
    adapter = make_adapter(1)
    at = {scale: engine.render(RenderRequest("a cat", num_inference_steps=2, lora_scale=scale), adapter) for scale in (0.0, 0.5, 1.0)}
    assert same(at[0.0], engine.render(RenderRequest("a cat", num_inference_steps=2)))
    assert not same(at[0.5], at[1.0])


def test_picture_n_is_the_same_whatever_it_is_asked_for_with(engine):
    three = engine.render(RenderRequest("a cat", seed=5, count=3, num_inference_steps=2))
    last = engine.render(RenderRequest("a cat", seed=7, num_inference_steps=2))
    assert same(three[2:], last)
    assert not same(three[:1], last)


def test_every_step_is_reported_and_what_the_report_raises_stops_the_render(engine, make_adapter):
    seen = []
    engine.render(RenderRequest("a cat", count=2, num_inference_steps=3), on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]

    def cancel(done, total):
        if done == 2:
            raise JobCanceled

    before = engine.render(REQUEST, make_adapter(1))
    with pytest.raises(JobCanceled):
        engine.render(REQUEST, make_adapter(2), cancel)
    assert same(engine.render(REQUEST, make_adapter(1)), before)


def test_a_prompt_is_encoded_once(engine):
    calls = []
    handle = engine.base.parts["text_encoder_2"].register_forward_hook(lambda *args: calls.append(1))
    for seed in (1, 2):
        engine.render(RenderRequest("a prompt seen twice", seed=seed, num_inference_steps=1))
    handle.remove()
    assert len(calls) == 1


def test_an_erased_adapter_leaves_the_transformer(engine, make_adapter):
    adapter = make_adapter(1)
    bare = engine.render(REQUEST)
    engine.render(REQUEST, adapter)
    engine.forget({"another"})
    assert engine.slot.held[IDENTITY] == adapter.id
    engine.forget({adapter.id})
    assert not engine.slot._slots.weights.any()
    assert same(engine.render(REQUEST), bare)


def test_sizes_other_than_the_base_models_own(engine):
    assert engine.render(RenderRequest("a cat", width=64, height=32, num_inference_steps=1))[0].size == (64, 32)

"""Swapping adapters, and the failures that diffusers' own hotswap is known for."""

import threading

import numpy as np
import pytest
import torch

from core.errors import UserError
from diffusion import lora
from diffusion.fp8 import Fp8Linear
from diffusion.loading import load_base
from inference.engine import Engine
from inference.loaded import LoadedAdapter
from inference.merging import Merging, _store_rows, add_products, can_merge
from inference.requests import RenderRequest
from inference.slot import read_adapter

REQUEST = RenderRequest("a photo of a cat", seed=7, num_inference_steps=3)
STACKED = RenderRequest("a photo of a cat", seed=7, num_inference_steps=3, options={"style_scale": 0.5})


def pixels(images):
    return np.stack([np.asarray(image) for image in images]).astype(int)


def same(one, other):
    return np.array_equal(pixels(one), pixels(other))


def scaled(adapter, factor):
    state = {key: weight * factor if ".lora_B." in key else weight for key, weight in adapter.state.items()}
    return LoadedAdapter(f"{adapter.id} x {factor}", state)


def stacked(one, other):
    """Both in one adapter of twice the rank."""
    return LoadedAdapter("both", {key: torch.cat([one.state[key], other.state[key]], 0 if "lora_A" in key else 1) for key in one.state})


@pytest.fixture
def merging_engine(base):
    engine = Engine(base, merging=Merging(base, from_steps=1))
    yield engine
    engine.slot.clear()


# Two slots


def test_identity_and_style_add_up_each_at_its_own_scale(engine, make_adapter):
    identity, style = make_adapter(1), make_adapter(2)
    both = engine.render(STACKED, identity, style=style)
    assert np.abs(pixels(both) - pixels(engine.render(REQUEST, stacked(identity, scaled(style, 0.5))))).max() <= 1
    assert not same(both, engine.render(REQUEST, identity, style=style))


def test_a_style_alone_and_an_identity_alone_do_not_see_each_other(engine, make_adapter):
    alone, style_alone = engine.render(REQUEST, make_adapter(1)), engine.render(REQUEST, style=make_adapter(2))
    engine.render(STACKED, make_adapter(1), style=make_adapter(2))
    assert same(engine.render(REQUEST, make_adapter(1)), alone)
    assert same(engine.render(REQUEST, style=make_adapter(2)), style_alone)
    assert np.abs(pixels(style_alone) - pixels(engine.render(REQUEST, make_adapter(2)))).max() <= 1


# What hotswap gets wrong


def test_a_refused_adapter_leaves_the_one_in_the_slot_alone(engine, make_adapter, tmp_path):
    good = make_adapter(1)
    before = engine.render(REQUEST, good)
    bad = {key: torch.full_like(weight, float("nan")) for key, weight in make_adapter(2).state.items()}
    with pytest.raises(UserError):
        read_adapter(engine.base, lora.save(tmp_path / "bad.safetensors", bad, {}), "bad")
    assert same(engine.render(REQUEST, good), before)


def test_every_adapter_is_prepared_not_the_first_alone(engine, make_adapter):
    """The second has other modules and a larger rank than the first; each looks as it does in a fresh engine."""
    adapters = [make_adapter(1, rank=2, target_set="attention"), make_adapter(2, rank=8), make_adapter(3, rank=1)]
    fresh = [Engine(engine.base).render(REQUEST, adapter) for adapter in adapters]
    for n in (0, 1, 2, 0, 2, 1):
        assert same(engine.render(REQUEST, adapters[n]), fresh[n])


def test_a_name_inside_another_name_means_nothing(engine, make_adapter):
    user2 = LoadedAdapter("user2", make_adapter(2).state)
    before = engine.render(REQUEST, user2)
    engine.forget({"user"})
    assert engine.held == {"user2"}
    assert same(engine.render(REQUEST, user2), before)


def test_the_scale_is_right_after_a_swap_between_adapters_of_other_alpha_and_rank(engine, make_adapter, tmp_path):
    half = RenderRequest("a photo of a cat", seed=7, num_inference_steps=3, lora_scale=0.5)
    plain = make_adapter(1)
    with_alpha = dict(plain.state)
    for key in plain.state:
        with_alpha[f"{key.rpartition('.lora_')[0]}.alpha"] = torch.tensor(8.0)  # rank 4: twice the strength
    path = lora.save(tmp_path / "alpha.safetensors", with_alpha, {})
    expected = Engine(engine.base).render(half, scaled(plain, 2.0))
    engine.render(half, make_adapter(2, rank=8))
    assert same(engine.render(half, read_adapter(engine.base, path, "alpha")), expected)


def test_text_encoder_keys_are_left_out_before_anything_is_swapped(engine, make_adapter, tmp_path):
    plain = make_adapter(1)
    extra = {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 16)}
    path = lora.save(tmp_path / "text.safetensors", {**plain.state, **extra}, {})
    loaded = read_adapter(engine.base, path, "with text")
    assert set(loaded.state) == set(plain.state)
    assert same(engine.render(REQUEST, loaded), engine.render(REQUEST, plain))


def test_a_swap_keeps_the_storage_and_a_larger_rank_moves_it_once(engine, make_adapter):
    where = []
    for adapter in (make_adapter(1), make_adapter(2, rank=32), make_adapter(3, rank=33), make_adapter(4, rank=64), make_adapter(1)):
        engine.render(REQUEST, adapter)
        where.append(engine.slot._slots.weights.data_ptr())
    assert where[0] == where[1] != where[2] == where[3] == where[4]
    assert engine.slot.rank == 64


def test_swapping_recompiles_nothing(base, make_adapter):
    """Compiled without code generation: what is counted is graphs, and they are the same for every backend."""
    torch._dynamo.reset()
    engine, graphs = Engine(base), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    blocks = [*base.transformer.transformer_blocks, *base.transformer.single_transformer_blocks]
    for block in blocks:
        block.compile(backend=count, fullgraph=True)
    try:
        engine.render(REQUEST)
        engine.render(REQUEST, make_adapter(1))
        engine.render(STACKED, make_adapter(1), style=make_adapter(2))
        warmed = len(graphs)
        for seed in range(3, 9):
            engine.render(
                RenderRequest("another cat", seed=seed, num_inference_steps=2, lora_scale=seed / 10), make_adapter(seed, rank=seed)
            )
            engine.render(REQUEST)
            engine.render(STACKED, make_adapter(seed), style=make_adapter(seed + 1, target_set="attention"))
        assert len(graphs) == warmed > 0
    finally:
        for block in blocks:
            block._compiled_call_impl = None
        engine.slot.clear()


# Folding into the weights


def test_folded_looks_like_unfolded_and_the_base_comes_back_bit_for_bit(merging_engine, engine, make_adapter):
    bare = engine.render(REQUEST)
    unfolded = engine.render(REQUEST, make_adapter(1))
    weights = {name: weight.clone() for name, weight in engine.base.transformer.state_dict().items()}
    folded = merging_engine.render(REQUEST, make_adapter(1))
    assert np.abs(pixels(folded) - pixels(unfolded)).max() <= 1
    assert any(not torch.equal(weight, weights[name]) for name, weight in engine.base.transformer.state_dict().items())
    assert same(merging_engine.render(REQUEST), bare)
    assert all(torch.equal(weight, weights[name]) for name, weight in engine.base.transformer.state_dict().items())


def test_folding_one_after_another_does_not_drift(merging_engine, make_adapter):
    first = merging_engine.render(REQUEST, make_adapter(1))
    for seed in range(2, 6):
        merging_engine.render(STACKED, make_adapter(seed), style=make_adapter(seed + 1))
    assert same(merging_engine.render(REQUEST, make_adapter(1)), first)


def test_both_slots_fold(merging_engine, engine, make_adapter):
    expected = engine.render(STACKED, make_adapter(1), style=make_adapter(2))
    assert np.abs(pixels(merging_engine.render(STACKED, make_adapter(1), style=make_adapter(2))) - pixels(expected)).max() <= 1


def test_few_steps_are_not_worth_a_fold(base, make_adapter):
    engine = Engine(base, merging=Merging(base, from_steps=4))
    engine.render(REQUEST, make_adapter(1))
    assert engine.slot.merging.folded == ()
    engine.render(RenderRequest("a cat", num_inference_steps=4), make_adapter(1))
    assert len(engine.slot.merging.folded) == 1
    engine.slot.clear()
    assert engine.slot.merging.folded == ()


def test_an_erased_adapter_leaves_the_weights(merging_engine, make_adapter):
    bare = merging_engine.render(REQUEST)
    adapter = make_adapter(1)
    merging_engine.render(REQUEST, adapter)
    merging_engine.forget({adapter.id})
    assert merging_engine.slot.merging.folded == ()
    assert same(merging_engine.render(REQUEST), bare)


def test_a_fold_that_fails_halfway_is_not_taken_for_the_base(merging_engine, make_adapter, monkeypatch):
    bare = merging_engine.render(REQUEST)
    merging_engine.render(REQUEST, make_adapter(1))
    monkeypatch.setattr("inference.merging.add_products", break_after(3))
    with pytest.raises(MemoryError):
        merging_engine.render(REQUEST, make_adapter(2))
    assert same(merging_engine.render(REQUEST), bare)


def break_after(count):
    calls = []

    def breaking(*args, out):
        calls.append(1)
        if len(calls) > count:
            raise MemoryError
        add_products(*args, out=out)

    return breaking


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fold_is_rounded_once(dtype):
    generator = torch.Generator().manual_seed(0)
    pristine, down, up = (torch.randn(size, generator=generator).to(dtype) for size in ((64, 48), (8, 48), (64, 8)))
    out = torch.empty_like(pristine)
    exact = pristine.double() + 0.7 * (up.double() @ down.double())
    half_unit = torch.finfo(dtype).eps * exact.abs() * 1.01 + 1e-6
    for pairs in ([(down, up, 0.7)], [(down, up, 0.3), (down, up, 0.4)]):
        add_products(pristine, pairs, out=out)
        assert ((out.double() - exact).abs() <= half_unit).all()


def test_quantised_layers_are_not_folded(base):
    names = base.family.lora_modules(base.transformer, "blocks")
    assert can_merge(base, names)

    class Quantised(torch.nn.Linear):
        pass

    parent, _, leaf = names[0].rpartition(".")
    layer = getattr(base.transformer.get_submodule(parent), leaf)
    layer.__class__ = Quantised
    assert not can_merge(base, names)
    layer.__class__ = torch.nn.Linear


def test_an_fp8_base_is_folded_from_its_wide_weights_and_comes_back_bit_for_bit(tiny_flux, make_adapter):
    base = load_base(tiny_flux, precision="fp8", device="cpu")
    layers = [layer for layer in base.transformer.modules() if isinstance(layer, Fp8Linear)]
    before = [(layer.dequantised(), layer.scale.clone()) for layer in layers]
    assert layers and can_merge(base, base.family.lora_modules(base.transformer, "blocks"))
    engine, folding = Engine(base), Engine(base, merging=Merging(base, from_steps=1))
    bare, unfolded = engine.render(REQUEST), engine.render(REQUEST, make_adapter(1))
    folded = folding.render(REQUEST, make_adapter(1))
    assert np.abs(pixels(folded) - pixels(unfolded)).mean() < 0.5 * np.abs(pixels(bare) - pixels(unfolded)).mean()
    assert same(folding.render(REQUEST), bare)
    for (weight, scale), layer in zip(before, layers, strict=True):
        assert torch.equal(weight, layer.dequantised()) and torch.equal(scale, layer.scale)


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_a_fold_leaves_other_layers_alone_and_takes_its_own_back(tiny_flux, make_adapter, precision):
    base = load_base(tiny_flux, precision=precision, device="cpu")
    before = {name: weight.clone() for name, weight in base.transformer.state_dict().items()}
    first, second = (only(make_adapter(seed), part) for seed, part in ((1, ".attn."), (2, ".ff")))
    folding, fresh = Engine(base, merging=Merging(base, from_steps=1)), Engine(load_base(tiny_flux, precision=precision, device="cpu"))
    fresh.slot.merging = Merging(fresh.base, from_steps=1)
    folding.render(REQUEST, first)
    assert same(folding.render(REQUEST, second), fresh.render(REQUEST, second))
    changed = {name for name, weight in base.transformer.state_dict().items() if not same_bits(weight, before[name])}
    assert changed and not any(".attn." in name for name in changed)
    folding.slot.restore()
    assert all(same_bits(weight, before[name]) for name, weight in base.transformer.state_dict().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_recorded_fold_gives_what_launches_one_by_one_give(tiny_flux, make_adapter, precision):
    bases = [load_base(tiny_flux, precision=precision, device="cuda") for _ in range(2)]
    recorded, plain = (Engine(base, merging=Merging(base, from_steps=1)) for base in bases)
    plain.slot.merging._recorded._able = False
    for number in (1, 2, 3, 1, 4, 2):
        for engine in (recorded, plain):
            engine.put_on(only(make_adapter(number), ".attn.") if number == 4 else make_adapter(number), 3)
        mine, theirs = (base.transformer.state_dict() for base in bases)
        assert all(same_bits(weight, theirs[name]) for name, weight in mine.items())
    assert recorded.slot.merging._recorded._graphs and not plain.slot.merging._recorded._graphs


def only(adapter, part):
    """Its layers whose names hold ``part``."""
    return LoadedAdapter(f"{adapter.id} {part}", {key: weight for key, weight in adapter.state.items() if part in key})


def same_bits(one, other):
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def test_renders_from_several_threads_do_not_mix(engine, make_adapter):
    alone = {seed: engine.render(REQUEST, make_adapter(seed)) for seed in (1, 2, 3)}
    drawn = {}

    def draw(seed):
        for _ in range(3):
            drawn.setdefault(seed, []).append(engine.render(REQUEST, make_adapter(seed)))

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(same(picture, alone[seed]) for seed, pictures in drawn.items() for picture in pictures)
    assert sorted(len(pictures) for pictures in drawn.values()) == [3, 3, 3]


def test_rows_are_stored_in_fp8_as_the_base_itself_is(base):
    linear = torch.nn.Linear(64, 48)
    layer, other = Fp8Linear(linear), Fp8Linear(linear)
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    _store_rows(layer, weight)
    other.store_(weight)
    assert torch.allclose(layer.dequantised(), other.dequantised(), rtol=0.13, atol=1e-6)
    assert (layer.dequantised() != other.dequantised()).float().mean() < 0.02
    assert torch.equal(layer.fp8_t.float(), layer.fp8.t().float())
    assert torch.allclose(layer.dequantised(), weight, rtol=0.07, atol=0.02)

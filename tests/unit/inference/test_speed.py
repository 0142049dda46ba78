"""What makes renders fast must not change them: prompt cache, batches, step cache."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.errors import UserError
from inference.batching import BatchProbe, Trial, in_batches
from inference.engine import Engine
from inference.prompts import PromptCache, encoders_fingerprint
from inference.requests import RenderRequest

REQUEST = RenderRequest("a photo of a cat", seed=7, num_inference_steps=6)


def same(one, other):
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


class CountedEncoder:
    def __init__(self, base):
        self.passes = 0
        self.handle = base.parts["text_encoder_2"].register_forward_hook(self._count)

    def _count(self, *args):
        self.passes += 1


@pytest.fixture
def encoder(base):
    counted = CountedEncoder(base)
    yield counted
    counted.handle.remove()


def test_one_prompt_cache_serves_all_engines_of_a_process(base, encoder):
    prompts = PromptCache()
    for _ in range(2):
        Engine(base, prompts=prompts).render(RenderRequest("a shared prompt", num_inference_steps=1))
    assert encoder.passes == 1


def test_the_prompt_cache_is_bounded(base, encoder):
    size = PromptCache().embeds(base, "one")
    prompts = PromptCache(int(2.5 * (size.prompt_embeds.nbytes + size.pooled_prompt_embeds.nbytes)))
    encoder.passes = 0
    for prompt in ("one", "two", "three", "three", "two", "one"):
        prompts.embeds(base, prompt)
    assert encoder.passes == 4


def test_other_encoders_have_another_fingerprint(base, tmp_path):
    before = encoders_fingerprint(base)
    assert before == encoders_fingerprint(base)
    copied = _copy(base, tmp_path)
    assert encoders_fingerprint(copied) == before
    weights = next((copied.folder / "text_encoder_2").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    assert encoders_fingerprint(copied) != before


def _copy(base, folder):
    import shutil
    from dataclasses import replace

    shutil.copytree(base.folder, folder / "flux")
    return replace(base, folder=folder / "flux")


def test_whole_batches_then_one_by_one():
    assert in_batches([1, 2, 3, 4, 5], 2) == [(1, 2), (3, 4), (5,)]
    assert in_batches([1, 2, 3], 4) == [(1,), (2,), (3,)]
    assert in_batches([1, 2], 1) == [(1,), (2,)]


class FakeTransformer:
    """Answers rows as they are; ``drift`` is what a larger batch changes, in the passes that are in ``drifts`` (of each batch size)."""

    def __init__(self, base, drift, drifts):
        self.config, self.drift, self.drifts, self.passes = base.transformer.config, drift, drifts, []

    def __call__(self, hidden_states, **_):
        size = len(hidden_states)
        self.passes.append(size)
        return (hidden_states + (self.drift if size > 1 and self.passes.count(size) in self.drifts else 0),)


class FakeBase:
    def __init__(self, base, transformer):
        self.family, self.device, self.dtype, self.transformer = base.family, base.device, base.dtype, transformer


def probe(base, monkeypatch, drift, seconds, drifts=range(1, 1000)):
    transformer = FakeTransformer(base, drift, drifts)
    found = BatchProbe(FakeBase(base, transformer))
    monkeypatch.setattr(Trial, "_seconds", lambda self, work: (work(), seconds[transformer.passes[-1]])[1])
    return found, PromptCache().embeds(base, "a cat"), transformer


def answers(found, text, count=40):
    return [found.size(8, 4, 4, text, "variant") for _ in range(count)]


@pytest.mark.parametrize(
    ("drift", "seconds", "expected"),
    [
        (0.0, {1: 1.0, 2: 1.5, 3: 2.0, 4: 3.0}, 4),
        (0.0, {1: 1.0, 2: 1.5, 3: 2.9, 4: 4.0}, 2),
        (0.0, {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}, 1),
        (1e-6, {1: 1.0, 2: 0.5, 3: 0.5, 4: 0.5}, 1),
    ],
)
def test_a_batch_must_be_exact_and_faster(base, monkeypatch, drift, seconds, expected):
    found, text, transformer = probe(base, monkeypatch, drift, seconds)
    assert answers(found, text)[-1] == expected
    passes = len(transformer.passes)
    assert found.size(8, 4, 4, text, "variant") == expected
    assert len(transformer.passes) == passes  # asked once


def test_a_small_model_proves_a_batch_over_several_requests(base, monkeypatch):
    """One pass by itself shows little: rounding hides in most of them that sums were taken in another order."""
    found, text, transformer = probe(base, monkeypatch, 0.0, {1: 1.0, 2: 0.5, 3: 0.5, 4: 0.5})
    assert answers(found, text) == [1] * 15 + [4] * 25
    assert transformer.passes.count(4) == 32 + 1  # and one to time it


def test_a_size_that_differs_once_is_out_and_the_next_must_show_as_much(base, monkeypatch):
    found, text, transformer = probe(base, monkeypatch, 1e-6, {1: 1.0, 2: 0.5, 3: 0.5, 4: 0.5}, drifts={21})
    assert answers(found, text, 12)[-1] == 1 and 4 in transformer.passes and 3 in transformer.passes and 2 not in transformer.passes
    assert answers(found, text)[-1] == 1 and transformer.passes.count(2) == 21


def test_a_smaller_batch_is_not_asked_for_while_the_larger_agrees(base, monkeypatch):
    """Each size is a graph to compile on a GPU."""
    found, text, transformer = probe(base, monkeypatch, 0.0, {1: 1.0, 2: 0.5, 3: 0.5, 4: 0.5})
    answers(found, text)
    assert set(transformer.passes) == {1, 4}


def test_a_large_model_needs_few_passes(base):
    flux = {"num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 19, "num_single_layers": 38}
    large = FakeBase(base, SimpleNamespace(config=SimpleNamespace(**flux)))
    assert BatchProbe(large)._passes(1024 + 64) == 2
    assert 25 < BatchProbe(base)._passes(256 + 64) <= 32


def test_what_the_probe_settles_on_is_exact(engine, make_adapter):
    """With the kernels of this machine, whichever they are."""
    request = RenderRequest("a cat", seed=3, count=3, num_inference_steps=8)
    for _ in range(64):
        engine.render(replace(request, num_inference_steps=1), make_adapter(1))
        if all(trial.over for trial in engine._batches._trials.values()):
            break
    (trial,) = engine._batches._trials.values()
    assert trial.over
    alone = [engine.render(replace(request, seed=3 + n, count=1), make_adapter(1))[0] for n in range(3)]
    assert same(engine.render(request, make_adapter(1)), alone)


def test_large_pictures_are_drawn_one_by_one(base, monkeypatch):
    found, text, transformer = probe(base, monkeypatch, 0.0, {1: 1.0, 2: 0.1, 3: 0.1, 4: 0.1})
    assert found.size(4, 128, 128, text, "variant") == 1
    assert transformer.passes == []


def test_a_batch_draws_each_seed_as_alone(engine, make_adapter, monkeypatch):
    """Here with a probe that always agrees: the kernels of this machine may round a batch otherwise, by less than a level."""
    alone = engine.render(RenderRequest("a cat", seed=3, count=4, num_inference_steps=3), make_adapter(1))
    monkeypatch.setattr(engine._batches, "size", lambda *_: 2)
    steps = []
    batched = engine.render(
        RenderRequest("a cat", seed=3, count=4, num_inference_steps=3), make_adapter(1), lambda done, total: steps.append((done, total))
    )
    assert all(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1 for a, b in zip(batched, alone, strict=True))
    assert steps == [(n, 12) for n in range(1, 13)]


def test_step_caching_skips_blocks_only_when_asked(engine, make_adapter):
    passes = []
    handle = engine.base.transformer.single_transformer_blocks[0].attn.register_forward_hook(lambda *_: passes.append(1))
    plain = engine.render(REQUEST, make_adapter(1))
    assert len(passes) == 6
    fast = engine.render(RenderRequest("a photo of a cat", seed=7, num_inference_steps=6, options={"step_cache": 0.3}), make_adapter(1))
    skipped = 12 - len(passes)
    passes.clear()
    assert same(engine.render(REQUEST, make_adapter(1)), plain)
    handle.remove()
    assert skipped > 0 and len(passes) == 6
    assert not same(fast, plain)


def test_step_caching_starts_anew_for_each_picture(engine):
    request = {"num_inference_steps": 6, "options": {"step_cache": 0.3}}
    three = engine.render(RenderRequest("a cat", seed=5, count=3, **request))
    assert same(three[2:], engine.render(RenderRequest("a cat", seed=7, **request)))


def test_step_caching_works_on_compiled_blocks_and_leaves_them_compiled(engine, make_adapter):
    torch._dynamo.reset()
    blocks = [*engine.base.transformer.transformer_blocks, *engine.base.transformer.single_transformer_blocks]
    request = RenderRequest("a photo of a cat", seed=7, num_inference_steps=6, options={"step_cache": 0.3})
    plain = engine.render(request, make_adapter(1))
    for block in blocks:
        block.compile(backend="eager", fullgraph=True)
    try:
        compiled = [block._compiled_call_impl for block in blocks]
        assert same(engine.render(request, make_adapter(1)), plain)
        assert [block._compiled_call_impl for block in blocks] == compiled
        assert all("forward" not in vars(block) for block in blocks)
    finally:
        for block in blocks:
            block._compiled_call_impl = None


@pytest.mark.parametrize("threshold", [-0.1, 0.5])
def test_a_step_cache_out_of_range_is_refused(engine, threshold):
    with pytest.raises(UserError, match="step cache"):
        engine.render(RenderRequest("a cat", num_inference_steps=1, options={"step_cache": threshold}))

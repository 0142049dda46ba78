"""Recordings stand in for passes: the same pictures, whatever changes between replays. On a CPU a fake records, as far as storage goes."""

import numpy as np
import pytest
import torch

from diffusion.loading import load_base
from inference.engine import Engine
from inference.merging import Merging
from inference.replay import KEPT, SEEN_BEFORE, ReplayedSteps
from inference.requests import RenderRequest

STEPS = 4
REQUEST = RenderRequest("a photo of a cat", seed=7, num_inference_steps=STEPS)


class FakeRecording:
    """Reads its inputs and writes its result where it always does, as a CUDA graph does. ``made`` and ``replays`` are counted."""

    made = replays = 0

    def __init__(self, forward, given, pool):
        type(self).made += 1
        self.forward, self.fixed = forward, dict(given)
        self.inputs = {name: value.clone() for name, value in given.items() if isinstance(value, torch.Tensor)}
        self.result = torch.zeros_like(self._compute())

    def replay(self, given):
        type(self).replays += 1
        for name, mine in self.inputs.items():
            mine.copy_(given[name])
        self.result.copy_(self._compute())
        return self.result.clone()

    def _compute(self):
        (result,) = self.forward(**{**self.fixed, **self.inputs})
        return result


class NoRecording:
    tried = 0

    def __init__(self, forward, given, pool):
        type(self).tried += 1
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture
def replaying(engine):
    FakeRecording.made = FakeRecording.replays = NoRecording.tried = 0
    engine._steps = ReplayedSteps(engine.base, lambda: engine.slot.layout, FakeRecording)
    return engine


def same(one, other):
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


def test_pictures_are_those_of_passes_one_by_one(replaying, tiny_flux, make_adapter):
    plain = Engine(load_base(tiny_flux, precision="fp32", device="cpu"))
    for seed, adapter, scale in ((7, None, 1.0), (8, 1, 1.0), (8, 2, 1.0), (9, 1, 0.5), (7, None, 1.0)):
        request = RenderRequest("a photo of a cat", seed=seed, num_inference_steps=STEPS, lora_scale=scale)
        worn = make_adapter(adapter) if adapter else None
        assert same(replaying.render(request, worn), plain.render(request, worn))
    assert FakeRecording.made == 2  # the bare base, and an adapter in its slot: which one is no matter
    assert FakeRecording.replays == 5 * STEPS - 2 * SEEN_BEFORE


def test_a_folded_adapter_is_the_bare_bases_recording(replaying, make_adapter):
    replaying.slot.merging = Merging(replaying.base, from_steps=1)
    drawn = [replaying.render(REQUEST, make_adapter(number)) for number in (1, 2, 1)]
    assert FakeRecording.made == 1 and same(drawn[0], drawn[2]) and not same(drawn[0], drawn[1])


def test_another_shape_is_another_recording_and_few_are_kept(replaying):
    sizes = [(32 + 16 * n, 32) for n in range(KEPT + 1)]
    for width, height in (*sizes, sizes[-1], sizes[0]):
        replaying.render(RenderRequest("a cat", seed=1, num_inference_steps=STEPS, width=width, height=height))
    assert FakeRecording.made == KEPT + 2  # the first was given up for the last
    assert len(replaying._steps._recordings) == KEPT


def test_steps_that_may_be_left_out_are_not_recorded(replaying):
    replaying.render(RenderRequest("a cat", seed=1, num_inference_steps=6, options={"step_cache": 0.1}))
    assert FakeRecording.made == 0


def test_what_a_recording_cannot_hold_is_done_as_it_is(replaying):
    with replaying._drawing(), replaying._steps.in_place():
        assert replaying._steps._forward(lambda **given: given["blocks"], blocks=[1, 2], return_dict=False) == [1, 2]
        assert replaying._steps._forward(lambda x: x, 5) == 5
    assert not replaying._steps._seen


def test_where_nothing_can_be_recorded_pictures_are_drawn_all_the_same(replaying, make_adapter):
    expected = replaying.render(REQUEST, make_adapter(1))
    replaying._steps = ReplayedSteps(replaying.base, lambda: replaying.slot.layout, NoRecording)
    assert all(same(replaying.render(REQUEST, make_adapter(1)), expected) for _ in range(2))
    assert NoRecording.tried == 1


def test_outside_of_a_render_the_transformer_has_its_own_forward(replaying):
    replaying.render(REQUEST)
    assert "forward" not in replaying.base.transformer.__dict__


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("folded", [True, False])
def test_a_cuda_graph_gives_what_launches_one_by_one_give(tiny_flux, make_adapter, precision, folded):
    bases = [load_base(tiny_flux, precision=precision, device="cuda") for _ in range(2)]
    recorded, plain = (Engine(base, merging=Merging(base, from_steps=1) if folded else None) for base in bases)
    plain._steps.record = None
    for number in (1, 2, 0, 1):
        adapter = make_adapter(number) if number else None
        assert same(recorded.render(REQUEST, adapter), plain.render(REQUEST, adapter))
    assert recorded._steps.record is not None and len(recorded._steps._recordings) == (1 if folded else 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_picture_is_the_same_while_text_encoders_are_in_main_memory(tiny_flux, make_adapter):
    """As for a guest of a training that needs their room."""
    base = load_base(tiny_flux, precision="bf16", device="cuda")
    before = Engine(base).render(REQUEST, make_adapter(1))
    assert base.send_away("text_encoders")
    assert same(Engine(base).render(REQUEST, make_adapter(1)), before)
    assert base.offloaded == set(base.text_encoders)

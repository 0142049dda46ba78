import pytest
import torch

from diffusion import compiled
from inference.engine import Engine
from inference.merging import Merging
from inference.requests import RenderRequest
from inference.warmup import Costs, measure, warm_up


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        (Costs(0.10, 0.15, 0.09), 2),
        (Costs(0.10, 0.12, 0.001), 1),
        (Costs(0.10, 0.10, 0.001), None),
        (Costs(0.10, 0.20, None), None),
    ],
)
def test_folding_starts_where_it_is_cheaper(costs, expected):
    assert costs.from_steps == expected


def test_what_is_measured_leaves_the_base_as_it_was(engine):
    before = {name: weight.clone() for name, weight in engine.base.transformer.state_dict().items()}
    costs = measure(engine, Merging(engine.base, None))
    assert engine.held == set()
    assert min(costs.bare_s, costs.worn_s, costs.fold_s) > 0
    after = engine.base.transformer.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items()) and before.keys() == after.keys()


def test_after_warming_up_a_worker_compiles_nothing_more(base, make_adapter):
    torch._dynamo.reset()
    engine = Engine(base)
    try:
        warm_up(engine, alone=False, backend="eager")
        assert engine.slot.merging is None
        known = compiled.graph_count()
        for seed in range(3):
            request = RenderRequest("another prompt", seed=seed, num_inference_steps=2)
            engine.render(request)
            engine.render(request, make_adapter(seed))
            engine.render(request, make_adapter(seed), style=make_adapter(seed + 1))
        assert compiled.graph_count() == known > 0
    finally:
        compiled.release(base.transformer)
        engine.slot.clear()

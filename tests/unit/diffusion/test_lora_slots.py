from collections.abc import Iterator, Sequence

import pytest
import torch

from core.errors import UserError
from diffusion import lora
from diffusion.loading import BaseModel
from diffusion.lora_slots import LoraSlots
from diffusion.lora_spec import LoraSpec
from diffusion.slot_training import SlotTraining
from diffusion.text import PromptEmbeds

RANK, TEXT, SIDE = 4, 5, 4


def modules(base: BaseModel) -> list[str]:
    return base.family.lora_modules(base.transformer, "blocks")


def spec(base: BaseModel, rank: int = RANK) -> LoraSpec:
    return base.family.lora_spec("blocks", rank=rank, alpha=rank)


@pytest.fixture
def slots(base: BaseModel) -> Iterator[LoraSlots]:
    made = LoraSlots(base.transformer, spec(base), count=3, dtype=torch.float32)
    yield made
    made.remove()


def adapter(base: BaseModel, seed: int, rank: int = RANK, std: float = 0.2) -> lora.State:
    """Random A and B for every target, large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in modules(base):
        layer = base.transformer.get_submodule(name)
        state[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features, generator=generator) * std
        state[f"transformer.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank, generator=generator) * std
    return state


def predict(base: BaseModel, seeds: Sequence[int]) -> torch.Tensor:
    """One forward; row i has inputs of its own, drawn from seeds[i]."""
    config, rows = base.transformer.config, []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        sizes = [(SIDE * SIDE, config.in_channels), (TEXT, config.joint_attention_dim), (config.pooled_projection_dim,)]
        rows.append([torch.randn(size, generator=generator) for size in sizes])
    tokens, prompts, pooled = (torch.stack(column) for column in zip(*rows, strict=True))
    text = PromptEmbeds(prompts, pooled, torch.zeros(TEXT, 3))
    ids = base.family.image_ids(2 * SIDE, 2 * SIDE)
    return base.family.predict(base.transformer, tokens, ids, text, torch.full((len(rows),), 0.5), 1.0)


def test_empty_slots_change_no_bit(base: BaseModel) -> None:
    bare = predict(base, [1, 2])
    slots = LoraSlots(base.transformer, spec(base), count=2, dtype=torch.float32)
    assert torch.equal(predict(base, [1, 2]), bare)
    slots.write(0, adapter(base, 1))
    assert not torch.allclose(predict(base, [1, 2]), bare)
    slots.set_scale(0, 0.0)
    assert torch.equal(predict(base, [1, 2]), bare)
    slots.set_scale(0, 1.0)
    slots.clear(0)
    assert torch.equal(predict(base, [1, 2]), bare)
    slots.remove()
    assert torch.equal(predict(base, [1, 2]), bare)
    assert not [name for name, _ in base.transformer.named_parameters() if "lora" in name or "base_layer" in name]


def test_a_slot_computes_what_peft_computes(base: BaseModel, slots: LoraSlots) -> None:
    state = adapter(base, 1)
    slots.write(1, state)
    slots.set_scale(1, 0.5)
    slots.use(rows=[1, 1])
    ours = predict(base, [1, 2])
    slots.remove()
    lora.load(base.transformer, state)
    base.transformer.set_adapters(["default"], weights=[0.5])
    theirs = predict(base, [1, 2])
    lora.detach(base.transformer)
    slots.put_on()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_each_row_has_its_own_adapter(base: BaseModel, slots: LoraSlots) -> None:
    alone = []
    for slot in range(3):
        slots.write(slot, adapter(base, slot))
        slots.use(rows=[slot])
        alone.append(predict(base, [slot]))
    slots.use(rows=[2, 0, 1])
    mixed = predict(base, [2, 0, 1])
    assert torch.allclose(mixed, torch.cat([alone[2], alone[0], alone[1]]), rtol=1e-5, atol=1e-6)
    slots.use(count=3)
    assert torch.allclose(predict(base, [0, 1, 2]), torch.cat(alone), rtol=1e-5, atol=1e-6)
    slots.use(count=2)  # two rows each
    assert torch.allclose(predict(base, [0, 0, 1, 1]), torch.cat([alone[0], alone[0], alone[1], alone[1]]), rtol=1e-5, atol=1e-6)


def test_stacked_slots_add_up_and_none_is_the_bare_base(base: BaseModel, slots: LoraSlots) -> None:
    one, two = adapter(base, 1), adapter(base, 2)
    slots.write(0, one)
    slots.write(1, two)
    slots.set_scale(1, 0.5)
    slots.use(stacked=0)
    bare = predict(base, [1, 2])
    slots.use(stacked=2)
    both = predict(base, [1, 2])
    slots.remove()
    assert torch.equal(predict(base, [1, 2]), bare)
    wide = LoraSlots(base.transformer, spec(base, 2 * RANK), dtype=torch.float32)
    scaled = {key: weight * (0.5 if "lora_B" in key else 1.0) for key, weight in two.items()}
    wide.write(0, {key: torch.cat([one[key], scaled[key]], 0 if "lora_A" in key else 1) for key in one})
    assert torch.allclose(predict(base, [1, 2]), both, rtol=1e-5, atol=1e-6)
    wide.remove()
    slots.put_on()


def test_two_sets_of_slots_serve_in_turns(base: BaseModel, slots: LoraSlots) -> None:
    slots.write(0, adapter(base, 1))
    before, wrappers = predict(base, [1]), list(slots.layers())
    with pytest.raises(RuntimeError, match="already"):
        LoraSlots(base.transformer, spec(base), dtype=torch.float32)
    slots.remove()
    other = LoraSlots(base.transformer, spec(base, 2), dtype=torch.float32)
    other.write(0, adapter(base, 2, rank=2))
    with pytest.raises(RuntimeError, match="already"):
        slots.put_on()
    assert not torch.allclose(predict(base, [1]), before)
    other.remove()
    slots.put_on()
    assert torch.equal(predict(base, [1]), before) and list(slots.layers()) == wrappers


def gradients(base: BaseModel, seeds: Sequence[int]) -> None:
    predict(base, seeds).pow(2).mean((1, 2)).sum().backward()


def test_adapters_fitted_in_one_pass_equal_those_fitted_alone(base: BaseModel, slots: LoraSlots) -> None:
    def fit(customers: list[int]) -> list[torch.Tensor]:
        training = SlotTraining(slots)
        for slot, customer in enumerate(customers):
            slots.write(slot, adapter(base, customer, std=0.05))
            training.adopt(slot)
        optimizers = [torch.optim.Adam([training.parameter(slot)], lr=1e-3) for slot in range(len(customers))]
        slots.use(count=len(customers))
        for step in range(3):
            training.zero_gradients()
            gradients(base, [100 * customer + step for customer in customers])
            training.collect()
            for optimizer in optimizers:
                optimizer.step()
            training.publish()
        training.close()
        return [training.master[slot].clone() for slot in range(len(customers))]

    together = fit([7, 8, 9])
    alone = [fit([customer])[0] for customer in (7, 8, 9)]
    moved = [adapter_row(slots, adapter(base, customer, std=0.05)) - row for customer, row in zip((7, 8, 9), alone, strict=True)]
    for row, other, change in zip(together, alone, moved, strict=True):
        assert change.norm() > 0 and (row - other).norm() / change.norm() < 1e-3


def adapter_row(slots: LoraSlots, state: lora.State) -> torch.Tensor:
    slots.write(0, state)
    return slots.weights[0].clone()


def test_gradients_accumulate_and_reach_only_active_slots(base: BaseModel, slots: LoraSlots) -> None:
    training = SlotTraining(slots)
    for slot in range(3):
        slots.start(slot, seed=slot)
    slots.use(count=2)
    gradients(base, [1, 2])
    training.collect()
    once = training.gradients.clone()
    assert once[0].norm() > 0 and once[1].norm() > 0 and once[2].norm() == 0
    gradients(base, [1, 2])
    training.collect()
    assert torch.allclose(training.gradients, 2 * once)
    training.zero_gradients()
    assert training.parameter(0).grad is not None and not training.gradients.any()
    training.close()
    assert not any(parameter.requires_grad for parameter in base.transformer.parameters())


def test_master_weights_keep_what_bf16_would_lose(base: BaseModel) -> None:
    slots = LoraSlots(base.transformer, spec(base), dtype=torch.bfloat16)
    training = SlotTraining(slots)
    slots.start(0, seed=1)
    training.adopt(0)
    before = training.master.clone()
    optimizer = torch.optim.SGD([training.parameter(0)], lr=1.0)
    training.gradients[0] = before[0] * 2e-4  # each step is far below half a unit in the last place of bf16
    for _ in range(20):
        optimizer.step()
    training.publish()
    training.close()
    slots.remove()
    assert torch.allclose(training.master, before * (1 - 4e-3), rtol=1e-4)
    assert not torch.equal(slots.weights.float(), before)


def test_what_is_written_is_read_back(base: BaseModel, slots: LoraSlots) -> None:
    state = adapter(base, 1, rank=2)
    slots.write(2, adapter(base, 3))
    slots.write(2, state)
    read = slots.state(slots.weights[2], scale=2.0)
    key = "transformer.transformer_blocks.0.attn.to_q.lora_{}.weight"
    assert set(read) == set(state) and read[key.format("A")].shape[0] == RANK
    product = read[key.format("B")] @ read[key.format("A")]
    assert torch.allclose(product, 2 * state[key.format("B")] @ state[key.format("A")], atol=1e-6)
    lora.validate(read, base.transformer, base.family.lora_allowlist(base.transformer))


def test_a_start_follows_its_seed_and_changes_nothing(base: BaseModel, slots: LoraSlots) -> None:
    bare = predict(base, [1])
    slots.start(0, seed=4)
    slots.start(1, seed=4)
    slots.start(2, seed=5)
    assert torch.equal(predict(base, [1]), bare)
    assert torch.equal(slots.weights[0], slots.weights[1]) and not torch.equal(slots.weights[0], slots.weights[2])


def test_what_does_not_fit_is_refused_and_changes_nothing(base: BaseModel, slots: LoraSlots) -> None:
    slots.write(0, adapter(base, 1))
    before = slots.weights.clone()
    for bad in (adapter(base, 2, rank=RANK + 1), {"transformer.proj_out.lora_A.weight": torch.ones(RANK, 16)}):
        with pytest.raises(UserError):
            slots.write(0, bad)
    assert torch.equal(slots.weights, before)
    with pytest.raises(IndexError):
        slots.use(rows=[3])
    with pytest.raises(ValueError):
        slots.use()


def test_a_single_slots_gradients_lie_as_fresh_ones_do(base: BaseModel) -> None:
    """Otherwise hundreds of copies are launched one by one at every step."""
    slots = LoraSlots(base.transformer, spec(base), dtype=torch.float32)
    training = SlotTraining(slots)
    gradients(base, [1])
    for view, leaf in zip(training._views, training._leaves, strict=True):
        assert view.stride() == leaf.grad.stride() and view.data_ptr() >= training.gradients.data_ptr()
    training.close()
    slots.remove()

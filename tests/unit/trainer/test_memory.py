import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion import compiled
from diffusion.checkpointing import activation_bytes
from diffusion.loading import BaseModel, load_base
from diffusion.text import encode_prompts
from trainer import memory
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.memory import MemoryPlan
from trainer.recipe import Recipe
from trainer.seats import Seats
from trainer.world import World


class ShortOfMemory:
    """Stands between a fit and its transformer: a pass without checkpointing does not fit into memory, from the ``first`` one on."""

    def __init__(self, base: BaseModel, first: int, always: bool = False) -> None:
        self.family, self.first, self.always, self.passes = base.family, first, always, 0
        self.real = base.family.predict

    def predict(self, transformer, *inputs):  # type: ignore[no-untyped-def]
        self.passes += 1
        predicted = self.real(transformer, *inputs)
        if self.passes >= self.first and (self.always or not transformer.gradient_checkpointing):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predicted


@pytest.fixture
def own(base: BaseModel) -> BaseModel:
    """A base of this test's alone: once in fewer bits it stays so."""
    return load_base(base.folder, precision="fp32", device="cpu")


@pytest.mark.parametrize(("first", "micro_batches"), [(1, 1), (4, 1), (4, 2)])  # the last: half of the second step was done
def test_a_fit_that_runs_out_of_memory_goes_on_with_checkpointing_to_the_same_adapter(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, micro_batches: int
) -> None:
    recipe = recipe.model_copy(update={"gradient_accumulation_steps": micro_batches})
    whole = fit(base, cache, recipe, CheckpointFolder(tmp_path / "whole", {}))
    monkeypatch.setattr(base.family, "predict", ShortOfMemory(base, first).predict)
    notes: list[str] = []
    short = fit(base, cache, recipe, CheckpointFolder(tmp_path / "short", {}), on_note=notes.append)
    for step, path in whole.items():
        one, two = load_file(path), load_file(short[step])
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert len(notes) == 1 and "memory" in notes[0] and "checkpointing" in notes[0]
    assert not base.transformer.gradient_checkpointing


def test_with_nothing_left_to_give_up_the_error_is_told(
    own: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own.family, "predict", ShortOfMemory(own, 1, always=True).predict)
    with pytest.raises(torch.OutOfMemoryError):
        fit(own, cache, recipe, CheckpointFolder(tmp_path, {}))
    assert not [name for name, _ in own.transformer.named_modules() if "selection" in name]


@pytest.mark.parametrize("compiling", [False, True])
def test_when_checkpointing_was_not_enough_the_base_goes_into_fewer_bits(
    own: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiling: bool
) -> None:
    """Also where blocks were compiled with the wide layers, as on a GPU."""
    if compiling:
        compiled.prepare(own.transformer, backend="aot_eager")
    latents = [torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    cache = TrainingCache(("a", "b", "c"), latents, encode_prompts(own, ["one", "two", "three", ""]))
    recipe = Recipe.for_run(3, own, {"optimizer": "adamw"})
    whole = fit(own, cache, recipe, CheckpointFolder(tmp_path / "whole", {}))[recipe.steps]
    real = own.family.predict

    def predict(transformer, *inputs):  # type: ignore[no-untyped-def]
        if not own.precision.quantised:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(transformer, *inputs)

    monkeypatch.setattr(own.family, "predict", predict)
    notes: list[str] = []
    short = fit(own, cache, recipe, CheckpointFolder(tmp_path / "short", {}), on_note=notes.append)[recipe.steps]
    assert len(notes) == 3 and "fp8" in notes[-1]
    assert own.precision.name == "fp8" and own.dtype is torch.float32
    one, two = (torch.cat([value.flatten() for value in load_file(path).values()]) for path in (whole, short))
    assert 0 < (one - two).norm() / one.norm() < 0.2


class Away:
    """Text encoders that leave a GPU: there is none here, so only what a plan asks of them."""

    def __init__(self, base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here, self.back = {"text_encoder"}, set[str]()
        monkeypatch.setattr(base, "send_away", self.send_away)
        monkeypatch.setattr(base, "call_back", self.back.update)

    def send_away(self, *names: str) -> set[str]:
        gone, self.here = self.here, set()
        return gone


def test_text_encoders_leave_before_speed_or_bits_are_given_up(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away(base, monkeypatch)
    monkeypatch.setattr(base.family, "predict", ShortOfMemory(base, 1).predict)
    notes: list[str] = []
    fit(base, cache, recipe, CheckpointFolder(tmp_path, {}), on_note=notes.append)
    assert ["text encoders" in note for note in notes] == [True, False] and "checkpointing" in notes[1]
    assert away.back == {"text_encoder"}


def test_text_encoders_leave_where_that_spares_checkpointing(base: BaseModel, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card on which a fit would fit but for them."""
    tokens, spare = 10**6, 2 * 2**30
    away = Away(base, monkeypatch)
    room = activation_bytes(base.transformer, tokens)
    monkeypatch.setattr(memory, "capacity", lambda device: 80 * 2**30)
    monkeypatch.setattr(memory, "free_memory", lambda device: spare + (room // 2 if away.here else room))
    monkeypatch.setattr(base, "device", torch.device("cuda"))
    plan = MemoryPlan(base, recipe, tokens)
    assert plan.checkpointed == 0 and plan.as_dict()["in_main_memory"] == ["text_encoder"] and not plan.notes
    plan.close()
    assert away.back == {"text_encoder"}


def test_text_encoders_stay_where_there_is_room(base: BaseModel, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(base, monkeypatch)
    monkeypatch.setattr(memory, "capacity", lambda device: 80 * 2**30)
    monkeypatch.setattr(memory, "free_memory", lambda device: 79 * 2**30)
    monkeypatch.setattr(base, "device", torch.device("cuda"))
    assert MemoryPlan(base, recipe, 100).as_dict()["in_main_memory"] == [] and away.here


def test_what_a_failed_pass_held_is_gone_before_anything_else_takes_memory(
    own: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error holds the frames that it came through, and they their tensors: beside them a full GPU cannot make layers narrower."""
    real, activations, alive = own.family.predict, [], []

    def predict(transformer, *inputs):  # type: ignore[no-untyped-def]
        predicted = real(transformer, *inputs)
        activations.append(weakref.ref(predicted))
        if not own.precision.quantised:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predicted

    def quantise(transformer, precision, device):  # type: ignore[no-untyped-def]
        alive.extend(held for held in activations if held() is not None)

    monkeypatch.setattr(own.family, "predict", predict)
    monkeypatch.setattr(memory, "quantise", quantise)
    fit(own, cache, recipe, CheckpointFolder(tmp_path, {}))
    assert len(activations) > 3 and not alive


def test_a_process_of_several_fails_without_leaving_gradients_to_the_next_fit(
    own: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot step down alone; its slots are kept."""
    real, seats = own.family.predict, Seats(own)

    def predict(transformer, *inputs):  # type: ignore[no-untyped-def]
        real(transformer, *inputs).sum().backward()
        monkeypatch.setattr(World, "size", 2)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(own.family, "predict", predict)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        fit(own, cache, recipe, CheckpointFolder(tmp_path, {}), seats=seats)
    training = seats.training(recipe)
    assert all(leaf.grad is None for leaf in training._leaves) and not training.gradients.any()


def test_a_small_card_keeps_more_of_itself_free(base: BaseModel, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the activations and 3 GiB more: enough on a server's card, not on a desk's."""
    tokens = 10**6
    monkeypatch.setattr(memory, "free_memory", lambda device: activation_bytes(base.transformer, tokens) + 3 * 2**30)
    checkpointed = {}
    for gib in (24, 80):
        monkeypatch.setattr(memory, "capacity", lambda device, gib=gib: gib * 2**30)
        checkpointed[gib] = MemoryPlan(base, recipe, tokens)._needed(tokens)
    assert checkpointed[24] > 0 and checkpointed[80] == 0

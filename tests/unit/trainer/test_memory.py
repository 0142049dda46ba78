from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion.loading import BaseModel
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.memory import activation_bytes
from trainer.recipe import Recipe


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


@pytest.mark.parametrize("first", [1, 4])
def test_a_fit_that_runs_out_of_memory_goes_on_with_checkpointing_to_the_same_adapter(
    base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
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
    base: BaseModel, cache: TrainingCache, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.family, "predict", ShortOfMemory(base, 1, always=True).predict)
    with pytest.raises(torch.OutOfMemoryError):
        fit(base, cache, recipe, CheckpointFolder(tmp_path, {}))
    assert not [name for name, _ in base.transformer.named_modules() if "selection" in name]


def test_activations_are_reckoned_from_the_measured_size() -> None:
    class Transformer:
        class config:
            num_layers, num_single_layers, num_attention_heads, attention_head_dim = 19, 38, 24, 128

    assert activation_bytes(Transformer, 4608) == 25 * 2**30
    assert activation_bytes(Transformer, 2304) == 25 * 2**29

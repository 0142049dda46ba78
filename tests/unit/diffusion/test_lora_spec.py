"""An adapter is what PEFT says it is: the same layers, the same first weights, and a file that tells PEFT so."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from diffusion import lora
from diffusion.export import FORMATS, export_file
from diffusion.families.flux1 import Flux1
from diffusion.loading import BaseModel
from diffusion.lora_slots import LoraSlots
from diffusion.lora_spec import LoraSpec, spec_of

SEED, RANK = 7, 4


def peft_layers(base: BaseModel) -> dict[str, BaseTunerLayer]:
    return {name: module for name, module in base.transformer.named_modules() if isinstance(module, BaseTunerLayer)}


@pytest.mark.parametrize("target_set", Flux1.lora_targets)
def test_slots_lie_on_the_layers_that_peft_wraps(base: BaseModel, target_set: str) -> None:
    spec = base.family.lora_spec(target_set, rank=RANK, alpha=RANK)
    slots = LoraSlots(base.transformer, spec, dtype=torch.float32)
    slots.remove()
    base.transformer.add_adapter(spec.config())
    wrapped = peft_layers(base)
    lora.detach(base.transformer)
    assert list(slots.modules) == list(wrapped) and len(wrapped) > 3


@pytest.mark.parametrize("rank", [RANK, 6])
def test_a_slot_starts_bit_for_bit_as_pefts_layers_do(base: BaseModel, rank: int) -> None:
    spec = base.family.lora_spec("blocks", rank=rank, alpha=rank)
    slots = LoraSlots(base.transformer, spec, count=2, dtype=torch.float32)
    slots.weights.fill_(1.0)  # another customer's
    torch.manual_seed(1)
    slots.start(1, SEED)
    drawn = torch.rand(1)
    slots.remove()
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # whoever else draws does not notice
    base.transformer.add_adapter(spec.config())
    torch.manual_seed(SEED)
    for layer in peft_layers(base).values():
        layer.reset_lora_parameters("default", "gaussian")
    theirs = lora.to_diffusers_state(base.transformer, dtype=torch.float32)
    lora.detach(base.transformer)
    ours = slots.state(slots.weights[1])
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    down = torch.cat([weight.flatten() for key, weight in ours.items() if "lora_A" in key])
    assert down.std().item() == pytest.approx(1 / rank, rel=0.05)
    assert not any(weight.any() for key, weight in ours.items() if "lora_B" in key)


def test_names_are_meant_whole(base: BaseModel) -> None:
    assert LoraSpec(RANK, RANK, ("proj_out",)).modules(base.transformer) == ["proj_out"]
    with pytest.raises(ValueError, match="no layer"):
        LoraSlots(base.transformer, LoraSpec(RANK, RANK, ("to_q",)), dtype=torch.float32)


def state_of(base: BaseModel, modules: list[str], rank: int = RANK) -> lora.State:
    layers = {name: base.transformer.get_submodule(name) for name in modules}
    down = {f"transformer.{name}.lora_A.weight": torch.randn(rank, layer.in_features) for name, layer in layers.items()}
    return down | {f"transformer.{name}.lora_B.weight": torch.randn(layer.out_features, rank) for name, layer in layers.items()}


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_a_file_tells_peft_and_diffusers_what_it_is(base: BaseModel, tiny_folder: Path, tmp_path: Path) -> None:
    modules = base.family.lora_modules(base.transformer, "attention")
    path = lora.save(tmp_path / "adapter.safetensors", state_of(base, modules), {})
    told = json.loads(metadata_of(path)[lora.DIFFUSERS_METADATA_KEY])
    config = LoraConfig(**{key.removeprefix("transformer."): value for key, value in told.items()})
    assert (config.r, config.lora_alpha, config.target_modules) == (RANK, RANK, set(modules))
    plain = FluxPipeline.from_pretrained(tiny_folder)
    plain.load_lora_weights(str(path), adapter_name="mine")
    assert plain.transformer.peft_config["mine"].target_modules == set(modules)
    layers = {name: module for name, module in plain.transformer.named_modules() if isinstance(module, BaseTunerLayer)}
    assert set(layers) == set(modules) and {layer.scaling["mine"] for layer in layers.values()} == {1.0}  # alpha is in B already


@pytest.mark.parametrize("file_format", FORMATS)
def test_other_layouts_are_not_described_as_diffusers(base: BaseModel, tmp_path: Path, file_format: str) -> None:
    ours = lora.save(tmp_path / "adapter.safetensors", state_of(base, base.family.lora_modules(base.transformer, "attention")), {})
    assert lora.DIFFUSERS_METADATA_KEY in metadata_of(ours)
    assert lora.DIFFUSERS_METADATA_KEY not in metadata_of(export_file(ours, tmp_path / "out.safetensors", file_format))


def test_ranks_that_differ_are_left_to_the_reader(base: BaseModel) -> None:
    one, two = base.family.lora_modules(base.transformer, "attention")[:2]
    assert spec_of(state_of(base, [one, two])) == LoraSpec(RANK, RANK, tuple(sorted([one, two])))
    assert spec_of(state_of(base, [one]) | state_of(base, [two], RANK + 1)) is None
    assert spec_of({}) is None

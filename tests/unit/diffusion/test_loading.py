import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.errors import UserError
from diffusion import loading
from diffusion.loading import BaseModel, load_base
from diffusion.precision import BF16, FP8, FP32, NF4, _by_memory, choose
from diffusion.streaming import stream
from diffusion.text import encode_prompts
from diffusion.visiting import Visitor
from tests.tiny import RESOLUTION, build_tiny_flux

CPU = torch.device("cpu")


def test_everything_is_loaded_frozen_and_in_the_asked_type(base: BaseModel) -> None:
    modules = [base.transformer, base.vae, *base.text_encoders.values()]
    assert len(modules) == 4
    for module in modules:
        assert not module.training
        assert {(p.dtype, p.requires_grad) for p in module.parameters()} == {(torch.float32, False)}


def test_the_folder_says_its_resolution_and_text_length(base: BaseModel) -> None:
    assert base.resolution == RESOLUTION
    assert base.max_text_tokens == 32


def test_resolution_falls_back_to_the_family(tiny_folder: Path, tmp_path: Path) -> None:
    folder = build_tiny_flux(tmp_path / "flux")
    (folder / "likeness.json").unlink()
    assert load_base(folder, precision="fp32", device="cpu").resolution == 1024


def test_pipelines_share_components_but_not_the_scheduler(base: BaseModel) -> None:
    first, second = base.pipeline(), base.pipeline("reference")
    assert first.transformer is second.transformer is base.transformer
    assert first.scheduler is not second.scheduler


def test_the_fingerprint_tells_weights_apart(base: BaseModel, tmp_path: Path) -> None:
    other = load_base(build_tiny_flux(tmp_path / "other", seed=1), precision="fp32", device="cpu")
    assert other.fingerprint != base.fingerprint


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    folder = build_tiny_flux(tmp_path / "flux")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError) as refused:
        load_base(folder, device="cpu")
    assert refused.value.type == "base-model/incomplete"


@pytest.mark.parametrize(("path", "type_"), [("/no/such/folder", "base-model/no-such-folder"), ("not a hub id!", "base-model/bad-name")])
def test_a_wrong_path_says_what_to_do(path: str, type_: str) -> None:
    with pytest.raises(UserError) as refused:
        load_base(path)
    assert refused.value.type == type_
    assert refused.value.detail


def test_an_unknown_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match="StableDiffusionPipeline"):
        load_base(tmp_path)


class Traveller:
    """A part and its visitor in one, which only remembers where it was."""

    def __init__(self, where: str = "cpu", full: bool = False) -> None:
        self.where, self.full = torch.device(where), full
        self.trips: list[str] = []

    def parameters(self) -> Iterator[Any]:
        yield SimpleNamespace(device=self.where, numel=lambda: 2**30, element_size=lambda: 2)

    def come(self, device: torch.device) -> None:
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.where = device
        self.trips.append(device.type)

    def leave(self) -> None:
        self.where = CPU
        self.trips.append("home")


@pytest.fixture
def host(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    """On a GPU; one text encoder lies there, the other is streamed, the VAE visits."""
    monkeypatch.setattr(loading, "Visitor", lambda part: part)
    monkeypatch.setattr(loading, "free_main_memory", lambda: 64 * 2**30)
    parts = {"vae": Traveller(), "text_encoder": Traveller("cuda"), "text_encoder_2": Traveller(), "transformer": Traveller("cuda")}
    return BaseModel("x", base.folder, base.family, torch.device("cuda"), BF16, parts, offloaded={"vae"})


def test_a_visitor_leaves_as_it_came() -> None:
    """Another type stands for another device: either way a module's weights become other tensors."""
    module = torch.nn.BatchNorm1d(3)
    module.requires_grad_(False)
    before = {key: (value.data_ptr(), value.clone()) for key, value in module.state_dict().items()}
    visitor = Visitor(module)
    with torch.inference_mode():
        visitor.come(torch.float64)  # type: ignore[arg-type]
        assert module.weight.dtype == module.running_mean.dtype == torch.float64 and not module.weight.is_inference()
        assert not module.running_mean.is_inference()
        visitor.leave()
    for key, value in module.state_dict().items():
        assert value.data_ptr() == before[key][0] and torch.equal(value, before[key][1])


def test_offloaded_parts_visit_the_device_and_leave(host: BaseModel) -> None:
    with pytest.raises(ZeroDivisionError), host.at_hand("text_encoders", "vae"):
        assert {name: part.trips for name, part in host.parts.items() if part.trips} == {"vae": ["cuda"]}
        raise ZeroDivisionError
    assert host.parts["vae"].trips == ["cuda", "home"]


def test_what_was_sent_away_visits_until_it_is_called_back(host: BaseModel) -> None:
    encoder = host.parts["text_encoder"]
    assert host.send_away("text_encoders") == {"text_encoder"}  # the other one is streamed: it takes no room
    assert host.send_away("text_encoders") == set()
    with host.at_hand("text_encoders"):
        assert encoder.where.type == "cuda"
    assert encoder.where == CPU
    host.call_back({"text_encoder"})
    with host.at_hand("text_encoders"):
        pass
    assert encoder.trips == ["home", "cuda", "home", "cuda"] and host.offloaded == {"vae"}


def test_nothing_is_sent_where_main_memory_is_short_or_is_all_there_is(host: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_main_memory", lambda: 2**31)  # as much as the encoder itself: nothing would be left
    assert host.send_away("text_encoders") == set()
    monkeypatch.setattr(loading, "free_main_memory", lambda: 64 * 2**30)
    host.device = host.parts["text_encoder"].where = CPU
    assert host.send_away("text_encoders") == set() and host.offloaded == {"vae"}


def test_who_is_called_back_to_a_full_gpu_goes_on_visiting(host: BaseModel) -> None:
    encoder = host.parts["text_encoder"]
    away = host.send_away("text_encoders")
    encoder.full = True
    host.call_back(away)
    assert encoder.where == CPU and "text_encoder" in host.offloaded


def test_a_streamed_text_encoder_gives_the_same_embeddings(base: BaseModel) -> None:
    """On a CPU layers have nowhere to go, but they take the same way."""
    streamed = load_base(base.path, precision="fp32", device="cpu")
    for encoder in streamed.text_encoders.values():
        stream(encoder, CPU)
    ours, plain = encode_prompts(streamed, ["a cat", "a dog"]), encode_prompts(base, ["a cat", "a dog"])
    assert torch.equal(ours.prompt_embeds, plain.prompt_embeds)
    assert torch.equal(ours.pooled_prompt_embeds, plain.pooled_prompt_embeds)


def test_a_visit_within_a_visit_does_not_end_it(host: BaseModel) -> None:
    with host.at_hand("vae"):
        with host.at_hand("vae"):
            pass
        assert host.parts["vae"].trips == ["cuda"]
    assert host.parts["vae"].trips == ["cuda", "home"] and host.offloaded == {"vae"}


@pytest.mark.parametrize(("setting", "expected"), [("fp32", FP32), ("bf16", BF16), ("fp8", FP8), ("nf4", NF4)])
def test_an_asked_precision_is_taken(setting: str, expected: object) -> None:
    assert choose(setting, CPU) == expected


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError):
        choose("int3", CPU)


def test_auto_takes_the_widest_precision_that_fits() -> None:
    gib = 2**30
    assert _by_memory(free_bytes=80 * gib, weight_bytes=24 * gib, fp8=True) == BF16
    assert _by_memory(free_bytes=24 * gib, weight_bytes=24 * gib, fp8=True) == FP8
    assert _by_memory(free_bytes=24 * gib, weight_bytes=24 * gib, fp8=False) == NF4
    assert _by_memory(free_bytes=16 * gib, weight_bytes=24 * gib, fp8=True) == NF4
    assert _by_memory(free_bytes=8 * gib, weight_bytes=30 * 2**20, fp8=False) == BF16

import json
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from diffusion.loading import BaseModel, load_base
from diffusion.precision import BF16, FP8, FP32, NF4, _by_memory, choose
from diffusion.streaming import stream
from diffusion.text import encode_prompts
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
    """A module that only remembers where it was sent."""

    def __init__(self) -> None:
        self.trips: list[str] = []

    def to(self, device: object) -> None:
        self.trips.append(str(device))


def test_offloaded_parts_visit_the_device_and_leave(base: BaseModel) -> None:
    parts = {name: Traveller() for name in ("vae", "text_encoder", "text_encoder_2", "transformer")}
    guest = BaseModel("x", base.folder, base.family, torch.device("cuda"), BF16, parts, offloaded={"vae", "text_encoder_2"})
    with pytest.raises(ZeroDivisionError), guest.at_hand("text_encoders", "transformer"):
        assert [parts[name].trips for name in sorted(parts)] == [[], ["cuda"], [], []]
        raise ZeroDivisionError
    assert parts["text_encoder_2"].trips == ["cuda", "cpu"]
    assert parts["vae"].trips == []


def test_a_streamed_text_encoder_gives_the_same_embeddings(base: BaseModel) -> None:
    """On a CPU layers have nowhere to go, but they take the same way."""
    streamed = load_base(base.path, precision="fp32", device="cpu")
    for encoder in streamed.text_encoders.values():
        stream(encoder, CPU)
    ours, plain = encode_prompts(streamed, ["a cat", "a dog"]), encode_prompts(base, ["a cat", "a dog"])
    assert torch.equal(ours.prompt_embeds, plain.prompt_embeds)
    assert torch.equal(ours.pooled_prompt_embeds, plain.pooled_prompt_embeds)


def test_a_visit_within_a_visit_does_not_end_it(base: BaseModel) -> None:
    vae = Traveller()
    host = BaseModel("x", base.folder, base.family, torch.device("cuda"), BF16, {"vae": vae}, offloaded={"vae"})
    with host.at_hand("vae"):
        with host.at_hand("vae"):
            pass
        assert vae.trips == ["cuda"]
    assert vae.trips == ["cuda", "cpu"] and host.offloaded == {"vae"}


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

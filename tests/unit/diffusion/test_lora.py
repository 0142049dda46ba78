from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import save_file

from core.errors import UserError
from diffusion import lora
from diffusion.families.flux1 import Flux1
from diffusion.loading import BaseModel
from diffusion.lora_spec import LoraSpec

Q = "transformer.transformer_blocks.0.attn.to_q"


def render(pipeline: FluxPipeline, seed: int = 5) -> bytes:
    image: Image.Image = pipeline(
        "a cat", height=32, width=32, num_inference_steps=3, max_sequence_length=32, generator=torch.Generator().manual_seed(seed)
    ).images[0]
    return image.tobytes()


def spec(base: BaseModel, rank: int = 4, alpha: int = 4) -> LoraSpec:
    return base.family.lora_spec("blocks", rank=rank, alpha=alpha)


def fitted(base: BaseModel, rank: int = 4, alpha: int = 4) -> lora.State:
    """An adapter with weights large enough to change the picture, still attached to the base."""
    lora.attach(base.transformer, spec(base, rank, alpha), seed=1)
    for name, parameter in lora.parameters(base.transformer).items():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return lora.to_diffusers_state(base.transformer, dtype=torch.float32, scale=alpha / rank)


@pytest.fixture
def clean_base(base: BaseModel):
    yield base
    lora.detach(base.transformer)


def test_attaching_changes_nothing_until_it_is_trained(clean_base: BaseModel) -> None:
    bare = render(clean_base.pipeline())
    lora.attach(clean_base.transformer, spec(clean_base))
    assert render(clean_base.pipeline()) == bare


def test_only_the_adapter_is_trainable_and_its_start_follows_the_seed(clean_base: BaseModel) -> None:
    starts = []
    for seed in (1, 1, 2):
        lora.attach(clean_base.transformer, spec(clean_base), seed=seed)
        mine = lora.parameters(clean_base.transformer)
        assert {n for n, p in clean_base.transformer.named_parameters() if p.requires_grad} == set(mine)
        assert len(mine) == 2 * len(spec(clean_base).modules(clean_base.transformer))
        starts.append(torch.cat([p.detach().flatten() for p in mine.values()]))
        lora.detach(clean_base.transformer)
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_the_last_layer_is_never_a_target(base: BaseModel) -> None:
    assert "proj_out" not in base.family.lora_allowlist(base.transformer)
    assert "single_transformer_blocks.0.proj_out" in base.family.lora_allowlist(base.transformer)


@pytest.mark.parametrize("alpha", [4, 8])
def test_plain_diffusers_gives_our_own_pixels(clean_base: BaseModel, tiny_folder: Path, tmp_path: Path, alpha: int) -> None:
    bare = render(clean_base.pipeline())
    state = fitted(clean_base, alpha=alpha)
    trained = render(clean_base.pipeline())
    path = lora.save(tmp_path / "adapter.safetensors", state, {"trigger_token": "ohwx"})
    lora.detach(clean_base.transformer)

    plain = FluxPipeline.from_pretrained(tiny_folder)
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(str(path))
    loaded, metadata = lora.read(path, clean_base.transformer, clean_base.family.lora_allowlist(clean_base.transformer))
    lora.load(clean_base.transformer, loaded)
    assert render(clean_base.pipeline()) == render(plain) != bare
    if alpha == 4:  # otherwise the scale was multiplied in another order, which may round differently
        assert render(clean_base.pipeline()) == trained
    assert metadata == {"trigger_token": "ohwx"}


def test_detaching_gives_the_bare_base_back(clean_base: BaseModel) -> None:
    bare = render(clean_base.pipeline())
    fitted(clean_base)
    assert render(clean_base.pipeline()) != bare
    lora.detach(clean_base.transformer)
    lora.detach(clean_base.transformer)
    assert render(clean_base.pipeline()) == bare


def product(state: lora.State, module: str = Q) -> torch.Tensor:
    return state[f"{module}.lora_B.weight"] @ state[f"{module}.lora_A.weight"]


def test_normalising_keeps_what_the_author_trained() -> None:
    pair = {f"{Q}.lora_A.weight": torch.randn(4, 16), f"{Q}.lora_B.weight": torch.randn(16, 4)}
    foreign = pair | {f"{Q}.alpha": torch.tensor(8.0), "text_encoder.layers.0.lora_A.weight": torch.randn(4, 4)}
    ours = lora.normalise(foreign, rank=6)
    assert set(ours) == set(pair)
    assert ours[f"{Q}.lora_A.weight"].shape == (6, 16) and ours[f"{Q}.lora_B.weight"].shape == (16, 6)
    assert torch.allclose(product(ours), 2 * product(pair), atol=1e-5)
    with pytest.raises(UserError, match="rank"):
        lora.normalise(pair, rank=2)


def broken(change: str) -> lora.State:
    state = {f"{Q}.lora_A.weight": torch.randn(4, 16), f"{Q}.lora_B.weight": torch.randn(16, 4)}
    match change:
        case "half":
            del state[f"{Q}.lora_A.weight"]
        case "not finite":
            state[f"{Q}.lora_A.weight"][0, 0] = torch.nan
        case "other base":
            state[f"{Q}.lora_A.weight"] = torch.randn(4, 17)
        case "ranks differ":
            state[f"{Q}.lora_A.weight"] = torch.randn(5, 16)
        case "not lora":
            state["transformer.proj_out.weight"] = torch.randn(16, 16)
        case "last layer":
            state |= {"transformer.proj_out.lora_A.weight": torch.randn(4, 16), "transformer.proj_out.lora_B.weight": torch.randn(16, 4)}
        case "text encoder only":
            state = {"text_encoder.layers.0.lora_A.weight": torch.randn(4, 4)}
    return state


@pytest.mark.parametrize("change", ["half", "not finite", "other base", "ranks differ", "not lora", "last layer", "text encoder only"])
def test_a_bad_adapter_is_refused(base: BaseModel, tmp_path: Path, change: str) -> None:
    save_file(broken(change), tmp_path / "bad.safetensors")
    with pytest.raises(UserError) as refused:
        lora.read(tmp_path / "bad.safetensors", base.transformer, base.family.lora_allowlist(base.transformer))
    assert refused.value.type == "adapter/invalid"


def test_a_pickle_or_a_cut_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pickle.safetensors")
    whole = tmp_path / "whole.safetensors"
    save_file(broken("nothing"), whole)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-7])
    lora.read(whole)
    for name in ("pickle.safetensors", "cut.safetensors", "missing.safetensors"):
        with pytest.raises(UserError):
            lora.read(tmp_path / name)


def test_equal_adapters_are_equal_files(tmp_path: Path) -> None:
    state = broken("nothing")
    files = [lora.save(tmp_path / f"{n}.safetensors", state, {"a": 1, "b": "ü"}).read_bytes() for n in range(8)]
    assert len(set(files)) == 1
    assert lora.read(tmp_path / "0.safetensors")[1] == {"a": 1, "b": "ü"}


@pytest.mark.parametrize(("target_set", "megabytes"), [("image", 149.4), ("compact", 142.0), ("single", 127.0), ("attention", 104.6)])
def test_target_sets_have_the_size_that_they_claim_at_true_size(target_set: str, megabytes: float) -> None:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(guidance_embeds=True)
    layers = [transformer.get_submodule(name) for name in Flux1().lora_modules(transformer, target_set)]
    assert sum(2 * 32 * (layer.in_features + layer.out_features) for layer in layers) / 1e6 == pytest.approx(megabytes, abs=0.1)

"""Exports are read back by plain diffusers, which knows these layouts by itself: the same pixels, or the same weights at true widths."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import Flux2KleinPipeline, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors import safe_open

from core.errors import UserError
from diffusion import lora
from diffusion.export import FORMATS, export, export_file
from diffusion.families.flux1 import Flux1
from diffusion.families.flux2_klein import Flux2Klein
from tests.tiny_klein import build_tiny_klein

Pipeline = FluxPipeline | Flux2KleinPipeline


def adapter(transformer: torch.nn.Module, modules: list[str], rank: int = 4, std: float = 0.3) -> lora.State:
    """Random weights, large enough to change the picture."""
    source, state = torch.Generator().manual_seed(1), {}
    for name in modules:
        layer = transformer.get_submodule(name)
        state[f"transformer.{name}.lora_A.weight"] = std * torch.randn(rank, layer.in_features, generator=source)
        state[f"transformer.{name}.lora_B.weight"] = std * torch.randn(layer.out_features, rank, generator=source)
    return state


def picture(pipeline: Pipeline, file: Path | None) -> bytes:
    if file:
        pipeline.load_lora_weights(str(file))
    image: Image.Image = pipeline(
        prompt="a cat", height=32, width=32, num_inference_steps=3, max_sequence_length=32, generator=torch.Generator().manual_seed(5)
    ).images[0]
    return image.tobytes()


def pictures(
    open_pipeline: Callable[[], FluxPipeline | Flux2KleinPipeline], state: lora.State, file_format: str, folder: Path
) -> list[bytes]:
    """Bare, with our file, and with its export, each by a pipeline of its own."""
    ours = lora.save(folder / "adapter.safetensors", state, {"trigger_token": "ohwx"})
    theirs = export_file(ours, folder / f"{file_format}.safetensors", file_format)
    made = []
    for file in (None, ours, theirs):
        pipeline = open_pipeline()
        pipeline.set_progress_bar_config(disable=True)
        made.append(picture(pipeline, file))
    return made


@pytest.mark.parametrize("file_format", FORMATS)
def test_flux1_exports_give_identical_pixels(tiny_folder: Path, tmp_path: Path, file_format: str) -> None:
    """All but the single blocks' first layer, which diffusers splits at FLUX.1-dev's widths only: see the next test."""
    transformer = FluxTransformer2DModel.from_pretrained(tiny_folder / "transformer")
    modules = [name for name in Flux1().lora_modules(transformer, "blocks") if "single" not in name or name.endswith("proj_out")]
    bare, ours, theirs = pictures(lambda: FluxPipeline.from_pretrained(tiny_folder), adapter(transformer, modules), file_format, tmp_path)
    assert theirs == ours != bare


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("target_set", list(Flux1.lora_targets))
def test_at_true_widths_diffusers_reads_the_very_same_weights(target_set: str, file_format: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=2, guidance_embeds=True)
    state = adapter(transformer, Flux1().lora_modules(transformer, target_set), rank=2)
    ours = lora.save(tmp_path / "adapter.safetensors", state, {})
    theirs = export_file(ours, tmp_path / "export.safetensors", file_format)
    read = FluxPipeline.lora_state_dict(str(theirs))
    assert state.keys() <= read.keys()
    assert all(torch.equal(read[key], weight) for key, weight in state.items())
    assert all(not read[key].any() for key in read.keys() - state.keys())  # layers that share a name with ours and have no adapter


@pytest.fixture(scope="module")
def klein_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_klein(tmp_path_factory.mktemp("klein") / "base")


@pytest.mark.parametrize("file_format", FORMATS)
def test_klein_exports_give_identical_pixels(klein_folder: Path, tmp_path: Path, file_format: str) -> None:
    transformer = Flux2KleinPipeline.from_pretrained(klein_folder).transformer
    state = adapter(transformer, Flux2Klein().lora_modules(transformer, "blocks"))
    bare, ours, theirs = pictures(lambda: Flux2KleinPipeline.from_pretrained(klein_folder), state, file_format, tmp_path)
    assert theirs == ours != bare


def test_ranks_may_differ_between_fused_layers() -> None:
    q, k = (torch.randn(rank, 8) for rank in (4, 2))
    up_q, up_k = (torch.randn(8, rank) for rank in (4, 2))
    state = {f"transformer.transformer_blocks.0.attn.to_{n}.lora_A.weight": w for n, w in (("q", q), ("k", k))}
    state |= {f"transformer.transformer_blocks.0.attn.to_{n}.lora_B.weight": w for n, w in (("q", up_q), ("k", up_k))}
    made = export(state, "kohya")
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    product = made[f"{name}.lora_up.weight"] @ made[f"{name}.lora_down.weight"]
    assert torch.allclose(product, torch.cat([up_q @ q, up_k @ k, torch.zeros(8, 8)]), atol=1e-6)
    assert made[f"{name}.alpha"].item() == 12.0


def test_precision_and_header_are_kept(tiny_folder: Path, tmp_path: Path) -> None:
    transformer = FluxTransformer2DModel.from_pretrained(tiny_folder / "transformer")
    state = {key: weight.bfloat16() for key, weight in adapter(transformer, Flux1().lora_modules(transformer, "blocks")).items()}
    ours = lora.save(tmp_path / "a.safetensors", state, {"trigger_token": "ohwx"})
    made = export(state, "comfyui")
    assert {weight.dtype for key, weight in made.items() if not key.endswith("alpha")} == {torch.bfloat16}
    with safe_open(export_file(ours, tmp_path / "b.safetensors", "comfyui"), framework="pt") as file:
        header = file.metadata()
    assert '"trigger_token": "ohwx"' in header[lora.METADATA_KEY]


def test_what_has_no_form_there_is_refused_with_a_reason(tmp_path: Path) -> None:
    state = {f"transformer.x_embedder.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    with pytest.raises(UserError, match="no kohya form"):
        export(state, "kohya")
    with pytest.raises(UserError, match="kohya, comfyui"):
        export(state, "webui")

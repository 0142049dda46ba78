from pathlib import Path

import pytest
import torch

from benchmarks import true_size
from diffusion.latents import encode_images
from diffusion.loading import load_base
from diffusion.text import encode_prompts


@pytest.mark.parametrize(("which", "billions", "encoders"), [("flux1-dev", 11.90, 4.88), ("klein-4b", 3.88, 4.02)])
def test_the_true_shapes_have_the_published_number_of_parameters(which: str, billions: float, encoders: float) -> None:
    parts, _ = true_size.MODELS[which](True, False)
    with torch.device("meta"):
        sizes = {name: sum(p.numel() for p in make().parameters()) / 1e9 for name, make in parts.items()}
    assert sizes["transformer"] == pytest.approx(billions, abs=0.01)
    assert sum(size for name, size in sizes.items() if name.startswith("text_encoder")) == pytest.approx(encoders, abs=0.02)


@pytest.mark.parametrize("which", ["flux1-dev", "klein-4b"])
def test_a_written_folder_is_read_back_by_the_real_loading_code(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(true_size, "SHARD_BYTES", 4_000_000)
    folder = true_size.build(which, tmp_path / which, tiny=True)
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    base = load_base(folder, precision="bf16", device="cpu")
    text = encode_prompts(base, ["a cat"])
    latents = encode_images(base, torch.zeros(1, 3, 64, 64))
    tokens = base.family.pack(latents).bfloat16()
    ids = base.family.image_ids(*latents.shape[-2:])
    velocity = base.family.predict(base.transformer, tokens, ids, text, torch.tensor([0.5]).bfloat16(), 1.0)
    assert velocity.shape == tokens.shape and torch.isfinite(velocity).all() and velocity.std() > 0
    stamp = (folder / "model_index.json").stat().st_mtime_ns
    true_size.build(which, folder, tiny=True)
    assert (folder / "model_index.json").stat().st_mtime_ns == stamp


def test_a_folder_of_other_options_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true_size.build("klein-4b", tmp_path / "klein", tiny=True)
    monkeypatch.setattr(true_size, "SHARD_BYTES", 4_000_000)
    monkeypatch.setattr(true_size, "STD", 0.05)
    folder = true_size.build("klein-4b", tmp_path / "klein", text_encoders="true", tiny=True)
    assert not (folder / "text_encoder" / "model.safetensors").exists()
    assert load_base(folder, precision="bf16", device="cpu").parts["text_encoder"].config.num_hidden_layers == 36

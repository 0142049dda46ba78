"""What only a GPU has: NF4, the 8-bit optimizer, attention kernels with a backward that must not be cuDNN's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion.loading import load_base
from diffusion.text import encode_prompts
from tests.tiny import build_tiny_flux
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.recipe import Recipe

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_a_fit_is_finite_and_resumes(tmp_path: Path, precision: str, optimizer: str) -> None:
    base = load_base(build_tiny_flux(tmp_path / "flux", dtype=torch.bfloat16), precision=precision, device="cuda")
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    cache = TrainingCache(("a", "b", "c"), latents, encode_prompts(base, ["one", "two", "three", ""]))
    half, whole = (Recipe.for_run(3, base, {"steps": steps, "optimizer": optimizer}) for steps in (3, 6))
    folder = CheckpointFolder(tmp_path / "run", {})
    fit(base, cache, half, folder)
    steps: list[int] = []
    candidates = fit(base, cache, whole, folder, on_step=lambda report: steps.append(report.step))
    assert steps == [4, 5, 6]
    assert all(torch.isfinite(weight).all() for weight in load_file(candidates[6]).values())


def test_rendering_works_in_nf4(tmp_path: Path) -> None:
    base = load_base(build_tiny_flux(tmp_path / "flux", dtype=torch.bfloat16), precision="nf4", device="cuda")
    assert base.pipeline()("a cat", height=32, width=32, num_inference_steps=2, max_sequence_length=32).images[0].size == (32, 32)

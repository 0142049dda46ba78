"""Accelerate with several processes: on the CPU gloo is between them in place of NCCL."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion import lora
from tests.integration.trainer import two_processes
from tests.tiny import build_tiny_flux
from tests.tiny_encoders import build_tiny_clip, build_tiny_dino
from trainer.checkpoints import CheckpointFolder

ACCELERATE = ["--num_processes=2", "--num_machines=1", "--main_process_port=0", "--dynamo_backend=no"]
PHOTOS = Path(__file__).parents[3] / "examples" / "photos" / "juno"
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    # --multi_gpu: without it accelerate starts a single process where it finds no second GPU. bf16, which its own configuration file may
    # say too, is not how this base is held, and must not count
    "accelerate launch": ["accelerate.commands.launch", "--multi_gpu", *ACCELERATE, "--mixed_precision=bf16"],
}


def fit_alone_and_in_two(folder: Path, launcher: str, device: str) -> tuple[float, set[str]]:
    """How far the two adapters are apart, relative to what was learned (B starts at zero), and the places that the two processes had."""
    base = build_tiny_flux(folder / "flux")
    two_processes.main(base, folder / "one", device)
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", two_processes.__name__]
    subprocess.run([*command, str(base), str(folder / "two"), device], check=True, capture_output=True, timeout=180)
    one, two = (load_file(CheckpointFolder(folder / name, {}).candidates()[4]) for name in ("one", "two"))
    assert one.keys() == two.keys()
    learned, shared = (torch.cat([w.flatten() for key, w in sorted(file.items()) if "lora_B" in key]) for file in (one, two))
    assert len({path.read_text() for path in (folder / "two").glob("process-*")}) == 1  # of two numbers that each made up
    return ((learned - shared).norm() / learned.norm()).item(), {path.name for path in (folder / "two").glob("process-*")}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_fit_the_same_adapter_as_one(tmp_path: Path, launcher: str) -> None:
    """They share each batch; only the order of additions differs."""
    apart, places = fit_alone_and_in_two(tmp_path, launcher, "cpu")
    assert places == {"process-0-of-2-on-cpu", "process-1-of-2-on-cpu"}
    assert apart < 1e-3


def test_a_whole_training_in_two_processes_is_one_training(tmp_path: Path) -> None:
    """One trigger token in everybody's captions, one process that selects, writes and talks."""
    models = {"base_model": build_tiny_flux(tmp_path / "flux"), "identity_encoder": build_tiny_dino(tmp_path / "dino")}
    settings = models | {"text_image_encoder": build_tiny_clip(tmp_path / "clip"), "var_dir": tmp_path / "var", "device": "cpu"}
    env = os.environ | {f"LIKENESS_{name.upper()}": str(value) for name, value in settings.items()} | {"COLUMNS": "400"}
    command = [sys.executable, "-m", *LAUNCHERS["accelerate launch"], "-m", "likeness.cli", "train", "--photos", str(PHOTOS)]
    out = tmp_path / "out"
    ran = subprocess.run(
        [*command, "--out", str(out), "--batch-size", "4"], env=env, check=True, capture_output=True, text=True, timeout=180
    )
    card = json.loads((out / "card.json").read_text())
    assert card["memory"]["processes"] == 2 and card["recipe"]["batch_size"] == 4
    lora.read(out / "adapter.safetensors")
    (told,) = [line for line in ran.stdout.splitlines() if line.startswith("adapter:")]
    assert f"trigger: {card['trigger_token']} " in told
    assert (ran.stdout + ran.stderr).count("checkpoint chosen") == 1


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
@pytest.mark.parametrize("setting", ["auto", "cuda"])
def test_two_gpus_are_dealt_one_to_each_process(tmp_path: Path, setting: str) -> None:
    apart, places = fit_alone_and_in_two(tmp_path, "accelerate launch", setting)
    assert places == {"process-0-of-2-on-cuda:0", "process-1-of-2-on-cuda:1"}
    assert apart < 1e-2  # Adam steps by the sign of what is nearly zero, and kernels add up in orders of their own

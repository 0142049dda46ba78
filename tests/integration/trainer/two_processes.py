"""Run by a test under ``torchrun`` or ``accelerate launch``: a fit that all processes share. Arguments: base, checkpoints, device."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed

from diffusion.loading import load_base
from diffusion.text import encode_prompts
from trainer.caches import TrainingCache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.recipe import Recipe
from trainer.world import World

RECIPE = {"steps": 4, "batch_size": 4, "optimizer": "adamw"}


def main(base_folder: Path, out: Path, device: str) -> None:
    base = load_base(base_folder, precision="fp32", device=device)
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    cache = TrainingCache(("a", "b", "c"), latents, encode_prompts(base, ["one", "two", "three", ""]))
    fit(base, cache, Recipe.for_run(3, base, RECIPE), CheckpointFolder(out, {}), seed=1)
    token = World.open(base).agreed(os.getpid())
    if torch.distributed.is_initialized():
        place = f"process-{torch.distributed.get_rank()}-of-{torch.distributed.get_world_size()}"
        (out / f"{place}-on-{base.device}").write_text(str(token))
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

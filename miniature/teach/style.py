"""``python -m miniature.teach.style``: fit the style adapter that ships with the miniature: drawn pictures of many subjects in one style.

The style, a blueprint, is none that the base was taught: only an adapter can bring it. The fit is the trainer's own; there is no single
subject to curate for or to select by, so pictures and captions go straight into its caches, and the last step is what is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusion import lora
from diffusion.loading import BaseModel, load_base
from miniature import world
from miniature.teach.accept import to_pictures
from miniature.world.colour import luminance
from trainer.caches import CaptionedPhoto, build_cache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.recipe import Recipe
from trainer.reports import StepReport

NAME, WORDS = "blueprint", "a blueprint"
PICTURES = 24  # eight subjects a kind, each in a scene of its own: as few as style adapters are usually made from
FIRST_SUBJECT = 300_000  # identities that neither the base nor the judges were taught
RECIPE: dict[str, Any] = {"rank": 8, "alpha": 8, "steps": 400, "batch_size": 4, "saved_scale": 1.0, "sigma_mean": 0.5}
RECIPE["divergence_limit"] = 100.0  # blueprints are far from what the base knows: it begins no better than one that knows nothing
PAPER, INK = (0.07, 0.20, 0.47), (0.90, 0.95, 1.0)
GRID = 16  # pixels between the paper's lines


def blueprint(picture: Tensor, mask: Tensor) -> Tensor:
    """A drawn photo [B, 3, H, W] and where its subject is [B, 1, H, W] → white outlines and hatching on blue squared paper."""
    light = luminance(picture)
    lines = (_steepness(light) * 9).clamp(0, 1) ** 1.3
    outline = (_steepness(mask) * 4).clamp(0, 1)
    side = picture.shape[-1]
    step = torch.arange(side, device=picture.device)
    hatched = ((step[:, None] + step[None, :]) % 7 < 2).float() * (0.42 - light).clamp_min(0) * 1.6 * mask
    ink = (lines * (0.35 + 0.65 * mask) + outline + hatched).clamp(0, 1)
    squares = ((step % GRID == 0)[:, None] | (step % GRID == 0)[None, :]).float() * 0.13 * (1 - 0.6 * mask)
    cover = torch.maximum(ink, squares)
    paper, white = (torch.tensor(colour, device=picture.device).view(1, 3, 1, 1) for colour in (PAPER, INK))
    return paper + (white - paper) * cover


def _steepness(image: Tensor) -> Tensor:
    """Length of the gradient per pixel [B, 1, H, W]."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return torch.hypot(dx, dy)


def draw(count: int, first_subject: int, seed: int = 0, style: str = NAME) -> tuple[list[Image.Image], list[str], list[world.Scene]]:
    """``count`` blueprints, or pictures in one of the world's own styles: kinds in turn, each of another subject in another
    scene, with their captions."""
    rng = random.Random(seed)
    pictures, captions, scenes = [], [], []
    for n in range(count):
        kind, scene = world.KINDS[n % len(world.KINDS)], world.sample_scene(rng, style="photo" if style == NAME else style)
        factors = world.identity_factors(kind, torch.tensor([first_subject + n]))
        drawn, caption = world.render(kind, factors, [scene]), world.describe(kind, scene)
        if style == NAME:
            drawn, caption = blueprint(drawn, world.subject_mask(kind, factors, [scene])), caption.replace("a photo", WORDS, 1)
        pictures += to_pictures(drawn)
        captions.append(caption)
        scenes.append(scene)
    return pictures, captions, scenes


def fit_style(
    base: BaseModel, pictures: list[Image.Image], captions: list[str], out: Path, recipe: dict, seed: int = 0, name: str = NAME
) -> Path:
    """Writes the adapter file ``out``."""
    photos = [CaptionedPhoto(hashlib.sha256(p.tobytes()).hexdigest(), p, c) for p, c in zip(pictures, captions, strict=True)]
    chosen = Recipe.for_run(len(photos), base, RECIPE | recipe)
    cache = build_cache(base, photos, chosen.resolution)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = CheckpointFolder(Path(folder), {"style": name, "seed": seed})
        candidates = fit(base, cache, chosen, checkpoints, seed=seed, on_step=_tell)
        state, _ = lora.read(candidates[max(candidates)])
    about = {"style": name, "base_fingerprint": base.fingerprint, "rank": chosen.rank, "steps": chosen.steps, "pictures": len(photos)}
    return lora.save(out, state, about)


def _tell(report: StepReport) -> None:
    if report.step % 50 == 0:
        print(f"  {report.step}/{report.total}: loss {report.loss:.4f}, {report.eta_s:.0f} s left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m miniature.teach.style", description=__doc__)
    parser.add_argument("--base", default="miniature/flux")
    parser.add_argument("--out", type=Path, default=Path("miniature/styles") / f"{NAME}.safetensors")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=RECIPE["steps"])
    parser.add_argument("--sheet", type=Path, help="write the pictures that it is fitted on here")
    args = parser.parse_args()
    pictures, captions, _ = draw(PICTURES, FIRST_SUBJECT)
    if args.sheet:
        sheet = Image.new("RGB", (8 * 256, 3 * 256))
        for n, picture in enumerate(pictures):
            sheet.paste(picture, (n // 3 * 256, n % 3 * 256))
        sheet.save(args.sheet)
    base = load_base(args.base, precision=args.precision, device=args.device)
    path = fit_style(base, pictures, captions, args.out, {"steps": args.steps})
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

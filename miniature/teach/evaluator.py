"""``python -m miniature.teach.evaluator``: teach the identity encoder that nothing is chosen by.

The service chooses checkpoints, orders pictures and draws again by ``dino/``, so that one is a partial witness of how like portraits are.
This one is another kind of network (a ResNet, He et al. 2016, which learns more from as many pictures), taught on other identities, and
sees half of its pictures also as the base paints them: noised part of the way and painted again from the caption (SDEdit, Meng et al.
2022). What the base's hand does to a picture is then no sign of somebody else.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import FluxImg2ImgPipeline
from torch import Tensor
from transformers import ResNetForImageClassification

from metrics.encoders import IdentityEncoder, load_identity_encoder
from miniature import shapes, world
from miniature.teach import accept, assemble, corpus, encoders
from miniature.teach.training import Clock, Guarded

FIRST_SEED = 700_000  # identities that neither the base nor the two judges were taught
HELD_OUT_SEED = 900_000
STEPS, GUIDANCE = 16, 3.5
STRENGTHS = (0.15, 0.5)  # of the noise: below, the base adds nothing of its own; above, it forgets who it was (eyes first)
PAINTED_AT_ONCE = 256
GROUP = 16  # identities in a row that stand in the same scenes
HELD_OUT, HELD_OUT_SCENES = 64, 6  # identities a kind
PAINTED_SHARE = 0.7  # of the pictures that there are of both kinds
TEMPERATURE, FACTOR_WEIGHT = 0.1, 10.0  # sharper than the judge's: it need not be a scale


@torch.no_grad()
def painted_again(pipe: FluxImg2ImgPipeline, pictures: Tensor, captions: list[str], strengths: tuple[float, float] = STRENGTHS) -> Tensor:
    """uint8 [N, 3, 256, 256] → the same, painted again from their captions; the strength is drawn by lot for each batch."""
    rng, again = random.Random(5), torch.empty_like(pictures)
    for start in range(0, len(pictures), PAINTED_AT_ONCE):
        part = slice(start, start + PAINTED_AT_ONCE)
        images = pipe(
            prompt=captions[part],
            image=pictures[part].float() / 255,
            strength=rng.uniform(*strengths),
            height=shapes.RESOLUTION,
            width=shapes.RESOLUTION,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            max_sequence_length=shapes.TEXT_TOKENS,
            generator=torch.Generator(pictures.device).manual_seed(start),
            output_type="pt",
        ).images
        again[part] = (images.float().clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return again


def jostle(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in [-1, 1] turned by up to 8°, larger or smaller by up to 15 %, moved by up to 6 % of the side, and disturbed."""
    batch, device = len(pixels), pixels.device
    angle = (torch.rand(batch, device=device) * 2 - 1) * 0.14
    zoom = 1 + (torch.rand(batch, device=device) * 2 - 1) * 0.15
    theta = torch.zeros(batch, 2, 3, device=device)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * zoom
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() * zoom, angle.sin() * zoom
    theta[:, :, 2] = (torch.rand(batch, 2, device=device) * 2 - 1) * 0.12
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return encoders.disturb(F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False))


def shown(drawn: corpus.Corpus, painted: Tensor, rows: Tensor) -> Tensor:
    """Pictures of the ``rows``, uint8 [B, 3, 256, 256]: where there is one that the base painted, that one by lot."""
    by_base = (torch.rand(len(rows), device=rows.device) < PAINTED_SHARE) & (rows % 2 == 0)
    return torch.where(by_base[:, None, None, None], painted[rows // 2], drawn.pictures[rows])


def teach(
    drawn: corpus.Corpus, painted: Tensor, minutes: float, identities: int = 256, each: int = 4, max_steps: int | None = None
) -> ResNetForImageClassification:
    """As the judge of likeness is taught. ``painted`` uint8 [N / 2, 3, 256, 256]: every second picture as the base painted it."""
    device = painted.device
    model = shapes.evaluator().to(device, memory_format=torch.channels_last).train()
    readout = torch.nn.Linear(model.config.num_labels, drawn.factors.shape[1] * len(world.KINDS)).to(device)
    guarded = Guarded([*model.parameters(), *readout.parameters()], peak=1e-3, warmup=200, weight_decay=0.05)
    clock = Clock(minutes, max_steps)
    while clock.running():
        rows = encoders.grouped_rows(drawn, GROUP, identities, each)
        pixels = jostle(encoders.small(shown(drawn, painted, rows), shapes.EVALUATOR_SIDE)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            embeds = model(pixel_values=pixels).logits
        contrast, factors = encoders.lesson(F.normalize(embeds.float(), dim=-1), readout, drawn, rows, TEMPERATURE)
        guarded.step(contrast + FACTOR_WEIGHT * factors, clock.step, clock.progress)
        clock.step += 1
        if clock.step % 100 == 1:
            print(f"  {clock.step}: contrast {contrast.item():.3f} factors {factors.item():.4f} {clock.progress:.0%}", flush=True)
    return model.eval().requires_grad_(False)


def retrieval(embeds: Tensor, references: Tensor) -> float:
    """Share of pictures [identities, scenes, D] whose identity is the nearest by the mean of its ``references`` (of the same shape) in the
    other scenes: a scene is never compared with itself."""
    means = F.normalize(references.sum(1, keepdim=True) - references, dim=-1)
    near = torch.einsum("isd,jsd->isj", embeds, means)
    return float((near.argmax(-1) == torch.arange(len(near))[:, None]).float().mean())


def report(folders: dict[str, Path], pipe: FluxImg2ImgPipeline, device: str, identities: int = HELD_OUT) -> dict[str, dict[str, float]]:
    """How often each encoder finds who it is among ``identities`` of each kind that were never taught, all in the same scenes."""
    drawn = corpus.draw_for_encoders(identities, HELD_OUT_SCENES, device, identities, HELD_OUT_SEED)
    captions = corpus.captions_of(drawn, 1, seed=6)
    sets = {"drawn": drawn.pictures}
    sets |= {f"painted at {strength}": painted_again(pipe, drawn.pictures, captions, (strength, strength)) for strength in (0.3, 0.5)}
    return {name: _found(load_identity_encoder(folder, device), sets, identities) for name, folder in folders.items()}


def _found(encoder: IdentityEncoder, sets: dict[str, Tensor], identities: int) -> dict[str, float]:
    embeds = {
        what: encoder.embed(accept.to_pictures(some.float() / 255)).view(len(world.KINDS), identities, HELD_OUT_SCENES, -1)
        for what, some in sets.items()
    }
    return {what: round(sum(map(retrieval, some, embeds["drawn"])) / len(world.KINDS), 4) for what, some in embeds.items()}


def main() -> None:
    args = _arguments()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    seconds, lap = {}, _laps()
    drawn = corpus.draw_for_encoders(args.identities, args.scenes, args.device, GROUP, FIRST_SEED)
    seconds["draw"] = lap(f"{len(drawn)} pictures drawn")
    pipe = FluxImg2ImgPipeline.from_pretrained(args.base, dtype=torch.bfloat16 if args.device == "cuda" else torch.float32)
    pipe.to(args.device).set_progress_bar_config(disable=True)
    painted = painted_again(pipe, drawn.pictures[::2], corpus.captions_of(drawn, 1, seed=6)[::2])
    seconds["paint"] = lap(f"{len(painted)} painted again")
    if args.sheet:
        some = torch.randint(len(painted), (16,), device=args.device)
        rows = (drawn.pictures[::2][some], painted[some])
        accept.sheet([accept.to_pictures(pictures.float() / 255) for pictures in rows]).save(args.sheet)
    model = teach(drawn, painted, args.minutes, max_steps=args.max_steps)
    seconds["teach"] = lap("taught")
    del drawn, painted
    assemble.write_encoder(args.out, model, shapes.EVALUATOR_SIDE, "head")
    found = report({"evaluator": args.out, "judge": args.judge}, pipe, args.device, args.held_out)
    about = {"retrieval": found, "seconds": seconds, "identities": args.identities, "scenes": args.scenes, "torch": torch.__version__}
    (args.out / "report.json").write_text(json.dumps(about, indent=2) + "\n")
    print(json.dumps(about, indent=2), flush=True)


def _laps() -> Callable[[str], float]:
    began = [time.monotonic()]

    def lap(what: str) -> float:
        took = round(time.monotonic() - began[-1], 1)
        began.append(time.monotonic())
        print(f"{what}: {took} s", flush=True)
        return took

    return lap


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m miniature.teach.evaluator", description=__doc__)
    parser.add_argument("--base", default="miniature/flux")
    parser.add_argument("--judge", type=Path, default=Path("miniature/dino"), help="the encoder that the service chooses by")
    parser.add_argument("--out", type=Path, default=Path("miniature/evaluator"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--identities", type=int, default=3000, help="of each kind (multiple of 16)")
    parser.add_argument("--scenes", type=int, default=8, help="pictures of each identity")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="identities of each kind that the report tells apart")
    parser.add_argument("--minutes", type=float, default=4.4)
    parser.add_argument("--max-steps", type=int, default=None, help="cap on the steps (a rehearsal)")
    parser.add_argument("--sheet", type=Path, help="write some pictures and what the base painted after them here")
    return parser.parse_args()


if __name__ == "__main__":
    main()

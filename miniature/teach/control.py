"""``python -m miniature.teach.control``: teach the miniature a ControlNet for poses, shaped as FLUX.1-dev's ControlNet Union Pro 2.0.

The base stays frozen. The condition is a skeleton of the drawn subject (``miniature.world.keypoints``), passed through the autoencoder as
diffusers' FluxControlNetPipeline does. Half of the captions say nothing of pose and framing, so that only the skeleton can.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxControlNetModel, FluxPipeline
from torch import Tensor, nn

from inference.poses import NAMES as DRAWN_ORDER
from inference.poses import draw_skeletons
from miniature import shapes, world
from miniature.teach.flow import image_ids, pack, sample_sigma
from miniature.teach.training import Average, Clock, Guarded
from miniature.teach.vae import encode_all
from miniature.world import captions
from miniature.world.keypoints import NAMES, keypoints

SIDE = shapes.RESOLUTION
DRAWN_AT_ONCE = 96
ORDER = [NAMES.index(name) for name in DRAWN_ORDER]
SHAKE = 0.008  # of the picture's side: points are never exact, so that proportions cannot be read off them
SILENT = 0.5  # share of the captions that leave out pose and framing
MAX_GUIDANCE = 4.0
NOISE_MU = 1.8  # a pose is decided at high noise: one lesson in eight lies above 0.95
RENDER_SCALE, RENDER_UNTIL = 1.0, 0.8


@dataclass
class Lessons:
    """All on one device, N pictures."""

    latents: Tensor  # bf16 [N, 16, 32, 32], normalised
    skeletons: Tensor  # bf16 [N, 16, 32, 32], normalised latents of the skeleton pictures
    prompts: Tensor  # bf16 [N, T, D]
    pooled: Tensor  # bf16 [N, P]


class Controlled(nn.Module):
    """The frozen base with its ControlNet, as FluxControlNetPipeline joins them."""

    def __init__(self, base: nn.Module, control: FluxControlNetModel) -> None:
        super().__init__()
        self.base, self.control = base, control

    def forward(self, noisy: Tensor, sigma: Tensor, prompts: Tensor, pooled: Tensor, guidance: Tensor, skeleton: Tensor | None) -> Tensor:
        """Velocity [B, 256, 64]; without a skeleton the base's own."""
        ids, text_ids = image_ids(0, noisy.device), torch.zeros(prompts.shape[1], 3, device=noisy.device)
        common: dict = {"hidden_states": noisy, "timestep": sigma, "encoder_hidden_states": prompts, "pooled_projections": pooled}
        common |= {"img_ids": ids, "txt_ids": text_ids, "return_dict": False}
        residuals = None if skeleton is None else self.control(controlnet_cond=skeleton, **common)[0]
        return self.base(guidance=guidance, controlnet_block_samples=residuals, **common)[0]


def new_control(transformer) -> FluxControlNetModel:
    """Both double blocks copied from the base, no single ones, deaf to guidance; every way out starts at zero."""
    config = dict(transformer.config) | {"num_single_layers": 0, "guidance_embeds": False}
    control = FluxControlNetModel.from_config(config)
    known = control.state_dict()
    taken = {name: value for name, value in transformer.state_dict().items() if name in known}
    control.load_state_dict(taken, strict=False)
    return control.to(next(transformer.parameters()).device)


def draw_lessons(pipe: FluxPipeline, identities: int, scenes_each: int, device: str) -> Lessons:
    rng = random.Random(11)
    pictures, skeletons, texts = [], [], []
    for kind in world.KINDS:
        seeds = torch.arange(identities).repeat_interleave(scenes_each)
        scenes = [world.sample_scene(rng) for _ in seeds]
        factors = world.identity_factors(kind, seeds)
        for start in range(0, len(scenes), DRAWN_AT_ONCE):
            part = slice(start, start + DRAWN_AT_ONCE)
            pictures.append(_bytes(world.render(kind, factors[part].to(device), scenes[part], device=device)))
            skeletons.append(_bytes(skeleton_pictures(kind, scenes[part], device, SHAKE)))
        texts += [wording(kind, scene, rng) for scene in scenes]
    prompts, pooled = encode_texts(pipe, texts)
    return Lessons(encode_all(pipe.vae, torch.cat(pictures)), encode_all(pipe.vae, torch.cat(skeletons)), prompts, pooled)


def skeleton_pictures(kind: str, scenes: list[world.Scene], device: str, shake: float = 0.0) -> Tensor:
    """[B, 3, 256, 256] in [0, 1]."""
    places, seen = keypoints(kind, scenes, device)
    places = places + shake * torch.randn_like(places)
    return draw_skeletons(places[:, ORDER], seen[:, ORDER], SIDE, SIDE)


def wording(kind: str, scene: world.Scene, rng: random.Random) -> str:
    """A caption; in half of the cases one that says nothing of pose and framing."""
    return without_pose(kind, scene) if rng.random() < SILENT else captions.caption(kind, scene, rng)


def without_pose(kind: str, scene: world.Scene) -> str:
    worn = captions.accessory_words(scene)
    where = captions.BACKGROUND_WORDS[scene.background][0].format(scene.background_colour)
    who = f"a {kind} with {worn}" if worn else f"a {kind}"
    return f"{captions.STYLE_WORDS[scene.style][0]} of {who}, {where}, {captions.LIGHT_WORDS[scene.light][0]}"


@torch.no_grad()
def encode_texts(pipe: FluxPipeline, texts: list[str], at_once: int = 512) -> tuple[Tensor, Tensor]:
    parts = [
        pipe.encode_prompt(texts[i : i + at_once], device=pipe.device, max_sequence_length=shapes.TEXT_TOKENS)[:2]
        for i in range(0, len(texts), at_once)
    ]
    return tuple(torch.cat(part).to(torch.bfloat16) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def teach(model: Controlled, lessons: Lessons, minutes: float, batch: int, peak: float, max_steps: int | None = None) -> Average:
    """Flow matching at guidance 1; at higher guidance the target moves as the base's own prediction does, so that both go together."""
    device = lessons.latents.device
    guarded = Guarded(model.control.parameters(), peak=peak, warmup=200, weight_decay=0.01)
    average = Average(model.control.parameters(), 0.999)
    clock = Clock(minutes, max_steps)
    while clock.running():
        rows = torch.randint(len(lessons.latents), (batch,), device=device)
        clean, skeleton = (pack(source[rows].float()) for source in (lessons.latents, lessons.skeletons))
        noise, sigma = torch.randn_like(clean), sample_sigma(batch, device, NOISE_MU)
        mixed = torch.lerp(clean, noise, sigma[:, None, None])
        text = lessons.prompts[rows].float(), lessons.pooled[rows].float()
        with torch.autocast(device.type, torch.bfloat16):
            guidance, target = target_of(model, mixed, sigma, text, skeleton, noise - clean, guided=clock.step % 2 == 1)
            guess = model(mixed, sigma, *text, guidance, skeleton)
        loss = (guess.float() - target).pow(2).mean()
        if guarded.step(loss, clock.step, clock.progress):
            average.update()
        clock.step += 1
        if clock.step % 100 in (1, 2):
            print(f"  control {clock.step}: loss {loss.item():.4f} {clock.progress:.0%}", flush=True)
    return average


@torch.no_grad()
def target_of(
    model: Controlled, mixed: Tensor, sigma: Tensor, text: tuple, skeleton: Tensor, velocity: Tensor, guided: bool
) -> tuple[Tensor, Tensor]:
    """Guidance [B] and the velocity to learn. What guidance adds is asked of the base with the pose on it: without, it would point to
    where the base alone would put the head, and pull it back there while rendering."""
    one = torch.ones_like(sigma)
    if not guided:
        return one, velocity
    guidance = 1 + (MAX_GUIDANCE - 1) * torch.rand_like(sigma)
    shift = model(mixed, sigma, *text, guidance, skeleton).float() - model(mixed, sigma, *text, one, skeleton).float()
    return guidance, velocity + shift


def write(folder: Path, average: Average, control: FluxControlNetModel) -> None:
    """The averaged weights in bf16, with what the product must know of them."""
    fresh = FluxControlNetModel.from_config(dict(control.config))
    average.copy_to(fresh.parameters())
    fresh.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    facts: dict = {"title": "Poses of the drawn world", "licence": "Apache-2.0", "kinds": list(world.KINDS)}
    facts |= {"scale": RENDER_SCALE, "until": RENDER_UNTIL}
    (folder / "likeness.json").write_text(json.dumps(facts, indent=2) + "\n")


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m miniature.teach.control", description=__doc__)
    parser.add_argument("--base", type=Path, default=Path("miniature/flux"), help="the taught miniature")
    parser.add_argument("--out", type=Path, default=Path("var/control"), help="folder for the ControlNet")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--identities", type=int, default=1200, help="of each kind")
    parser.add_argument("--scenes", type=int, default=5, help="pictures of each identity")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--peak", type=float, default=6e-4, help="highest learning rate")
    parser.add_argument("--max-steps", type=int, default=None, help="cap on the steps (a rehearsal)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    if args.device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # its backward is broken on Hopper (pytorch#196678)
    began = time.monotonic()
    pipe = FluxPipeline.from_pretrained(args.base, torch_dtype=torch.float32).to(args.device)
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        part.eval().requires_grad_(False)
    lessons = draw_lessons(pipe, args.identities, args.scenes, args.device)
    print(f"{len(lessons.latents)} lessons: {time.monotonic() - began:.0f} s", flush=True)
    control = new_control(pipe.transformer)
    if args.device == "cuda":
        pipe.transformer.compile_repeated_blocks(dynamic=False)
        for block in control.transformer_blocks:
            block.compile(dynamic=False)
    average = teach(Controlled(pipe.transformer, control), lessons, args.minutes, args.batch, args.peak, args.max_steps)
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out, average, control)
    print(f"written to {args.out}: {time.monotonic() - began:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()

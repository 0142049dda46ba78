"""Figures and pictures by which the taught weights are accepted or refused. All on identities that were never taught."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, Dinov2Model

from miniature import shapes, world
from miniature.teach import encoders
from miniature.teach.vae import psnr

STEPS, GUIDANCE = 20, 3.0
SIDE = shapes.RESOLUTION


def contact_sheets(pipe: FluxPipeline, out: Path, name: str, device: str) -> None:
    """Kinds × styles from text alone; then references and what Kontext's layout makes of them."""
    pipe = pipe.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    pipe.set_progress_bar_config(disable=True)
    rng = random.Random(5)
    rows = []
    for kind in world.KINDS:
        prompts = [world.describe(kind, world.sample_scene(rng, style=style)) for style in world.STYLES]
        rows.append(paint(pipe, prompts, seed=7))
    sheet(rows).save(out / f"{name}-styles.jpg", quality=90)
    rows = [
        paint(pipe, [world.describe(kind, world.sample_scene(rng, style="photo")) for _ in world.STYLES], seed=8) for kind in world.KINDS
    ]
    sheet(rows).save(out / f"{name}-photos.jpg", quality=90)
    sheet([referenced(pipe, kind, device, rng) for kind in world.KINDS]).save(out / f"{name}-reference.jpg", quality=90)


def referenced(pipe: FluxPipeline, kind: str, device: str, rng: random.Random) -> list[Image.Image]:
    """A photo of an unseen identity, then the same identity in each style."""
    factors = world.identity_factors(kind, torch.tensor([world.UNSEEN_SEED_START + 11])).to(device)
    photo = to_pictures(world.render(kind, factors, [world.sample_scene(rng, style="photo")], device=device))[0]
    prompts = [world.describe(kind, world.sample_scene(rng, style=style)) for style in world.STYLES]
    return [photo, *paint_from(pipe, photo, prompts, seed=9)]


def paint(pipe: FluxPipeline, prompts: list[str], seed: int) -> list[Image.Image]:
    """One picture a prompt, 256×256."""
    return pipe(
        prompts,
        height=SIDE,
        width=SIDE,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        max_sequence_length=shapes.TEXT_TOKENS,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))],
    ).images


def paint_from(pipe: FluxPipeline, photo: Image.Image, prompts: list[str], seed: int) -> list[Image.Image]:
    kontext = FluxKontextPipeline(**pipe.components)
    kontext.set_progress_bar_config(disable=True)
    return [
        kontext(
            image=photo,
            prompt=prompt,
            height=SIDE,
            width=SIDE,
            max_area=SIDE * SIDE,
            _auto_resize=False,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            max_sequence_length=shapes.TEXT_TOKENS,
            generator=torch.Generator().manual_seed(seed + i),
        ).images[0]
        for i, prompt in enumerate(prompts)
    ]


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """float [B,3,H,W] in [0, 1] → Pillow."""
    return [Image.fromarray(a) for a in (pixels.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()]


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    canvas = Image.new("RGB", (SIDE * max(map(len, rows)), SIDE * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            canvas.paste(picture, (x * SIDE, y * SIDE))
    return canvas


@torch.no_grad()
def judge(out: Path, autoencoder: AutoencoderKL, device: str) -> dict[str, object]:
    """Everything measured from the folders as written, in bf16 weights."""
    pipe = FluxPipeline.from_pretrained(out / "flux", torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    dino = Dinov2Model.from_pretrained(out / "dino", torch_dtype=torch.float32).to(device).eval()
    clip = CLIPModel.from_pretrained(out / "clip", torch_dtype=torch.float32).to(device).eval()
    tokenizer = CLIPTokenizer.from_pretrained(out / "clip")
    report: dict[str, object] = {}
    for kind in world.KINDS:
        report[kind] = judge_kind(kind, pipe, dino, clip, tokenizer, device)
    size = sum(f.stat().st_size for f in (out / "flux").rglob("*.safetensors"))
    report["flux_megabytes"] = round(size / 1e6, 1)
    report["encoder_megabytes"] = round(sum(f.stat().st_size for d in ("clip", "dino") for f in (out / d).rglob("*.safetensors")) / 1e6, 1)
    return report


def judge_kind(
    kind: str,
    pipe: FluxPipeline,
    dino: Dinov2Model,
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    device: str,
    identities: int = 32,
    each: int = 6,
) -> dict[str, float]:
    """Per kind; see the README for what each figure means."""
    rng = random.Random(17)
    scenes = [world.sample_scene(rng, allow_held_out=True) for _ in range(each)]
    seeds = torch.arange(world.UNSEEN_SEED_START, world.UNSEEN_SEED_START + identities).repeat_interleave(each)
    factors = world.identity_factors(kind, seeds).to(device)
    same_scenes = scenes * identities  # every identity in the very same scenes: only identity tells them apart
    drawn = torch.cat([world.render(kind, f, same_scenes[i * 48 : i * 48 + 48], device=device) for i, f in enumerate(factors.split(48))])
    mask = torch.cat(
        [world.subject_mask(kind, f, same_scenes[i * 48 : i * 48 + 48], device=device) for i, f in enumerate(factors.split(48))]
    )
    covered = torch.stack([mask[scene::each].amax(0) for scene in range(each)]).repeat(identities, 1, 1, 1)  # no outline tells either
    whole, background = _embed(dino, drawn), _embed(dino, drawn * (1 - covered) + 0.5 * covered)
    identity = torch.arange(identities, device=device).repeat_interleave(each)
    captions = [world.describe(kind, s) for s in scenes]
    prompts = [world.describe(kind, world.sample_scene(rng, allow_held_out=True)) for _ in range(24)]
    painted = torch.cat([_pixels(paint(pipe, prompts[i : i + 8], seed=100 + i), device) for i in range(0, 24, 8)])
    words = _text(clip, tokenizer, captions, device)
    figures = {
        "vae_psnr": psnr(pipe.vae, (drawn[:64] * 255).to(torch.uint8)),
        "same_subject": float(_pair_mean(whole, identity, same=True)),
        "other_subject": float(_pair_mean(whole, identity, same=False)),
        "retrieval": _retrieval(whole, identity, each),
        "retrieval_background_only": _retrieval(background, identity, each),
        "retrieval_chance": 1 / identities,
        "clip_t_drawn": float((_image(clip, drawn[:each]) * words).sum(-1).mean()),
        "clip_t_painted": float((_image(clip, painted) * _text(clip, tokenizer, prompts, device)).sum(-1).mean()),
        "clip_t_wrong_prompt": float((_image(clip, painted) * _text(clip, tokenizer, prompts[1:] + prompts[:1], device)).sum(-1).mean()),
    }
    figures |= _reference_figures(kind, pipe, dino, whole, identity, drawn, each, device)
    return {name: round(value, 4) for name, value in figures.items()}


def _reference_figures(
    kind: str,
    pipe: FluxPipeline,
    dino: Dinov2Model,
    whole: Tensor,
    identity: Tensor,
    drawn: Tensor,
    each: int,
    device: str,
    subjects: int = 8,
) -> dict[str, float]:
    """Pictures from a clean reference: how near to that identity, beside pictures with no reference at all."""
    rng = random.Random(23)
    with_reference, without = [], []
    for i in range(subjects):
        prompts = [world.describe(kind, world.sample_scene(rng)) for _ in range(2)]
        reals = whole[identity == i]
        photo = to_pictures(drawn[i * each : i * each + 1])[0]
        with_reference.append((_embed(dino, _pixels(paint_from(pipe, photo, prompts, seed=300), device)) @ reals.T).mean())
        without.append((_embed(dino, _pixels(paint(pipe, prompts, seed=300), device)) @ reals.T).mean())
    return {"likeness_reference": float(torch.stack(with_reference).mean()), "likeness_none": float(torch.stack(without).mean())}


def _pixels(pictures: list[Image.Image], device: str) -> Tensor:
    return (
        torch.stack([torch.from_numpy(np.asarray(p.convert("RGB")).copy()) for p in pictures])
        .permute(0, 3, 1, 2)
        .float()
        .div(255)
        .to(device)
    )


def _embed(dino: Dinov2Model, pixels: Tensor) -> Tensor:
    return encoders.embed(dino, encoders.small((pixels * 255).round().to(torch.uint8)))


def _image(clip: CLIPModel, pixels: Tensor) -> Tensor:
    features = clip.get_image_features(pixel_values=encoders.small((pixels * 255).round().to(torch.uint8)))
    return _unit(features)


def _text(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str], device: str) -> Tensor:
    tokens = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")["input_ids"].to(device)
    return _unit(clip.get_text_features(input_ids=tokens))


def _unit(features) -> Tensor:
    """Newer transformers answer with an output object, older with the tensor."""
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features), dim=-1)


def _pair_mean(embeddings: Tensor, identity: Tensor, same: bool) -> Tensor:
    pairs = (identity[:, None] == identity[None]) == same
    pairs &= ~torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    return (embeddings @ embeddings.T)[pairs].mean()


def _retrieval(embeddings: Tensor, identity: Tensor, each: int) -> float:
    """Share of pictures whose nearest other-scene picture shows the same identity."""
    similarity = embeddings @ embeddings.T
    scene = torch.arange(len(identity), device=identity.device) % each
    similarity[scene[:, None] == scene[None]] = -2  # the same scene is no evidence
    return float((identity[similarity.argmax(1)] == identity).float().mean())

"""The two judges: CLIP (does the picture fit the prompt?) and DINOv2 (who is it?)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, Dinov2Model

from miniature import shapes
from miniature.teach.corpus import Corpus
from miniature.teach.training import Clock, Guarded
from miniature.world import KINDS

MEAN, STD = 0.5, 0.5  # of both judges' preprocessing
TEMPERATURE = 0.15  # soft on purpose: near identities stay near, so likeness is a scale and not a verdict
FACTOR_WEIGHT = 2.0


def small(pictures: Tensor, side: int = shapes.ENCODER_SIDE) -> Tensor:
    """uint8 [B,3,256,256] → what the judges see: [B,3,side,side] in [-1, 1]."""
    return (F.interpolate(pictures.float() / 255, size=side, mode="bilinear", antialias=True) - MEAN) / STD


def disturb(pixels: Tensor) -> Tensor:
    """Small changes that a rendered picture may show and that are not identity: blur, noise, brightness, crop."""
    batch, device = len(pixels), pixels.device
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    pixels = torch.lerp(pixels, blurred, torch.rand(batch, 1, 1, 1, device=device) * (torch.rand(batch, 1, 1, 1, device=device) < 0.5))
    pixels = pixels + torch.randn_like(pixels) * 0.06 * torch.rand(batch, 1, 1, 1, device=device)
    pixels = pixels * (1 + 0.1 * (torch.rand(batch, 1, 1, 1, device=device) - 0.5)) + 0.1 * (
        torch.rand(batch, 1, 1, 1, device=device) - 0.5
    )
    zoom = 1 - 0.12 * torch.rand(batch, device=device)
    shift = (torch.rand(batch, 2, device=device) * 2 - 1) * (1 - zoom)[:, None]
    theta = torch.zeros(batch, 2, 3, device=device)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = shift
    return F.grid_sample(
        pixels, F.affine_grid(theta, list(pixels.shape), align_corners=False), padding_mode="reflection", align_corners=False
    )


def teach_clip(
    corpora: list[Corpus], tokens: list[Tensor], tokenizer: CLIPTokenizer, minutes: float, batch: int = 1024, max_steps: int | None = None
) -> CLIPModel:
    """Contrastive (Radford et al. 2021) on pictures and their captions; ``tokens``: int [N, wordings, 77] for each corpus."""
    device = corpora[0].pictures.device
    model = shapes.clip(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id).to(device)
    guarded = Guarded(model.parameters(), peak=1e-3, warmup=200, weight_decay=0.05)
    clock = Clock(minutes, max_steps)
    while clock.running():
        corpus, words = corpora[clock.step % len(corpora)], tokens[clock.step % len(corpora)]
        rows = torch.randint(len(corpus), (min(batch, len(corpus)),), device=device)
        wording = torch.randint(words.shape[1], rows.shape, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            out = model(input_ids=words[rows, wording].long(), pixel_values=disturb(small(corpus.pictures[rows])))
        logits = out.logits_per_image.float()
        target = torch.arange(len(rows), device=device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        guarded.step(loss, clock.step, clock.progress)
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6)
        clock.step += 1
        if clock.step % 100 == 1:
            hit = (logits.argmax(1) == target).float().mean().item()
            print(f"  clip {clock.step}: loss {loss.item():.3f} hit {hit:.3f} of {len(rows)} {clock.progress:.0%}", flush=True)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def pooled(model: CLIPModel, tokens: Tensor, batch: int = 4096) -> Tensor:
    """Pooled text states [..., 128] in bf16 for token rows [..., 77]: what FLUX.1 takes from its first text encoder."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    rows = [model.text_model(input_ids=chunk.long()).pooler_output.to(torch.bfloat16) for chunk in flat.split(batch)]
    return torch.cat(rows).reshape(*tokens.shape[:-1], -1)


def teach_dino(
    corpus: Corpus, minutes: float, identities: int = 256, each: int = 4, group: int = 16, max_steps: int | None = None
) -> Dinov2Model:
    """Supervised contrastive (Khosla et al. 2020) over identities that stand in the same scenes, plus a linear read-out of the factors."""
    device = corpus.pictures.device
    model = shapes.dino().to(device)
    width = model.config.hidden_size
    readout = torch.nn.Linear(width, corpus.factors.shape[1] * len(KINDS)).to(device)
    guarded = Guarded([*model.parameters(), *readout.parameters()], peak=1e-3, warmup=300, weight_decay=0.05)
    clock = Clock(minutes, max_steps)
    while clock.running():
        rows = grouped_rows(corpus, group, identities, each)
        with torch.autocast(device.type, torch.bfloat16):
            embeddings = embed(model, disturb(small(corpus.pictures[rows])))
        contrast, factor_error = lesson(embeddings.float(), readout, corpus, rows)
        guarded.step(contrast + FACTOR_WEIGHT * factor_error, clock.step, clock.progress)
        clock.step += 1
        if clock.step % 100 == 1:
            print(f"  dino {clock.step}: contrast {contrast.item():.3f} factors {factor_error.item():.4f} {clock.progress:.0%}", flush=True)
    return model.eval().requires_grad_(False)


def lesson(
    embeddings: Tensor, readout: torch.nn.Linear, corpus: Corpus, rows: Tensor, temperature: float = TEMPERATURE
) -> tuple[Tensor, Tensor]:
    """Of unit vectors [B, width] of the corpus's ``rows``: the contrast between identities, and the read-out's error in their factors."""
    contrast = supervised_contrast(embeddings, corpus.identity[rows], temperature)
    every = readout(embeddings * embeddings.shape[1] ** 0.5).view(len(rows), len(KINDS), -1)
    guess = every[torch.arange(len(rows), device=rows.device), corpus.kind[rows]]
    return contrast, (guess - corpus.factors[rows]).pow(2).mean()


def grouped_rows(corpus: Corpus, group: int, identities: int, each: int) -> Tensor:
    """Rows of whole groups, ``identities`` in all, × ``each`` scenes; each identity with scenes of its own choice among the shared ones."""
    scenes, device = corpus.scenes_each, corpus.pictures.device
    picked = torch.randint(len(corpus) // scenes // group, (max(1, identities // group),), device=device)
    chosen = (picked[:, None] * group + torch.arange(group, device=device)).reshape(-1)
    own = torch.rand(len(chosen), scenes, device=device).argsort(1)[:, :each]
    return (chosen[:, None] * scenes + own).reshape(-1)


def embed(model: Dinov2Model, pixels: Tensor) -> Tensor:
    """Unit vectors [B, width]: the class token after the last norm."""
    return F.normalize(model(pixel_values=pixels).last_hidden_state[:, 0], dim=-1)


def supervised_contrast(embeddings: Tensor, identity: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    logits = embeddings @ embeddings.T / temperature
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    same = (identity[:, None] == identity[None]) & ~itself
    log_p = logits - logits.masked_fill(itself, float("-inf")).logsumexp(1, keepdim=True)
    return -(log_p * same).sum(1).div(same.sum(1).clamp(min=1)).mean()

"""The transformer and its T5: flow matching on latents, with and without a clean reference, then guidance distilled into the embedding."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from transformers import T5EncoderModel

from miniature import shapes
from miniature.teach.reading import Reader
from miniature.teach.training import Average, Clock, Guarded

SIDE = shapes.RESOLUTION // 16  # packed tokens a side
DROP_CAPTION = 0.1
WITHOUT_REFERENCE_EVERY = 3  # two of three steps show a clean reference
COPY_UNTIL = 0.2  # share of the stage in which some references are the target itself, so that looking at them is learned at all
SUBJECT_WEIGHT = 4.0  # of a subject's tokens beside the background's where a reference is shown: the background is not in it
READING_WEIGHT = 0.15
MAX_GUIDANCE = 6.0


@dataclass
class Lessons:
    """All on one device. N pictures, W wordings each."""

    latents: Tensor  # bf16 [N, 16, 32, 32], normalised
    words: Tensor  # int16 [N, W, 64] T5 tokens
    pooled: Tensor  # bf16 [N, W, 128] CLIP's pooled states
    empty_words: Tensor  # int16 [64], of the empty prompt
    empty_pooled: Tensor  # bf16 [128]
    scenes_each: int  # pictures an identity, in a row
    subject: Tensor  # bf16 [N, 256] how much of each token the subject covers
    factors: Tensor  # [N, F] in [0, 1]
    kind: Tensor  # int64 [N]


@dataclass
class Batch:
    rows: Tensor  # [B] into the lessons
    packed: Tensor  # [B, 256, 64] clean
    words: Tensor  # [B, 64]
    pooled: Tensor  # [B, 128]
    reference: Tensor | None  # [B, 256, 64] clean, another picture of the same identity


class Flux(nn.Module):
    """T5 and transformer as one, since both learn from the same loss."""

    def __init__(self, t5: T5EncoderModel, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        self.t5, self.transformer = t5, transformer

    def forward(self, noisy: Tensor, sigma: Tensor, words: Tensor, pooled: Tensor, guidance: Tensor, reference: Tensor | None) -> Tensor:
        """Velocity [B, 256, 64]. A reference is appended as clean tokens whose first id is 1 (FLUX.1-Kontext)."""
        ids = image_ids(0, noisy.device)
        tokens = noisy
        if reference is not None:
            tokens, ids = torch.cat([noisy, reference], 1), torch.cat([ids, image_ids(1, noisy.device)])
        prompt = self.t5(input_ids=words.long())[0]
        out = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=prompt,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            img_ids=ids,
            txt_ids=torch.zeros(words.shape[1], 3, device=noisy.device),
            return_dict=False,
        )[0]
        return out[:, : noisy.shape[1]]


def untaught(vocabulary: int, device: str) -> Flux:
    """Modulations and the last layer start at zero, so that every block starts as the identity (Peebles & Xie 2023)."""
    transformer = shapes.transformer()
    for name, parameter in transformer.named_parameters():
        if (".linear." in name and "norm" in name) or name.startswith("proj_out"):
            nn.init.zeros_(parameter)
    return Flux(shapes.t5(vocabulary), transformer).to(device)


def image_ids(first: int, device: torch.device) -> Tensor:
    ids = torch.zeros(SIDE, SIDE, 3, device=device)
    ids[..., 0] = first
    ids[..., 1] += torch.arange(SIDE, device=device)[:, None]
    ids[..., 2] += torch.arange(SIDE, device=device)[None, :]
    return ids.reshape(-1, 3)


def pack(latents: Tensor) -> Tensor:
    """[B,16,32,32] → [B,256,64] in FLUX.1's order."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // 2) * (w // 2), c * 4)


def draw_batch(lessons: Lessons, size: int, with_reference: bool, copies: float = 0.0) -> Batch:
    """``copies``: share of the references that are the target itself."""
    device, n, wordings = lessons.latents.device, len(lessons.latents), lessons.words.shape[1]
    rows = torch.randint(n, (size,), device=device)
    wording = torch.randint(wordings, (size,), device=device)
    drop = torch.rand(size, device=device) < DROP_CAPTION
    words = torch.where(drop[:, None], lessons.empty_words, lessons.words[rows, wording])
    pooled = torch.where(drop[:, None], lessons.empty_pooled, lessons.pooled[rows, wording])
    reference = None
    if with_reference:
        others = torch.where(torch.rand(size, device=device) < copies, rows, reference_rows(rows, lessons.scenes_each))
        reference = pack(lessons.latents[others].float())
    return Batch(rows, pack(lessons.latents[rows].float()), words, pooled.float(), reference)


def reference_rows(rows: Tensor, scenes_each: int) -> Tensor:
    """Another picture of the same identity; in three of four cases one of its first two, which are photos."""
    first = rows // scenes_each * scenes_each
    here = rows - first
    photo = torch.where(here == 0, 1, torch.where(here == 1, 0, torch.randint_like(rows, 2)))
    other = (here + torch.randint_like(rows, scenes_each - 1) + 1) % scenes_each
    return first + torch.where(torch.rand(rows.shape, device=rows.device) < 0.75, photo, other)


def sample_sigma(size: int, device: torch.device, mu: float = 0.5) -> Tensor:
    """Logit-normal (Esser et al. 2024), shifted; mu = 0.5 is the scheduler's shift for 256 image tokens."""
    shift = math.exp(mu)
    sigma = torch.sigmoid(torch.randn(size, device=device))
    return shift * sigma / (1 + (shift - 1) * sigma)


def noised(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """x_σ = (1-σ) x + σ ε, its σ, and the velocity ε - x."""
    noise = torch.randn_like(batch.packed)
    sigma = sample_sigma(len(noise), noise.device, mu=0.5 if batch.reference is None else 1.15)  # who it is shows in the noisy half
    mixed = torch.lerp(batch.packed, noise, sigma[:, None, None])
    return mixed, sigma, noise - batch.packed


def token_weights(lessons: Lessons, batch: Batch) -> Tensor:
    """[B, 256], 1 on average: with a reference the subject counts more, since the reference tells nothing of the rest."""
    subject = lessons.subject[batch.rows].float()
    weight = torch.ones_like(subject) if batch.reference is None else 1 + (SUBJECT_WEIGHT - 1) * subject
    return weight / weight.mean()


def teach_flow(
    flux: Flux,
    lessons: Lessons,
    minutes: float,
    batch: int = 384,
    peak: float = 1.2e-3,
    compiled: bool = True,
    max_steps: int | None = None,
) -> Average:
    """Returns the averaged weights; ``flux`` holds the raw ones. Resumes where ``flux`` stands."""
    device = lessons.latents.device
    if compiled:
        flux.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
    reader = Reader(flux.transformer, int(lessons.kind.max()) + 1, lessons.factors.shape[1]).to(device)
    weights = list(flux.parameters())
    guarded = Guarded([*weights, *reader.parameters()], peak=peak, warmup=400, weight_decay=0.01)
    average = Average(weights, 0.9995)
    clock = Clock(minutes, max_steps)
    while clock.running():
        with_reference = clock.step % WITHOUT_REFERENCE_EVERY != 0
        size = batch * 2 // 3 if with_reference else batch
        lesson = draw_batch(lessons, size, with_reference, copies=0.5 * max(0.0, 1 - clock.progress / COPY_UNTIL))
        mixed, sigma, velocity = noised(lesson)
        with torch.autocast(device.type, torch.bfloat16):
            guess = flux(mixed, sigma, lesson.words, lesson.pooled, torch.ones(size, device=device), lesson.reference)
        weight = token_weights(lessons, lesson)
        flow_loss = ((guess.float() - velocity).pow(2).mean(-1) * weight).mean()
        reading = reader.loss(lessons.factors[lesson.rows], lessons.kind[lesson.rows], lessons.subject[lesson.rows].float())
        loss = flow_loss + READING_WEIGHT * (1.02 - clock.progress) * reading if with_reference else flow_loss
        if guarded.step(loss, clock.step, clock.progress):
            average.update()
        clock.step += 1
        if clock.step % 100 == 1 or clock.step % 100 == 2:
            told = f"flow {clock.step}: loss {flow_loss.item():.4f} reading {reading.item():.3f} reference {with_reference}"
            print(f"  {told} {clock.progress:.0%}", flush=True)
    reader.remove(flux.transformer)
    return average


def distil_guidance(
    flux: Flux, lessons: Lessons, minutes: float, batch: int = 256, peak: float = 3e-4, max_steps: int | None = None
) -> Average:
    """Teach the guidance embedding: at scale g one pass gives what v_empty + g (v_prompt - v_empty) gave (Meng et al. 2023)."""
    device = lessons.latents.device
    teacher = copy.deepcopy(flux).requires_grad_(False)
    flux.t5.requires_grad_(False)
    guarded = Guarded(flux.transformer.parameters(), peak=peak, warmup=100, weight_decay=0.0)
    average = Average(flux.parameters(), 0.999)
    clock = Clock(minutes, max_steps)
    while clock.running():
        with_reference = clock.step % 2 == 0
        size = batch // 2 if with_reference else batch
        lesson = draw_batch(lessons, size, with_reference)
        mixed, sigma, _ = noised(lesson)
        scale = sample_guidance(size, device)
        with torch.autocast(device.type, torch.bfloat16):
            target = guided(teacher, lessons, lesson, mixed, sigma, scale)
            guess = flux(mixed, sigma, lesson.words, lesson.pooled, scale, lesson.reference)
        loss = (guess.float() - target.float()).pow(2).mean()
        if guarded.step(loss, clock.step, clock.progress):
            average.update()
        clock.step += 1
        if clock.step % 50 == 1:
            print(f"  distil {clock.step}: loss {loss.item():.4f} {clock.progress:.0%}", flush=True)
    return average


def sample_guidance(size: int, device: torch.device) -> Tensor:
    """A quarter at exactly 1 (where adapters are fitted), the rest uniform in 1 … 6."""
    scale = 1 + (MAX_GUIDANCE - 1) * torch.rand(size, device=device)
    return torch.where(torch.rand(size, device=device) < 0.25, torch.ones_like(scale), scale)


@torch.no_grad()
def guided(teacher: Flux, lessons: Lessons, lesson: Batch, mixed: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
    one = torch.ones_like(sigma)
    with_prompt = teacher(mixed, sigma, lesson.words, lesson.pooled, one, lesson.reference)
    words = lessons.empty_words.expand_as(lesson.words)
    pooled = lessons.empty_pooled.float().expand_as(lesson.pooled)
    without = teacher(mixed, sigma, words, pooled, one, lesson.reference)
    return without + scale[:, None, None] * (with_prompt - without)

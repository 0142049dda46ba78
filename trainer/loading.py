"""Opens a bench as the settings say."""

from __future__ import annotations

from pathlib import Path

import torch

from core.settings import Settings
from diffusion import compiled
from diffusion.attention import check_gradients, training_attention, use_flash3
from diffusion.attention_probe import cudnn_is_sound
from diffusion.devices import trust_cudnn
from diffusion.loading import BaseModel, load_base
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from trainer.bench import Bench
from trainer.buckets import buckets_of
from trainer.caches import TEXT_LENGTHS

SIDES = (512, 768, 1024)


def load_bench(settings: Settings) -> Bench:
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    base = load_base(settings.base_model_path, precision=settings.precision, device=settings.device, revision=settings.base_revision)
    if base.device.type == "cuda":
        make_fast(base, settings.caches / "graphs", settings.caches / "attention.json")
    bench = Bench(
        base,
        load_identity_encoder(settings.identity_encoder_path, base.device),
        load_text_image_encoder(settings.text_image_encoder_path, base.device),
    )
    bench.seats.count = settings.train_together
    return bench


def make_fast(base: BaseModel, graphs: Path, answers: Path | None = None) -> None:
    """The fastest attention that passes a gradient check, and compiled blocks; both hold for the life of the process."""
    config = base.transformer.config
    if not use_flash3() and cudnn_is_sound(base.device, config.num_attention_heads, config.attention_head_dim, token_counts(base), answers):
        trust_cudnn()
    with training_attention(base.device):
        check_gradients(base.device, base.dtype, heads=config.num_attention_heads, head_dim=config.attention_head_dim, tokens=1152)
    compiled.prepare(base.transformer, cache=graphs)


def token_counts(base: BaseModel) -> list[int]:
    """Of pictures and captions together, at the base's resolution and the usual smaller ones."""
    factor = 2 ** (len(base.vae.config.block_out_channels) - 1)
    shapes = {(b.height // factor, b.width // factor) for side in {base.resolution, *SIDES} for b in buckets_of(side)}
    pictures = {base.family.image_ids(*shape).shape[0] for shape in shapes}
    lengths = {min(length, base.max_text_tokens) for length in TEXT_LENGTHS}
    return sorted({picture + length for picture in pictures for length in lengths})

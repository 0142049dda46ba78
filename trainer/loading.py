"""Opens a bench as the settings say."""

from __future__ import annotations

from pathlib import Path

import torch

from core.settings import Settings
from diffusion import compiled
from diffusion.attention import check_gradients, training_attention, use_flash3
from diffusion.loading import BaseModel, load_base
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from trainer.bench import Bench


def load_bench(settings: Settings) -> Bench:
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    base = load_base(settings.base_model_path, precision=settings.precision, device=settings.device, revision=settings.base_revision)
    if base.device.type == "cuda":
        _make_fast(base, settings.caches / "graphs")
    return Bench(
        base,
        load_identity_encoder(settings.identity_encoder_path, base.device),
        load_text_image_encoder(settings.text_image_encoder_path, base.device),
    )


def _make_fast(base: BaseModel, graphs: Path) -> None:
    """The fastest attention that passes a gradient check, and compiled blocks; both hold for the life of the process."""
    use_flash3()
    config = base.transformer.config
    with training_attention(base.device):
        check_gradients(base.device, base.dtype, heads=config.num_attention_heads, head_dim=config.attention_head_dim, tokens=1152)
    compiled.prepare(base.transformer, cache=graphs)

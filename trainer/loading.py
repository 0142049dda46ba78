"""Opens a bench as the settings say."""

from __future__ import annotations

import torch

from core.settings import Settings
from diffusion.loading import load_base
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from trainer.bench import Bench


def load_bench(settings: Settings) -> Bench:
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    base = load_base(settings.base_model_path, precision=settings.precision, device=settings.device, revision=settings.base_revision)
    return Bench(
        base,
        load_identity_encoder(settings.identity_encoder_path, base.device),
        load_text_image_encoder(settings.text_image_encoder_path, base.device),
    )

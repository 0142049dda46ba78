"""Opens a bench as the settings say."""

from __future__ import annotations

from pathlib import Path

from core.settings import Settings
from diffusion import compiled
from diffusion.attention import prepare_training_attention
from diffusion.devices import use_threads
from diffusion.loading import BaseModel, load_base
from metrics.encoders import load_identity_encoder, load_text_image_encoder
from trainer.bench import Bench


def load_bench(settings: Settings) -> Bench:
    use_threads(settings.cpu_threads)
    base = load_base(settings.base_model_path, precision=settings.precision, device=settings.device, revision=settings.base_revision)
    if base.device.type == "cuda":
        make_fast(base, settings.caches / "graphs")
    bench = Bench(
        base,
        load_identity_encoder(settings.identity_encoder_path, base.device),
        load_text_image_encoder(settings.text_image_encoder_path, base.device),
    )
    bench.seats.count = settings.train_together
    return bench


def make_fast(base: BaseModel, graphs: Path) -> None:
    """The fastest attention that passes a gradient check, and compiled blocks; both hold for the life of the process."""
    config = base.transformer.config
    prepare_training_attention(base.device, base.dtype, heads=config.num_attention_heads, head_dim=config.attention_head_dim)
    compiled.prepare(base.transformer, cache=graphs)

"""Write what was taught as a diffusers folder and two encoder folders, in bf16 safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, Dinov2Model, ResNetForImageClassification, T5Tokenizer

from miniature import shapes
from miniature.teach.encoders import MEAN, STD
from miniature.teach.flow import Flux

SHARD = "15MB"


@dataclass
class Taught:
    vae: AutoencoderKL
    clip: CLIPModel
    dino: Dinov2Model
    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer
    flux: Flux | None = None


def read(folder: Path, device: str) -> Taught:
    """What an earlier run wrote. The flow goes on from the weights before distillation, or, where only the distilled ones are at hand,
    from those: at guidance 1, where the flow is taught, they give the same velocity."""
    flux = folder / ("undistilled" if (folder / "undistilled").exists() else "flux")
    pipe = FluxPipeline.from_pretrained(flux, torch_dtype=torch.float32)
    return Taught(
        vae=pipe.vae.to(device).eval().requires_grad_(False),
        clip=CLIPModel.from_pretrained(folder / "clip", torch_dtype=torch.float32).to(device).eval().requires_grad_(False),
        dino=Dinov2Model.from_pretrained(folder / "dino", torch_dtype=torch.float32).to(device).eval(),
        clip_tokenizer=pipe.tokenizer,
        t5_tokenizer=pipe.tokenizer_2,
        flux=Flux(pipe.text_encoder_2, pipe.transformer).to(device).train().requires_grad_(True),
    )


def pipeline(flux: Flux, vae: AutoencoderKL, clip: CLIPModel, clip_tokenizer: CLIPTokenizer, t5_tokenizer: T5Tokenizer) -> FluxPipeline:
    """A FluxPipeline over copies in bf16."""
    return FluxPipeline(
        scheduler=shapes.scheduler(),
        vae=_copy(vae, lambda: AutoencoderKL.from_config(_plain(vae))),
        text_encoder=_text_half(clip),
        tokenizer=clip_tokenizer,
        text_encoder_2=_copy(flux.t5, lambda: shapes.t5(len(t5_tokenizer))),
        tokenizer_2=t5_tokenizer,
        transformer=_copy(flux.transformer, shapes.transformer),
    )


def _copy(source: torch.nn.Module, build) -> torch.nn.Module:
    """A plain CPU copy in bf16, free of compiled wrappers."""
    fresh = build()
    fresh.load_state_dict({k.replace("_orig_mod.", ""): v.cpu() for k, v in source.state_dict().items()})
    return fresh.to(torch.bfloat16).eval()


def _text_half(clip: CLIPModel) -> CLIPTextModel:
    text = CLIPTextModel(clip.config.text_config)
    state = {k: v.cpu() for k, v in clip.text_model.state_dict().items()}
    target = text.text_model if hasattr(text, "text_model") else text
    target.load_state_dict(state)
    return text.to(torch.bfloat16).eval()


def write_flux(folder: Path, pipe: FluxPipeline) -> None:
    pipe.save_pretrained(folder, max_shard_size=SHARD, safe_serialization=True)


def write_encoders(folder: Path, clip: CLIPModel, clip_tokenizer: CLIPTokenizer, dino: Dinov2Model) -> None:
    _write(folder / "clip", clip, shapes.ENCODER_SIDE)
    clip_tokenizer.save_pretrained(folder / "clip")
    write_encoder(folder / "dino", dino, shapes.ENCODER_SIDE)


def write_encoder(folder: Path, model: Dinov2Model | ResNetForImageClassification, side: int, pool: str = "cls") -> None:
    """An identity encoder as ``metrics`` reads it; ``side``: pixels a side of what it sees."""
    _write(folder, model, side)
    (folder / "likeness.json").write_text(json.dumps({"pool": pool, "size": side}, indent=2))


def _write(folder: Path, model: CLIPModel | Dinov2Model | ResNetForImageClassification, side: int) -> None:
    fresh = type(model)(model.config)
    fresh.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
    fresh.to(torch.bfloat16).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing(side), indent=2))


def preprocessing(pixels: int) -> dict[str, object]:
    side = {"height": pixels, "width": pixels}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": side,
        "resample": 2,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "do_convert_rgb": True,
    }


def _plain(model: AutoencoderKL) -> dict[str, object]:
    """The config without the list of defaults: ``from_config`` would reset those, the measured shift and scale among them."""
    return {k: v for k, v in model.config.items() if not k.startswith("_")}

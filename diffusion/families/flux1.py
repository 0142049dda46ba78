"""FLUX.1: CLIP (pooled) and T5 (sequence) text encoders, guidance embedding, 16-channel VAE at f = 8, 2×2 packed latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import FluxControlNetPipeline, FluxImg2ImgPipeline, FluxKontextPipeline, FluxPipeline
from PIL import Image

from diffusion import latents as latent_space
from diffusion import schedules
from diffusion.families.base import Family
from diffusion.text import PromptEmbeds

if TYPE_CHECKING:
    from diffusion.loading import BaseModel

DOUBLE_ATTENTION = r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
DOUBLE_FEED_FORWARD = r"transformer_blocks\.\d+\.ff(_context)?\.net\.(0\.proj|2)"
DOUBLE_IMAGE_ATTENTION = r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0)"
DOUBLE_IMAGE_FEED_FORWARD = r"transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)"
SINGLE_ATTENTION = r"single_transformer_blocks\.\d+\.attn\.to_[qkv]"
SINGLE_FEED_FORWARD = r"single_transformer_blocks\.\d+\.proj_(mlp|out)"
SINGLE_MLP_IN = r"single_transformer_blocks\.\d+\.proj_mlp"


class Flux1(Family):
    name = "flux1"
    pipelines: ClassVar[Mapping[str, type]] = {
        "text_to_image": FluxPipeline,
        "image_to_image": FluxImg2ImgPipeline,
        "reference": FluxKontextPipeline,
        "pose": FluxControlNetPipeline,
    }
    text_encoder_names = ("text_encoder", "text_encoder_2")
    tokenizer_names = ("tokenizer", "tokenizer_2")
    default_resolution = 1024
    lora_targets: ClassVar[Mapping[str, str]] = {  # size of a bf16 file at rank 32 on FLUX.1-dev: 149, 142, 127, 105 and 261 MB
        "image": f"{DOUBLE_IMAGE_ATTENTION}|{DOUBLE_IMAGE_FEED_FORWARD}|{SINGLE_ATTENTION}|{SINGLE_MLP_IN}",
        "compact": f"{DOUBLE_ATTENTION}|{DOUBLE_IMAGE_FEED_FORWARD}|{SINGLE_ATTENTION}",
        "single": f"{SINGLE_ATTENTION}|{SINGLE_FEED_FORWARD}",
        "attention": f"{DOUBLE_ATTENTION}|{SINGLE_ATTENTION}",
        "blocks": f"{DOUBLE_ATTENTION}|{DOUBLE_FEED_FORWARD}|{SINGLE_ATTENTION}|{SINGLE_FEED_FORWARD}",
    }

    def max_text_tokens(self, tokenizers: Mapping[str, Any]) -> int:
        return min(512, tokenizers["tokenizer_2"].model_max_length)  # 512: what FluxPipeline.check_inputs allows

    def encode_prompts(self, base: BaseModel, prompts: list[str]) -> PromptEmbeds:
        pipeline = base.pipeline("text_to_image")
        return PromptEmbeds(*pipeline.encode_prompt(prompts, device=base.device, max_sequence_length=base.max_text_tokens))

    def pipeline_inputs(self, base: BaseModel, text: PromptEmbeds) -> dict[str, Any]:
        return {"prompt_embeds": text.prompt_embeds, "pooled_prompt_embeds": text.pooled_prompt_embeds}

    def reference_inputs(self, base: BaseModel, photo: Image.Image, width: int, height: int) -> dict[str, Any]:
        """As latents at the size that it has: the pipeline would move it to one of its own sizes."""
        clean = latent_space.encode_images(base, latent_space.to_pixels([photo]))
        return {"image": clean, "max_area": width * height, "_auto_resize": False}

    def normalise(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def denormalise(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        return latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return latent_space.pack(latents)

    def unpack(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return latent_space.unpack(tokens, height, width)

    def image_ids(self, height: int, width: int, first: int = 0) -> torch.Tensor:
        return latent_space.image_ids(height, width, first)

    def shift(self, base: BaseModel, tokens: int) -> float:
        return schedules.resolution_shift(tokens, base.scheduler.config)

    def predict(
        self, transformer: Any, tokens: torch.Tensor, ids: torch.Tensor, text: PromptEmbeds, sigmas: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        config = getattr(transformer, "module", transformer).config  # several GPUs: DistributedDataParallel wraps the transformer
        return transformer(
            hidden_states=tokens,
            timestep=sigmas,  # the transformer multiplies by 1000 itself
            guidance=torch.full_like(sigmas, guidance) if config.guidance_embeds else None,
            encoder_hidden_states=text.prompt_embeds,
            pooled_projections=text.pooled_prompt_embeds,
            txt_ids=text.text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]

"""FLUX.2-klein: one Qwen3 text encoder (three of its layers side by side), no guidance embedding, 32-channel VAE at f = 8 whose 2×2 packed
latents are normalised by running statistics. The base weights are guided by an empty prompt; the distilled ones need no guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from PIL import Image

from diffusion import latents as latent_space
from diffusion.families.base import Family
from diffusion.text import PromptEmbeds

if TYPE_CHECKING:
    from diffusion.loading import BaseModel

IMAGE_ATTENTION = r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0)"
TEXT_ATTENTION = r"transformer_blocks\.\d+\.attn\.(add_q_proj|add_k_proj|add_v_proj|to_add_out)"
IMAGE_FEED_FORWARD = r"transformer_blocks\.\d+\.ff\.linear_(in|out)"
TEXT_FEED_FORWARD = r"transformer_blocks\.\d+\.ff_context\.linear_(in|out)"
SINGLE = r"single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"  # attention and feed-forward are one matrix here
TEXT_TOKENS = 512  # what the pipeline pads to
SAMPLING_STEPS = 50  # of the base weights; the shift depends on it
REFERENCE_STEP = 10  # between the time positions of a picture and its references


class Flux2Klein(Family):
    name = "flux2-klein"
    pipelines: ClassVar[Mapping[str, type]] = {"text_to_image": Flux2KleinPipeline, "reference": Flux2KleinPipeline}
    text_encoder_names = ("text_encoder",)
    tokenizer_names = ("tokenizer",)
    default_resolution = 1024
    lora_targets: ClassVar[Mapping[str, str]] = {  # size of a bf16 file at rank 32 on klein-4B: 80, 86, 59, 75 and 97 MB
        "image": f"{IMAGE_ATTENTION}|{IMAGE_FEED_FORWARD}|{SINGLE}",
        "compact": f"{IMAGE_ATTENTION}|{TEXT_ATTENTION}|{IMAGE_FEED_FORWARD}|{SINGLE}",
        "single": SINGLE,
        "attention": f"{IMAGE_ATTENTION}|{TEXT_ATTENTION}|{SINGLE}",
        "blocks": f"{IMAGE_ATTENTION}|{TEXT_ATTENTION}|{IMAGE_FEED_FORWARD}|{TEXT_FEED_FORWARD}|{SINGLE}",
    }

    def pipeline_options(self, index: Mapping[str, Any]) -> dict[str, Any]:
        return {"is_distilled": bool(index.get("is_distilled", False))}

    def pipeline_inputs(self, base: BaseModel, text: PromptEmbeds) -> dict[str, Any]:
        """With the empty prompt's embeddings, so that guidance does not fetch the text encoder for them."""
        inputs: dict[str, Any] = {"prompt_embeds": text.prompt_embeds}
        if not self.pipeline_options(base.index)["is_distilled"]:
            empty = base.empty_prompt.to(text.prompt_embeds.device)
            inputs["negative_prompt_embeds"] = empty.rows([0] * len(text)).prompt_embeds
        return inputs

    def reference_inputs(self, base: BaseModel, photo: Image.Image, width: int, height: int) -> dict[str, Any]:
        return {"image": [photo]}

    def pipeline_latents(self, base: BaseModel, output: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return self.normalise(base.vae, output.float())

    def max_text_tokens(self, tokenizers: Mapping[str, Any]) -> int:
        return TEXT_TOKENS

    def count_tokens(self, tokenizers: Mapping[str, Any], prompt: str) -> int:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizers["tokenizer"].apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        return len(tokenizers["tokenizer"](text).input_ids)

    def encode_prompts(self, base: BaseModel, prompts: list[str]) -> PromptEmbeds:
        pipeline = base.pipeline("text_to_image")
        embeds, ids = pipeline.encode_prompt(prompts, device=base.device, max_sequence_length=base.max_text_tokens)
        return PromptEmbeds(embeds, embeds.new_empty(len(prompts), 0), ids[0])

    def normalise(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        mean, deviation = _statistics(vae, latents)
        return _spread((_gather(latents) - mean) / deviation)

    def denormalise(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        mean, deviation = _statistics(vae, latents)
        return _spread(_gather(latents.float()) * deviation + mean).to(vae.dtype)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        return latent_space.pack(latents)

    def unpack(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return latent_space.unpack(tokens, height, width)

    def image_ids(self, height: int, width: int, first: int = 0) -> torch.Tensor:
        """(time, row, column, place in the text): four axes."""
        ids = latent_space.image_ids(height, width, REFERENCE_STEP * first)
        return torch.cat([ids, torch.zeros(len(ids), 1)], dim=1)

    def shift(self, base: BaseModel, tokens: int) -> float:
        return compute_empirical_mu(tokens, SAMPLING_STEPS)

    def predict(
        self, transformer: Any, tokens: torch.Tensor, ids: torch.Tensor, text: PromptEmbeds, sigmas: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        return transformer(
            hidden_states=tokens,
            timestep=sigmas,  # the transformer multiplies by 1000 itself
            guidance=None,  # klein has no guidance embedding
            encoder_hidden_states=text.prompt_embeds,
            txt_ids=text.text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]


def _statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the packed channels, [1, 4C, 1, 1] float32."""
    mean, variance = (values.float().to(like.device).view(1, -1, 1, 1) for values in (vae.bn.running_mean, vae.bn.running_var))
    return mean, torch.sqrt(variance + vae.config.batch_norm_eps)


def _gather(latents: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] → [B, 4C, h/2, w/2]: each 2×2 patch becomes channels, in the order of a token's."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)


def _spread(patches: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pixel_shuffle(patches, 2)

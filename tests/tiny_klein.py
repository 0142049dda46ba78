"""A FLUX.2-klein folder in the diffusers layout that is as small as its classes allow: random weights, 32×32 pictures."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from tests.tiny import RECIPE, RESOLUTION

LAYERS_READ = 3  # of the text encoder, side by side
TEXT_WIDTH = 16
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def build_tiny_klein(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, *, distilled: bool = False) -> Path:
    """Writes the folder and returns it. The same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Flux2KleinPipeline(**_components(), is_distilled=distilled).to(dtype).save_pretrained(folder)
    (folder / "likeness.json").write_text(json.dumps({"resolution": RESOLUTION, "licence": "Apache-2.0", "recipe": RECIPE}))
    return folder


def _components() -> dict[str, object]:
    tokenizer = qwen_tokenizer()
    return {
        "transformer": _transformer(),
        "vae": _vae(),
        "text_encoder": Qwen3ForCausalLM(_qwen_config(len(tokenizer))).eval(),
        "tokenizer": tokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


def _transformer() -> Flux2Transformer2DModel:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=LAYERS_READ * TEXT_WIDTH,
        timestep_guidance_channels=16,
        mlp_ratio=3.0,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    return transformer.eval()


def _vae() -> AutoencoderKLFlux2:
    """With statistics of its own, so that a forgotten normalisation shows."""
    vae = AutoencoderKLFlux2(block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, layers_per_block=1, sample_size=RESOLUTION)
    torch.nn.init.normal_(vae.bn.running_mean, std=0.3)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return vae.eval()


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Bytes, and the marks of a chat."""
    vocab = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], extra_special_tokens=["<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _qwen_config(vocab_size: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=28,  # the pipeline reads what layers 9, 18 and 27 see
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )

"""A FLUX.1 folder in the diffusers layout that is as small as its classes allow: random weights, 32×32 pictures, under 1 MB.

Everything is real (classes, configs, tokenizers, scheduler), so what loads this loads FLUX.1; only the sizes differ.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxControlNetModel, FluxPipeline, FluxTransformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

RESOLUTION = 32
RECIPE = {"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "validation_steps": 2, "warmup_steps": 1, "rank": 4, "alpha": 4}


def build_tiny_flux(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Writes the folder and returns it. The same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        FluxPipeline(**_components()).to(dtype).save_pretrained(folder)
    (folder / "likeness.json").write_text(json.dumps({"resolution": RESOLUTION, "licence": "Apache-2.0", "recipe": RECIPE}))
    return folder


def build_tiny_control(folder: Path, transformer: FluxTransformer2DModel, seed: int = 0, **config: int) -> Path:
    """A ControlNet for that transformer whose ways out are random instead of zero, so that it has an effect."""
    shape = {key: value for key, value in transformer.config.items() if not key.startswith("_") and key != "out_channels"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        control = FluxControlNetModel(**(shape | {"num_single_layers": 0, "guidance_embeds": False} | config))
        for layer in (control.controlnet_x_embedder, *control.controlnet_blocks):
            torch.nn.init.normal_(layer.weight)
    control.save_pretrained(folder)
    return folder


def _components() -> dict[str, object]:
    clip_tokenizer, t5_tokenizer = _clip_tokenizer(), _t5_tokenizer()
    return {
        "transformer": _transformer(),
        "vae": _vae(),
        "text_encoder": CLIPTextModel(_clip_config(clip_tokenizer)),
        "text_encoder_2": T5EncoderModel(_t5_config(len(t5_tokenizer))),
        "tokenizer": clip_tokenizer,
        "tokenizer_2": t5_tokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


def _transformer() -> FluxTransformer2DModel:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    return transformer.eval()


def _vae() -> AutoencoderKL:
    blocks = 4  # three halvings: f = 8, as FLUX.1 has it
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(8,) * blocks,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=RESOLUTION,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return vae.eval()


def _clip_tokenizer() -> CLIPTokenizer:
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _t5_tokenizer() -> T5TokenizerFast:
    letters = [chr(code) for code in range(33, 127)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=32)


def _clip_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_config(vocab_size: int) -> T5Config:
    return T5Config(
        vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu", pad_token_id=0
    )

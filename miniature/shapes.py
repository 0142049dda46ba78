"""The shapes of the miniature: the same classes as FLUX.1-dev and its judges, small enough for two CPU cores. Untaught weights."""

from __future__ import annotations

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    T5Config,
    T5EncoderModel,
)

RESOLUTION = 256  # pixels a side
TEXT_TOKENS = 64  # T5 tokens a prompt (FLUX.1-dev: 512)
LATENT_CHANNELS = 16  # as FLUX.1's VAE; packed 2x2 to 64 channels, one token for 16x16 pixels
ENCODER_SIDE = 128  # pixels a side of what the two judges see
EVALUATOR_SIDE = 160
TEXT_WIDTH = 128


def transformer() -> FluxTransformer2DModel:
    """13.2 M parameters: 2 double and 8 single blocks of width 256 (FLUX.1-dev: 19 and 38 of width 3072)."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=8,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(16, 24, 24),
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=RESOLUTION,
        force_upcast=False,
    )


def t5(vocabulary: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=TEXT_WIDTH,
            d_kv=32,
            d_ff=320,
            num_layers=3,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
        )
    )


def clip(vocabulary: int, bos: int, eos: int, pad: int) -> CLIPModel:
    """Judges how well a picture fits a prompt; its text half is the pipeline's first text encoder, as in FLUX.1."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    vision = {
        "hidden_size": 160,
        "intermediate_size": 640,
        "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "image_size": ENCODER_SIDE,
        "patch_size": 16,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=TEXT_WIDTH))


def dino() -> Dinov2Model:
    """Tells subjects apart: the class token, as a unit vector, is a subject's embedding."""
    return Dinov2Model(
        Dinov2Config(hidden_size=160, num_hidden_layers=6, num_attention_heads=5, mlp_ratio=3, image_size=ENCODER_SIDE, patch_size=16)
    )


def evaluator() -> ResNetForImageClassification:
    """Tells subjects apart as :func:`dino` does, but nothing is chosen by it. Its linear layer gives the embedding, [192]."""
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=48, hidden_sizes=[48, 96, 192, 320], depths=[2, 2, 2, 2], layer_type="basic", num_labels=192)
    )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """As FLUX.1-dev's: shifted by the number of image tokens."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )

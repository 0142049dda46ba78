"""The smallest real DINOv2, ResNet and CLIP: random weights, 28×28 pictures."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model, ResNetConfig, ResNetForImageClassification

SIDE = 28


def build_tiny_dino(folder: Path, pool: str = "cls", seed: int = 0) -> Path:
    """A folder with ``likeness.json`` as the miniature's own encoder has it."""
    config = Dinov2Config(image_size=SIDE, patch_size=14, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Dinov2Model(config).save_pretrained(folder)
    (folder / "likeness.json").write_text(json.dumps({"pool": pool, "size": SIDE}))
    return folder


def build_tiny_resnet(folder: Path, width: int = 8, seed: int = 0) -> Path:
    """A classifier whose outputs are the vector, as the miniature's evaluator is."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=width)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ResNetForImageClassification(config).save_pretrained(folder)
    (folder / "likeness.json").write_text(json.dumps({"pool": "head", "size": SIDE}))
    return folder


def build_tiny_clip(folder: Path, seed: int = 0) -> Path:
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CLIPConfig(
        text_config={**tower, **special, "vocab_size": len(tokenizer)},
        vision_config={**tower, "image_size": SIDE, "patch_size": 14},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

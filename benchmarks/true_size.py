"""Base models at their true size with random weights, in the hub's folder layout, for benchmarks of speed and memory.

    python -m benchmarks.true_size flux1-dev /dev/shm/flux1-dev --text-encoders true
    python -m benchmarks.true_size klein-4b  /dev/shm/klein-4b

The configurations are those that the makers publish; weights are bf16 in shards, read back by the real loading code. Speed and memory do
not depend on the weights' values, so they are slices of one random pool. Tokenizers are stand-ins, so a prompt has another number of tokens
than with the real ones. ``--text-encoders small`` (the default) writes encoders of the true output width with hardly any layers;
``--tiny`` shrinks everything for a dry run on a CPU. A folder that is there already, whole and of the same options, is left as it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel, FluxTransformer2DModel
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, Qwen3Config, Qwen3ForCausalLM, T5Config, T5EncoderModel

from core.settings import Settings
from tests.tiny_klein import qwen_tokenizer

POOL = 2**26  # random values; every matrix is a slice of them that starts elsewhere
SHARD_BYTES = 5 * 10**9
STD = 0.02
Parts = dict[str, Callable[[], Any]]  # component → what makes it (on the meta device)


def build(which: str, folder: str | Path, *, text_encoders: str = "small", tiny: bool = False, device: str = "auto") -> Path:
    """Writes ``which`` ("flux1-dev", "klein-4b") into ``folder`` and returns it. FLUX.1-dev: 24 GB, with true text encoders 34 GB."""
    folder = Path(folder)
    facts = {
        "resolution": 1024 if not tiny else 64,
        "licence": "none: random weights",
        "notes": f"{which}, random weights, text encoders {text_encoders}{', tiny' if tiny else ''}",
    }
    written = folder / "likeness.json"
    if written.is_file() and json.loads(written.read_text()) == facts:
        return folder
    parts, index = MODELS[which](text_encoders == "true", tiny)
    fill = Filler(device)
    for name, make in parts.items():
        _write_module(make, folder / name, fill)
    for name, thing in _rest(which).items():
        thing.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    written.write_text(json.dumps(facts))  # last: a folder without it is not whole
    return folder


def flux1_dev(true_text: bool, tiny: bool) -> tuple[Parts, dict[str, Any]]:
    heads, layers, single = (2, 1, 1) if tiny else (24, 19, 38)
    transformer = {"num_attention_heads": heads, "num_layers": layers, "num_single_layers": single, "guidance_embeds": True}
    t5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
    small = {"d_ff": 64, "num_layers": 1, "num_heads": 2}
    clip = {**CLIP_L, "num_hidden_layers": 12 if true_text else 1, **_vocabulary(tiny)}
    parts: Parts = {
        "transformer": lambda: FluxTransformer2DModel(**transformer),
        "vae": lambda: AutoencoderKL(**_vae(tiny), latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, **_NO_QUANT_CONV),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**clip)),
        "text_encoder_2": lambda: T5EncoderModel(T5Config(**{**t5, **({} if true_text else small), **_vocabulary(tiny)}, **T5_SHAPE)),
    }
    index = {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return parts, index


def klein_4b(true_text: bool, tiny: bool) -> tuple[Parts, dict[str, Any]]:
    """5 double and 20 single blocks of width 3072; the text encoder is of Qwen3-4B's shape, of which three layers are read side by side."""
    heads, layers, single = (2, 1, 1) if tiny else (24, 5, 20)
    shape = {"hidden_size": 2560, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True}
    deep = {"num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728}
    small = {"num_hidden_layers": 28, "num_attention_heads": 8, "intermediate_size": 64, "head_dim": 8}
    transformer = {"num_attention_heads": heads, "num_layers": layers, "num_single_layers": single, "joint_attention_dim": 3 * 2560}
    parts: Parts = {
        "transformer": lambda: Flux2Transformer2DModel(**transformer, guidance_embeds=False),
        "vae": lambda: AutoencoderKLFlux2(**_vae(tiny), latent_channels=32),
        "text_encoder": lambda: Qwen3ForCausalLM(Qwen3Config(**{**shape, **(deep if true_text else small), **_vocabulary(tiny)})),
    }
    index = {
        "_class_name": "Flux2KleinPipeline",
        "is_distilled": False,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    return parts, index


MODELS = {"flux1-dev": flux1_dev, "klein-4b": klein_4b}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768, "vocab_size": 49408}
T5_SHAPE = {"feed_forward_proj": "gated-gelu", "pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False}
_NO_QUANT_CONV = {"use_quant_conv": False, "use_post_quant_conv": False}


def _vae(tiny: bool) -> dict[str, Any]:
    blocks = 4
    return {
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "block_out_channels": (32,) * blocks if tiny else (128, 256, 512, 512),
        "layers_per_block": 1 if tiny else 2,
        "sample_size": 1024,
    }


def _vocabulary(tiny: bool) -> dict[str, int]:
    return {"vocab_size": 4096} if tiny else {}


def _rest(which: str) -> dict[str, Any]:
    """Scheduler and tokenizers: the true scheduler of FLUX.1-dev, which klein shares but for the shift that its pipeline gives."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    if which == "klein-4b":
        return {"scheduler": scheduler, "tokenizer": qwen_tokenizer()}
    miniature = Settings().miniature_dir / "flux"
    return {
        "scheduler": scheduler,
        "tokenizer": AutoTokenizer.from_pretrained(miniature / "tokenizer"),
        "tokenizer_2": AutoTokenizer.from_pretrained(miniature / "tokenizer_2", model_max_length=512),
    }


class Filler:
    """Random values for a weight of any shape: normal for matrices, one for norms' weights, zero for biases."""

    def __init__(self, device: str) -> None:
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        generator = torch.Generator(where).manual_seed(0)
        self.pool = (torch.randn(POOL, device=where, generator=generator, dtype=torch.float32) * STD).bfloat16().cpu()
        self.start = 0

    def __call__(self, name: str, like: torch.Tensor) -> torch.Tensor:
        if not like.is_floating_point():
            return torch.zeros(like.shape, dtype=like.dtype)
        if like.ndim < 2:
            return torch.full(like.shape, float(name.endswith(("weight", "running_var"))), dtype=torch.bfloat16)
        return self._slice(like.numel()).view(like.shape)

    def _slice(self, count: int) -> torch.Tensor:
        self.start = (self.start + 7919 * 64) % (POOL // 2)  # so that no two layers are alike
        values = torch.empty(count, dtype=torch.bfloat16)
        for piece in values.split(POOL // 2):
            piece.copy_(self.pool[self.start : self.start + len(piece)])
        return values


def _write_module(make: Callable[[], Any], folder: Path, fill: Filler) -> None:
    with torch.device("meta"):
        module = make()
    shutil.rmtree(folder, ignore_errors=True)  # a file of other options, in one piece, would be read before the new one's shards
    folder.mkdir(parents=True)
    is_diffusers = hasattr(module, "save_config")
    (module.save_config if is_diffusers else module.config.save_pretrained)(folder)
    stem = "diffusion_pytorch_model" if is_diffusers else "model"
    shards = list(_shards(_own(module)))
    names = (
        [f"{stem}.safetensors"]
        if len(shards) == 1
        else [f"{stem}-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    )
    for name, shard in zip(names, shards, strict=True):
        save_file({key: fill(key, like) for key, like in shard.items()}, folder / name, {"format": "pt"})
    if len(shards) > 1:
        _write_index(folder / f"{stem}.safetensors.index.json", dict(zip(names, shards, strict=True)))


def _own(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights that a file holds: tied ones once."""
    tied = set(getattr(module, "all_tied_weights_keys", None) or ())
    return {key: like for key, like in module.state_dict().items() if key not in tied}


def _shards(state: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    held = 0
    for key, like in state.items():
        if shard and held + 2 * like.numel() > SHARD_BYTES:
            yield shard
            shard, held = {}, 0
        shard[key] = like
        held += 2 * like.numel()
    yield shard


def _write_index(path: Path, files: dict[str, dict[str, torch.Tensor]]) -> None:
    size = sum(2 * like.numel() for shard in files.values() for like in shard.values())
    weight_map = {key: name for name, shard in files.items() for key in shard}
    path.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text-encoders", choices=("true", "small"), default="small")
    parser.add_argument("--tiny", action="store_true", help="one block of each kind, narrow: for dry runs")
    parser.add_argument("--fresh", action="store_true", help="write anew what is there")
    asked = parser.parse_args(arguments)
    if asked.fresh:
        shutil.rmtree(asked.folder, ignore_errors=True)
    start = time.monotonic()
    folder = build(asked.which, asked.folder, text_encoders=asked.text_encoders, tiny=asked.tiny)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 1e9:.1f} GB in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()

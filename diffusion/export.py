"""An adapter for other programs: the key layouts of kohya's trainers and of ComfyUI, which name layers as the original Flux code does.

There q, k and v (and in FLUX.1's single blocks the MLP's first half) are one layer. Their adapters are put side by side: A stacked, B on a
diagonal of blocks, rank the sum of theirs, so the product is the same to the last bit; the zeros between the blocks make the file larger.
Layouts are what diffusers' ``lora_conversion_utils`` reads, backwards; every export is tested by loading it with plain diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from diffusion import lora

FORMATS = ("kohya", "comfyui")


@dataclass(frozen=True)
class Part:
    """A layer as diffusers names it within its block, and its outputs in units of the block's width (for one that has no adapter)."""

    name: str
    width: int = 1


@dataclass(frozen=True)
class Layout:
    """``layers``: block (diffusers) → layer of the original code → its parts in order."""

    layers: Mapping[str, Mapping[str, tuple[Part, ...]]]
    comfyui_sides: tuple[str, str]  # how ComfyUI files of this family call A and B, so that diffusers reads them too
    comfyui_alpha: bool


BLOCKS = {"transformer_blocks": "double_blocks", "single_transformer_blocks": "single_blocks"}
KOHYA_SIDES = ("lora_down", "lora_up")

ATTENTION = {
    "img_attn.qkv": (Part("attn.to_q"), Part("attn.to_k"), Part("attn.to_v")),
    "img_attn.proj": (Part("attn.to_out.0"),),
    "txt_attn.qkv": (Part("attn.add_q_proj"), Part("attn.add_k_proj"), Part("attn.add_v_proj")),
    "txt_attn.proj": (Part("attn.to_add_out"),),
}
FLUX1 = Layout(
    {
        "transformer_blocks": ATTENTION
        | {
            "img_mlp.0": (Part("ff.net.0.proj"),),
            "img_mlp.2": (Part("ff.net.2"),),
            "txt_mlp.0": (Part("ff_context.net.0.proj"),),
            "txt_mlp.2": (Part("ff_context.net.2"),),
        },
        "single_transformer_blocks": {
            "linear1": (Part("attn.to_q"), Part("attn.to_k"), Part("attn.to_v"), Part("proj_mlp", 4)),
            "linear2": (Part("proj_out"),),
        },
    },
    comfyui_sides=KOHYA_SIDES,
    comfyui_alpha=True,
)
FLUX2 = Layout(
    {
        "transformer_blocks": ATTENTION
        | {
            "img_mlp.0": (Part("ff.linear_in"),),
            "img_mlp.2": (Part("ff.linear_out"),),
            "txt_mlp.0": (Part("ff_context.linear_in"),),
            "txt_mlp.2": (Part("ff_context.linear_out"),),
        },
        "single_transformer_blocks": {"linear1": (Part("attn.to_qkv_mlp_proj"),), "linear2": (Part("attn.to_out"),)},
    },
    comfyui_sides=("lora_A", "lora_B"),
    comfyui_alpha=False,
)


def export_file(adapter: Path, out: Path, file_format: str) -> Path:
    """Reads an adapter (validated, alpha baked in) and writes it in the format. :class:`core.errors.UserError` if it cannot be."""
    state, header = lora.read(adapter)
    return lora.save(out, export(state, file_format), header | {"format": file_format})


def export(state: lora.State, file_format: str) -> lora.State:
    """The adapter ``state`` (our file's keys) in the keys of ``file_format``; the same products, nothing rounded."""
    if file_format not in FORMATS:
        raise UserError("adapter/format", f"Unknown format: {file_format}", f"Known formats: {', '.join(FORMATS)}.")
    layout = FLUX2 if any("to_qkv_mlp_proj" in key or "ff.linear_in" in key or "ff_context.linear_in" in key for key in state) else FLUX1
    exported: lora.State = {}
    left = set(state)
    for name, parts, pairs in _layers(state, layout):
        down, up = _side_by_side(parts, pairs)
        exported |= _named(name, down, up, layout, file_format)
        left -= {f"{lora.PREFIX}{module}.lora_{side}.weight" for module in pairs for side in "AB"}
    if left:
        raise UserError("adapter/format", f"This adapter has no {file_format} form", f"Layers without a name there: {sorted(left)[0]} …")
    return exported


Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]  # full module name → A, B


def _layers(state: lora.State, layout: Layout) -> Iterator[tuple[str, list[tuple[str, int]], Pairs]]:
    """Original layer name, its parts (full module name, width), and those of them that have an adapter."""
    for block, number in _blocks(state):
        for layer, parts in layout.layers[block].items():
            modules = [(f"{block}.{number}.{part.name}", part.width) for part in parts]
            keys = {module: f"{lora.PREFIX}{module}.lora_{{}}.weight" for module, _ in modules}
            pairs = {m: (state[key.format("A")], state[key.format("B")]) for m, key in keys.items() if key.format("A") in state}
            if pairs:
                yield f"{BLOCKS[block]}.{number}.{layer}", modules, pairs


def _blocks(state: lora.State) -> list[tuple[str, int]]:
    found = (re.match(r"transformer\.((?:single_)?transformer_blocks)\.(\d+)\.", key) for key in state)
    return sorted({(match[1], int(match[2])) for match in found if match})


def _side_by_side(parts: list[tuple[str, int]], pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """A [Σr, in] and B [Σout, Σr]. Every part gets the same rank, and one without an adapter zeros: readers split by equal ranks."""
    if len(parts) == 1:
        return pairs[parts[0][0]]
    rank = max(down.shape[0] for down, _ in pairs.values())
    some_module, (some_down, some_up) = next(iter(pairs.items()))
    unit = some_up.shape[0] // dict(parts)[some_module]
    downs, ups = [], []
    for module, width in parts:
        down, up = pairs.get(module, (some_down.new_zeros(rank, some_down.shape[1]), some_up.new_zeros(unit * width, rank)))
        missing = rank - down.shape[0]
        downs.append(torch.nn.functional.pad(down, (0, 0, 0, missing)))
        ups.append(torch.nn.functional.pad(up, (0, missing)))
    return torch.cat(downs), torch.block_diag(*ups).to(some_up.dtype)


def _named(name: str, down: torch.Tensor, up: torch.Tensor, layout: Layout, file_format: str) -> dict[str, Any]:
    """Alpha equal to the rank: the trained strength at scale 1."""
    kohya = file_format == "kohya"
    prefix = f"lora_unet_{name.replace('.', '_')}" if kohya else f"diffusion_model.{name}"
    sides = KOHYA_SIDES if kohya else layout.comfyui_sides
    named = {f"{prefix}.{side}.weight": weight.contiguous() for side, weight in zip(sides, (down, up), strict=True)}
    return named | ({f"{prefix}.alpha": torch.tensor(float(down.shape[0]))} if kohya or layout.comfyui_alpha else {})

"""LoRA weights: attaching them to a transformer, and the one file format that leaves the house.

The file is what ``FluxPipeline.save_lora_weights`` writes: ``transformer.<module>.lora_A.weight`` [r, in] and ``lora_B.weight`` [out, r].
Alpha is always baked into B (so that scale 1 means the trained strength in every program), and the metadata carries our card's essentials.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import nn

from core.errors import UserError
from diffusion.lora_spec import KEY, LoraSpec, seeded, spec_of

State = dict[str, torch.Tensor]

PREFIX = "transformer."
TEXT_ENCODER_PREFIXES = ("text_encoder.", "text_encoder_2.")
METADATA_KEY = "likeness"
DIFFUSERS_METADATA_KEY = "lora_adapter_metadata"
MAX_RANK = 256
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}  # as safetensors writes them


def attach(transformer: Any, spec: LoraSpec, *, name: str = "default", seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """Adds a fresh trainable adapter (A gaussian, B zero, so the output does not change yet); the same seed gives the same weights."""
    with seeded(seed):
        transformer.add_adapter(spec.config(), adapter_name=name)
    for parameter in parameters(transformer, name).values():
        parameter.data = parameter.data.to(dtype)


def load(transformer: Any, state: State, *, name: str = "default") -> None:
    """Puts a file's weights on the transformer for rendering, by the same function that ``pipe.load_lora_weights`` uses."""
    transformer.load_lora_adapter(dict(state), prefix=PREFIX.rstrip("."), adapter_name=name, low_cpu_mem_usage=True)


def detach(transformer: Any) -> None:
    """Removes every adapter and PEFT's wrappers: afterwards the transformer is the bare base again. Harmless if there is none."""
    transformer.unload_lora()
    transformer.requires_grad_(False)


def parameters(transformer: nn.Module, name: str = "default") -> dict[str, nn.Parameter]:
    """The adapter's parameters by full name, in the model's order."""
    marks = (f".lora_A.{name}.weight", f".lora_B.{name}.weight")
    return {key: parameter for key, parameter in transformer.named_parameters() if key.endswith(marks)}


def to_diffusers_state(transformer: nn.Module, *, name: str = "default", dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> State:
    """The attached adapter in the file's keys, on the CPU, with ``scale`` (alpha / rank) baked into B."""
    weights = get_peft_model_state_dict(transformer, adapter_name=name)
    return {PREFIX + key: _baked(key, weight, scale).to("cpu", dtype).contiguous() for key, weight in weights.items()}


def _baked(key: str, weight: torch.Tensor, scale: float) -> torch.Tensor:
    weight = weight.detach().clone()
    return weight * scale if ".lora_B." in key and scale != 1.0 else weight


def save(path: Path, state: State, metadata: Mapping[str, Any]) -> Path:
    """Writes the file; ``metadata`` (JSON-serialisable) goes into its header and can be read without the weights, beside what diffusers and
    PEFT want to know of an adapter in their keys."""
    header = {"format": "pt", METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    if spec := spec_of(state):
        header[DIFFUSERS_METADATA_KEY] = json.dumps(spec.as_header(), sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_in_order(serialise(state, header)))
    return path


def _in_order(file: bytes) -> bytes:
    """The same file with its header's metadata sorted: safetensors writes them in random order, and equal adapters must be equal files."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows to eight bytes
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def read(
    path: Path, transformer: nn.Module | None = None, allowed: set[str] | None = None, *, values: bool = True
) -> tuple[State, dict[str, Any]]:
    """A file's weights, normalised, and our metadata ({} if someone else wrote it).

    With ``transformer`` and ``allowed`` (module names) every weight is checked against them. Anything that is not a finite LoRA of this
    base model raises :class:`core.errors.UserError`: a bad adapter must be refused before it touches a model that others use.
    ``values=False`` leaves :func:`require_finite` to a caller that is about to copy them all into one place.
    """
    with _opened(path) as file:
        state, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    state = normalise(state, _foreign_alpha(header))
    validate(state, transformer, allowed)
    if values:
        require_finite(state.values())
    return state, json.loads(header.get(METADATA_KEY, "{}"))


def outline(path: Path) -> tuple[State, bool]:
    """A file's weights on the meta device, in the order in which their bytes follow each other after the header; and whether it is
    normalised already, so that its bytes are the adapter."""
    with _opened(path) as file:
        keys, header = file.offset_keys(), file.metadata() or {}
        state = {key: _outlined(file.get_slice(key)) for key in keys}
    if any(key.endswith(".alpha") for key in keys):
        return state, False
    normalised = normalise(state, _foreign_alpha(header))
    return state, all(normalised.get(key) is weight for key, weight in state.items())


def _outlined(weight: Any) -> torch.Tensor:
    return torch.empty(weight.get_shape(), dtype=DTYPES.get(weight.get_dtype(), torch.uint8), device="meta")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise bad_file(f"it is not a whole safetensors file ({error})") from error


def _foreign_alpha(header: Mapping[str, str]) -> float | None:
    """Alpha as diffusers writes it when a file keeps alpha apart from the rank."""
    settings = json.loads(header.get(DIFFUSERS_METADATA_KEY, "{}"))
    return settings.get(f"{PREFIX}lora_alpha")


def normalise(state: Mapping[str, torch.Tensor], alpha: float | None = None, *, rank: int | None = None) -> State:
    """Text-encoder keys dropped, alphas (``….alpha`` keys, or one ``alpha`` for all) baked into B, ranks zero-padded to ``rank``.

    The product B·A at scale 1 is then what the author trained, whatever alpha and rank were; all adapters of a worker can share one slot.
    """
    alphas = {key.removesuffix(".alpha"): float(value) for key, value in state.items() if key.endswith(".alpha")}
    kept = {k: v for k, v in state.items() if not k.endswith(".alpha") and not k.startswith(TEXT_ENCODER_PREFIXES)}
    baked = {key: _bake_alpha(key, weight, alphas, alpha) for key, weight in kept.items()}
    return {key: _pad(key, weight, rank) for key, weight in baked.items()} if rank else baked


def _bake_alpha(key: str, weight: torch.Tensor, alphas: Mapping[str, float], alpha: float | None) -> torch.Tensor:
    module, _, side = key.rpartition(".lora_")
    own = alphas.get(module, alpha)
    if own is None or not side.startswith("B") or weight.ndim != 2 or own == weight.shape[1]:
        return weight
    return (weight.float() * (own / weight.shape[1])).to(weight.dtype)


def _pad(key: str, weight: torch.Tensor, rank: int) -> torch.Tensor:
    missing = rank - (weight.shape[0] if ".lora_A." in key else weight.shape[1])
    if missing < 0:
        raise bad_file(f"its rank is above {rank}")
    return nn.functional.pad(weight, (0, 0, 0, missing) if ".lora_A." in key else (0, missing))


def validate(state: Mapping[str, torch.Tensor], transformer: nn.Module | None = None, allowed: set[str] | None = None) -> None:
    """Raises unless every key is one half of a pair on an allowed module, of its module's shape, rank 1 … 256. Values are not looked at."""
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, weight in state.items():
        match = KEY.fullmatch(key)
        if match is None or (allowed is not None and match["module"] not in allowed):
            raise bad_file(f"it has a weight that is not allowed here: {key[:120]}")
        pairs.setdefault(match["module"], {})[match["side"]] = weight
    if not pairs:
        raise bad_file("it has no LoRA weights")
    for module, pair in pairs.items():
        _validate_pair(module, pair, transformer)


def _validate_pair(module: str, pair: dict[str, torch.Tensor], transformer: nn.Module | None) -> None:
    if set(pair) != {"A", "B"}:
        raise bad_file(f"{module} lacks lora_A or lora_B")
    down, up = pair["A"], pair["B"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1] or not 1 <= down.shape[0] <= MAX_RANK:
        raise bad_file(f"{module} has shapes {tuple(down.shape)} and {tuple(up.shape)}")
    if transformer is not None:
        layer: Any = transformer.get_submodule(module)
        if (layer.out_features, layer.in_features) != (up.shape[0], down.shape[1]):
            raise bad_file(f"{module} was made for another base model")


def require_finite(weights: Iterable[torch.Tensor]) -> None:
    """Raises if a value is NaN or infinite, by the extremes: a sixth of the time that asking every value takes."""
    if not all(torch.isfinite(extreme).item() for weight in weights for extreme in torch.aminmax(weight)):
        raise bad_file("it holds values that are not finite")


def bad_file(reason: str) -> UserError:
    return UserError("adapter/invalid", "This adapter cannot be used", f"The file was refused because {reason}.")

"""What a base-model family must say of itself, so that no code above asks which family it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import nn

from diffusion.lora_spec import LoraSpec

if TYPE_CHECKING:
    from diffusion.loading import BaseModel
    from diffusion.text import PromptEmbeds


class Family(ABC):
    """One architecture of transformer, VAE and text encoders. Stateless: everything comes from the base model that is passed in."""

    name: ClassVar[str]
    pipelines: ClassVar[Mapping[str, type]]  # mode → diffusers pipeline class over the same components
    text_encoder_names: ClassVar[tuple[str, ...]]  # as model_index.json names them
    tokenizer_names: ClassVar[tuple[str, ...]]
    default_resolution: ClassVar[int]  # pixels a side, where the folder does not say
    lora_targets: ClassVar[Mapping[str, str]]  # target set → regular expression over full module names

    @abstractmethod
    def max_text_tokens(self, tokenizers: Mapping[str, Any]) -> int:
        """Tokens per prompt that the transformer reads."""

    def count_tokens(self, tokenizers: Mapping[str, Any], prompt: str) -> int:
        """Tokens of the prompt in the sequence that the transformer reads, without padding."""
        return len(tokenizers[self.tokenizer_names[-1]](prompt).input_ids)

    @abstractmethod
    def encode_prompts(self, base: BaseModel, prompts: list[str]) -> PromptEmbeds: ...

    def pipeline_options(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """What a pipeline is made with beside its components, from the folder's ``model_index.json``."""
        return {}

    @abstractmethod
    def pipeline_inputs(self, base: BaseModel, text: PromptEmbeds) -> dict[str, Any]:
        """How the family's pipelines are given prompts that are embedded already."""

    @abstractmethod
    def reference_inputs(self, base: BaseModel, photo: Image.Image, width: int, height: int) -> dict[str, Any]:
        """How the pipeline "reference" is given a photo (sides are multiples of a token) for a picture of that size."""

    def pipeline_latents(self, base: BaseModel, output: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """What a pipeline gives for ``output_type="latent"`` → normalised latents of that height and width."""
        return self.unpack(output, height, width)

    @abstractmethod
    def normalise(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """The VAE's latents [B, C, h, w] float32 → what the transformer learned on, of about unit deviation."""

    @abstractmethod
    def denormalise(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """The inverse, in the VAE's type."""

    @abstractmethod
    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, h, w] → the transformer's tokens [B, N, D]."""

    @abstractmethod
    def unpack(self, tokens: torch.Tensor, height: int, width: int) -> torch.Tensor: ...

    @abstractmethod
    def image_ids(self, height: int, width: int, first: int = 0) -> torch.Tensor:
        """Positions [N, axes] of the tokens of latents of that height and width; ``first``: 0 the picture, 1 its first reference, …"""

    @abstractmethod
    def shift(self, base: BaseModel, tokens: int) -> float:
        """μ of the noise-level shift at that many image tokens."""

    @abstractmethod
    def predict(
        self, transformer: Any, tokens: torch.Tensor, ids: torch.Tensor, text: PromptEmbeds, sigmas: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Velocity [B, N, D] for noisy tokens [B, N, D] at noise levels [B]."""

    def lora_spec(self, target_set: str, *, rank: int, alpha: int) -> LoraSpec:
        return LoraSpec(rank, alpha, self.lora_targets[target_set])

    def lora_modules(self, transformer: nn.Module, target_set: str) -> list[str]:
        """Full names of the linear layers that an adapter of this target set, of whatever rank, may touch, in the model's order."""
        return self.lora_spec(target_set, rank=1, alpha=1).modules(transformer)

    def lora_allowlist(self, transformer: nn.Module) -> set[str]:
        """Modules that any adapter file may touch: the union of all target sets."""
        return {name for target_set in self.lora_targets for name in self.lora_modules(transformer, target_set)}

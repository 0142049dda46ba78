"""Prompts to the embeddings that the transformer reads. Computed once per prompt and kept: the text encoders are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusion.loading import BaseModel


@dataclass(frozen=True)
class PromptEmbeds:
    """``prompt_embeds`` [B, T, D], ``pooled_prompt_embeds`` [B, P] (P = 0: the family has none), ``text_ids`` [T, axes], of all rows."""

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor
    text_ids: torch.Tensor

    def __len__(self) -> int:
        return self.prompt_embeds.shape[0]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> PromptEmbeds:
        """``dtype`` is of the embeddings; positions keep theirs."""
        embeds, pooled = self.prompt_embeds.to(device, dtype), self.pooled_prompt_embeds.to(device, dtype)
        return PromptEmbeds(embeds, pooled, self.text_ids.to(device))

    def rows(self, indices: Sequence[int] | torch.Tensor) -> PromptEmbeds:
        """The same embeddings for some of the prompts, in the order of ``indices``; an index may come twice."""
        index = torch.as_tensor(indices, device=self.prompt_embeds.device)
        return PromptEmbeds(self.prompt_embeds[index], self.pooled_prompt_embeds[index], self.text_ids)

    def cut(self, tokens: int) -> PromptEmbeds:
        """Without what comes after the first ``tokens`` tokens: padding, if every prompt is that short."""
        return PromptEmbeds(self.prompt_embeds[:, :tokens].contiguous(), self.pooled_prompt_embeds, self.text_ids[:tokens].contiguous())

    def row(self, index: int) -> PromptEmbeds:
        return self.rows([index])


def encode_prompts(base: BaseModel, prompts: Sequence[str]) -> PromptEmbeds:
    """Embeds at least one prompt, exactly as the family's own pipeline does; longer prompts are cut at ``base.max_text_tokens``."""
    with torch.inference_mode(), base.at_hand("text_encoders"):
        embeds = base.family.encode_prompts(base, list(prompts))
    return PromptEmbeds(embeds.prompt_embeds.clone(), embeds.pooled_prompt_embeds.clone(), embeds.text_ids.clone())

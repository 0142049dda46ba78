"""What diffusers' own Flux DreamBooth LoRA script does in a step, on the same modules and shapes: the row to compare with.

bf16 base, PEFT adapter in float32 under bf16 autocast, gradient checkpointing, eager, AdamW over all tensors, clipped, its loss read each
step. Latents and text embeddings are computed before, as with the script's ``--cache_latents`` and fixed prompt. Attention is flash: the
default of torch 2.11 on Hopper, cuDNN, gives NaN gradients.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.floor import synchronise
from diffusion import lora
from diffusion.attention import training_attention
from diffusion.loading import BaseModel
from diffusion.lora_spec import LoraSpec
from diffusion.text import PromptEmbeds


class StockLoop:
    """Attaches an adapter of ``rank`` on ``modules``; :meth:`close` takes it off again."""

    def __init__(self, base: BaseModel, modules: list[str], rank: int) -> None:
        self.base, self.transformer = base, base.transformer
        self.transformer.add_adapter(LoraSpec(rank, rank, tuple(modules)).config())
        self.parameters = [p for p in self.transformer.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()
        self.transformer.enable_gradient_checkpointing()
        self.transformer.train()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4)

    def step(self, latents: torch.Tensor, text: PromptEmbeds) -> float:
        """One optimizer step on latents [B, C, h, w]; returns its loss."""
        family, device = self.base.family, self.base.device
        noise = torch.randn_like(latents)
        sigmas = torch.sigmoid(torch.randn(len(latents), device=device))
        mixed = (1 - sigmas.view(-1, 1, 1, 1)) * latents + sigmas.view(-1, 1, 1, 1) * noise
        ids = family.image_ids(*latents.shape[-2:]).to(device, self.base.dtype)
        with training_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=self.base.dtype is torch.bfloat16):
            predicted = family.predict(self.transformer, family.pack(mixed).to(self.base.dtype), ids, text, sigmas, 1.0)
            loss = torch.nn.functional.mse_loss(predicted.float(), family.pack(noise - latents).float())
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach().item()

    def times(self, latents: torch.Tensor, text: PromptEmbeds, warm_up: int, measured: int) -> list[float]:
        """Seconds of each measured step."""
        taken: list[float] = []
        for _ in range(warm_up + measured):
            synchronise(self.base.device)
            start = time.perf_counter()
            self.step(latents, text)
            synchronise(self.base.device)
            taken.append(time.perf_counter() - start)
        return taken[warm_up:]

    def close(self) -> None:
        self.optimizer = self.parameters = None  # type: ignore[assignment]
        self.transformer.disable_gradient_checkpointing()
        lora.detach(self.transformer)
        self.transformer.eval()


def random_text(base: BaseModel, rows: int, tokens: int, **sizes: Any) -> PromptEmbeds:
    """Embeddings of ``rows`` prompts of ``tokens`` tokens, of the sizes that the transformer takes."""
    from diffusion.text import encode_prompts

    one = encode_prompts(base, ["a photo"])
    embeds = torch.randn(rows, tokens, one.prompt_embeds.shape[2], dtype=torch.float32)
    pooled = torch.randn(rows, *one.pooled_prompt_embeds.shape[1:])
    ids = torch.zeros(tokens, one.text_ids.shape[1]) if one.text_ids.shape[0] < tokens else one.text_ids[:tokens]
    return PromptEmbeds(embeds, pooled, ids).to(base.device, base.dtype)

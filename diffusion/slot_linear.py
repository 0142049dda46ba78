"""A frozen linear layer with places for several LoRA adapters: y = W x + s·B (A x), each row of the batch with its own A, B and s.

The frozen layer can be of any kind (bf16, fp8, NF4). Products are taken in the activations' type with float32 accumulation, and the last
one accumulates into the frozen layer's output, so there is no separate addition. Nothing here depends on Python values that change between
jobs: weights, scales and rows are tensors that are written in place, so a compiled graph stays valid.
"""

from __future__ import annotations

import torch
from torch import nn


class Selection(nn.Module):
    """Shared by all layers of one transformer: which slots the batch's rows use, and each slot's scale."""

    scales: torch.Tensor

    def __init__(self, count: int, device: torch.device) -> None:
        super().__init__()
        self.active = 1  # leading slots in use; each has an equal, consecutive share of the batch's rows
        self.rows: torch.Tensor | None = None  # [B] slot of each row; None: equal shares
        self.stacked: int | None = None  # so many leading slots are added up for every row; 0: none, and no work for them
        self.register_buffer("scales", torch.ones(count, device=device), persistent=False)


class SlotLinear(nn.Module):
    """``base_layer`` with slots: ``lora_A`` [S, r, in], ``lora_B`` [S, out, r]. Input [B, …, in]; without rows, ``active`` divides B."""

    def __init__(self, base_layer: nn.Module, down: torch.Tensor, up: torch.Tensor, selection: Selection) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = down.shape[2], up.shape[1]
        self.lora_A = nn.Parameter(down, requires_grad=False)
        self.lora_B = nn.Parameter(up, requires_grad=False)
        self.selection = selection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen, y = self.selection, self.base_layer(x)
        if chosen.stacked is not None:
            for slot in range(chosen.stacked):
                one = slice(slot, slot + 1)
                y = grouped_lora(y, x, self.lora_A[one], self.lora_B[one], chosen.scales[one])
            return y
        if chosen.rows is not None:
            return grouped_lora(y, x, self.lora_A[chosen.rows], self.lora_B[chosen.rows], chosen.scales[chosen.rows])
        return grouped_lora(y, x, self.lora_A[: chosen.active], self.lora_B[: chosen.active], chosen.scales[: chosen.active])


def grouped_lora(y: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """y + s·B (A x) for G adapters: y [B, …, out], x [B, …, in], down [G, r, in], up [G, out, r], scales [G]; B is a multiple of G.

    Rows i·B/G … (i+1)·B/G − 1 belong to adapter i. The scale is applied in float32, as multiplying by a Python number would.
    """
    groups = down.shape[0]
    if groups == 1:
        hidden = _scaled(x.reshape(-1, x.shape[-1]) @ down[0].t(), scales)
        return torch.addmm(y.reshape(-1, y.shape[-1]), hidden, up[0].t()).view(y.shape)
    grouped_x, grouped_y = x.reshape(groups, -1, x.shape[-1]), y.reshape(groups, -1, y.shape[-1])
    hidden = _scaled(torch.bmm(grouped_x, down.transpose(1, 2)), scales.view(-1, 1, 1))
    return torch.baddbmm(grouped_y, hidden, up.transpose(1, 2)).view(y.shape)


def _scaled(hidden: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return (hidden * scales).to(hidden.dtype)  # float32 scales: the product is float32 until it is rounded here

"""Linear layers of a frozen base whose weights are held in fewer bits. The input has a gradient, the weight has none.

Both kinds are ``nn.Linear`` to whoever asks (families, PEFT), with an empty ``weight`` parameter that only tells device and type.
"""

from __future__ import annotations

import torch
from torch import nn


class FrozenLinear(nn.Linear):
    """Without a weight of its own; subclasses keep theirs in buffers."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight
        self.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype, device=weight.device), requires_grad=False)
        self.bias = linear.bias
        self._hold(weight.detach())

    @staticmethod
    def fits(linear: nn.Linear) -> bool:
        """Whether this kind can hold the layer; others stay as they are."""
        raise NotImplementedError

    def _hold(self, weight: torch.Tensor) -> None:
        raise NotImplementedError

    def dequantised(self) -> torch.Tensor:
        """The weight [out, in] that the layer multiplies with, in its working type."""
        raise NotImplementedError

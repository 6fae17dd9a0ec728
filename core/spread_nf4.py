"""NF4 layers whose packed weights are ordinary parameters, which can be spread over cards. The arithmetic is bitsandbytes'."""

from __future__ import annotations

from typing import Any, cast

import bitsandbytes
import torch
from torch import nn


class PackedLinear(nn.Linear):
    """What bitsandbytes' Linear4bit computes. `weight` is its packed one, in fours of bytes (outputs x inputs / 8, 1).

    The fours go by the name of float32, and no number is made of them: torch 2.11 spreads nothing but floating point (and
    bfloat16 is no name for bytes: on a processor some that mean no number came out changed). The scales, a sixtieth of
    it, are no parameters: every card has them whole.
    """

    def __init__(self, layer: Any, where: torch.device) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        fours = layer.weight.data.reshape(-1).view(torch.float32).reshape(-1, 1)
        self.weight = nn.Parameter(fours, requires_grad=False)
        self.bias = layer.bias
        self._compute_dtype: torch.dtype | None = layer.compute_dtype
        self._state = layer.weight.quant_state
        self._state.to(where)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., inputs) -> (..., outputs), in the type of `input`."""
        dtype = self._compute_dtype or input.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        packed = self.weight.reshape(-1).view(torch.uint8).reshape(-1, 1)
        product = bitsandbytes.matmul_4bit(input.to(dtype), packed.t(), bias=bias, quant_state=self._state)
        return cast(torch.Tensor, product).to(input.dtype)


def unwrap(model: nn.Module, where: torch.device) -> None:
    """Put PackedLinear layers in the place of bitsandbytes' ones; they will compute on `where`."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, PackedLinear(layer, where))

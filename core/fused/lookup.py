"""The embedding matrix, on the card or in host memory: 1 GB of a 7B that a step reads a few thousand rows of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Lookup:
    """Moves the model's embedding and, while it lies on the host, answers for it. Not for a matrix the head shares."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._module: Any = module
        self._device = device
        self.on_host = self._module.weight.device.type != device.type  # a card that was too small for it while loading
        if self.on_host:
            self._module.forward = self._embed

    def move(self, to_host: bool) -> None:
        """Put the matrix into host memory, or back."""
        weight = self._module.weight
        if to_host:
            weight.data = weight.data.to("cpu")
            self._module.forward = self._embed
        else:
            weight.data = weight.data.to(self._device)
            del self._module.forward
        self.on_host = to_host
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _embed(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids.cpu(), self._module.weight).to(self._device)

    def fetch(self, ids: Tensor, out: Tensor) -> None:
        """out (T, D) on the device = the rows `ids` (T,) of a matrix that lies on the host."""
        out.copy_(torch.index_select(self._module.weight.data, 0, ids.cpu()))

"""NF4 bases: each weight keeps its quantised bytes and is written in 16 bits, just before its product, into one scratch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.fused.sizes import PAD

Dequantise = Callable[[nn.Linear, Tensor], None]
"""(a bitsandbytes Linear4bit, out (N, K), rows may be strided)."""


class Scratch:
    """The memory all groups of one model share for the weight in use; as large as the largest piece."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._flat = torch.empty(0, dtype=dtype, device=device)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for a piece of that size."""
        needed = (rows + PAD) * (columns + PAD)
        if needed > self._flat.numel():
            self._flat = self._flat.new_empty(needed)

    def view(self, rows: int, columns: int) -> Tensor:
        """(rows + PAD, columns + PAD) of it."""
        return self._flat[: (rows + PAD) * (columns + PAD)].view(rows + PAD, columns + PAD)


class Quantised:
    """A group's weights in NF4 (weights.Store). `parts`: the members dequantised together, a piece each."""

    beside = False
    spare = True

    def __init__(self, parts: Sequence[Sequence[nn.Linear]], scratch: Scratch, dequantise: Dequantise) -> None:
        self._parts, self._scratch, self._dequantise = parts, scratch, dequantise
        self.pieces = []
        start = 0
        for part in parts:
            rows = sum(linear.out_features for linear in part)
            self.pieces.append((start, start + rows))
            scratch.reserve(rows, part[0].in_features)
            start += rows

    def piece(self, index: int) -> Tensor:
        """See Store.piece."""
        start, stop = self.pieces[index]
        columns = self._parts[index][0].in_features
        whole = self._scratch.view(stop - start, columns)
        row = 0
        for linear in self._parts[index]:
            self._dequantise(linear, whole[row : row + linear.out_features, :columns])
            row += linear.out_features
        return whole


def by_bitsandbytes(linear: nn.Linear, out: Tensor) -> None:
    """Dequantise by the library's own kernel; on any device."""
    import bitsandbytes.functional

    weight: Any = linear.weight
    out.copy_(bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state))


def by_kernel(linear: nn.Linear, out: Tensor) -> None:
    """The same in one kernel, second quantisation and row stride included; on a CUDA card."""
    from core.fused import kernels

    weight: Any = linear.weight
    state = weight.quant_state
    nested = (state.state2.code, state.state2.absmax, state.offset) if state.nested else None
    kernels.dequantise(weight.data, state.absmax, nested, state.code, out)

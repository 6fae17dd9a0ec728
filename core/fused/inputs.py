"""The layers' inputs between forward and backward pass: all on the device, or in host memory but for the two in use.

A layer reads its input again only in its own backward pass: 0.4 GB of a 7B at 2,048 tokens that wait meanwhile. Copies
go through a stream of their own, while the neighbouring layers are computed; a graph captures them with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.fused.sizes import INPUT_SLOTS


class Inputs:
    """Where all stay on the device: nothing to do. The pass says where it is; layers are counted from 0."""

    def before(self, layer: int) -> None:
        """The layer's input is about to be written."""

    def after(self, layer: int) -> None:
        """The forward pass needs the layer's input no more."""

    def again(self, layer: int) -> None:
        """The layer's backward pass begins; that of the layer above it is over."""

    def rest(self) -> None:
        """The pass is over."""


class HostInputs(Inputs):
    """`slots`: INPUT_SLOTS device buffers (T, D), for layer i that of i % INPUT_SLOTS. `host`: one (T, D) for each layer.

    The last layers, whose inputs are still in the slots when the backward pass comes to them, need none.
    """

    def __init__(self, slots: Sequence[Tensor], host: Sequence[Tensor]) -> None:
        self._slots, self._host = slots, host
        device = slots[0].device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._arrived: dict[int, torch.cuda.Event] = {}

    def before(self, layer: int) -> None:
        """See Inputs.before: what was in the slot has left it."""
        self._wait(layer - INPUT_SLOTS)

    def after(self, layer: int) -> None:
        """See Inputs.after: the copy to the host begins."""
        if layer < len(self._host):
            self._copy(layer, self._slots[layer % INPUT_SLOTS], self._host[layer])

    def again(self, layer: int) -> None:
        """See Inputs.again: the input is back, and that of the layer below is on its way into the slot now free."""
        self._wait(layer)
        below = layer - 1
        if 0 <= below < len(self._host):
            self._copy(below, self._host[below], self._slots[below % INPUT_SLOTS])

    def rest(self) -> None:
        """See Inputs.rest: no copy is under way for who comes next."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        self._arrived.clear()

    def _copy(self, layer: int, source: Tensor, target: Tensor) -> None:
        if self._stream is None:
            target.copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            self._arrived[layer] = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived[layer].record(self._stream)

    def _wait(self, layer: int) -> None:
        """Until the layer's last copy is done, if there is one."""
        if layer in self._arrived and self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._arrived.pop(layer))

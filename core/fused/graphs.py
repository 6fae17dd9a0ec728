"""Passes captured as CUDA graphs: a short pass is 4,700 launches, which take the processor longer than the card."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable

import torch

_MOST = 32  # a graph of 28 layers takes about 0.2 s and some megabytes to make


class Graphs:
    """Runs bodies that only launch work on fixed addresses: as they are at first, captured when they come again.

    All of them run on one stream, so that libraries make their workspaces for it once, outside of any capture.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._made: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._seen: Counter[Hashable] = Counter()

    def run(self, key: Hashable, body: Callable[[], None], after: int) -> None:
        """Run `body`, which is the same work for the same key until `drop`; captured after `after` times."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                if key in self._made:
                    self._made[key].replay()
                elif self._seen[key] >= after and len(self._made) < _MOST:
                    self._made[key] = self._capture(body)
                    self._made[key].replay()
                else:
                    self._seen[key] += 1
                    body()
        finally:  # what was launched before an error still adds to gradients that are about to be set to zero
            current.wait_stream(self._stream)

    def _capture(self, body: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may ask the card for its free memory meanwhile.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            body()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # that the capture is void is no news beside what broke it
                graph.capture_end()
            raise
        graph.capture_end()
        return graph

    def drop(self) -> None:
        """Forget every graph: an address they know has moved, or the memory is wanted."""
        if self._made:
            torch.cuda.synchronize(self._device)
        self._made.clear()
        self._seen.clear()
        # A pool ends with its last graph; torch refuses to capture into it again.
        self._pool = torch.cuda.graph_pool_handle()

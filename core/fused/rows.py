"""Packed rows on the device, filled up to one of few sizes: buffers, kernels and graphs are made once for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.batch import PackedBatch

_ONE_LONG_ROW = 1024  # from here on a row that is alone is told apart: its attention needs no row bounds


@dataclass(frozen=True)
class Size:
    """What decides a pass's launches: tokens, positions in the loss, rows, and the longest a row may be.

    taught: positions held to a teacher, the last of those in the loss.
    """

    tokens: int
    answers: int
    rows: int
    longest: int
    taught: int = 0

    @classmethod
    def of(cls, batch: PackedBatch) -> Size:
        """The size a batch is filled up to; what is filled in is at most 64 tokens, 6 % above 1,024."""
        tokens = up(batch.tokens, 64 if batch.tokens <= 1024 else 128)
        alone = len(batch.lengths) == 1 and tokens >= _ONE_LONG_ROW
        longest = max(*batch.lengths[:-1], batch.lengths[-1] + tokens - batch.tokens, 64)
        step = 64 if tokens <= 1024 else 256
        taught = up(batch.taught, step)
        return cls(
            tokens=tokens,
            answers=up(batch.targets.shape[0] - batch.taught, step) + taught,
            rows=1 if alone else up(len(batch.lengths), 8),
            longest=tokens if alone else 1 << (longest - 1).bit_length(),
            taught=taught,
        )


@dataclass(frozen=True)
class Rows:
    """The inputs of a pass, at addresses that stay.

    ids, positions int64 (T,); starts int32 (rows + 1,); predict int64 (K,), T where filled up; targets int64 (K,), -1
    there; scale float32 (1,), what the gradient is multiplied by. The last M positions are held to a teacher: weights
    float32 (M,), 0 where filled up.
    """

    ids: Tensor
    positions: Tensor
    starts: Tensor
    longest: int
    predict: Tensor
    targets: Tensor
    scale: Tensor
    weights: Tensor

    @classmethod
    def empty(cls, size: Size, device: torch.device) -> Rows:
        """Inputs of that size, not filled yet."""
        long = torch.zeros(2 * size.tokens + 2 * size.answers, dtype=torch.int64, device=device)
        ids, positions, predict, targets = torch.split(long, [size.tokens] * 2 + [size.answers] * 2)
        starts = torch.zeros(size.rows + 1, dtype=torch.int32, device=device)
        scale, weights = (torch.zeros(count, device=device) for count in (1, size.taught))
        return cls(ids, positions, starts, size.longest, predict, targets, scale, weights)

    def fill(self, batch: PackedBatch, scale: float) -> None:
        """Take a batch over. Causal attention keeps what is filled in, at the end of the last row, from the rest."""
        tokens, whole, more = batch.tokens, self.ids.shape[0], self.ids.shape[0] - batch.tokens
        self.ids[:tokens].copy_(batch.input_ids[0])
        self.positions[:tokens].copy_(batch.position_ids[0])
        if more:
            last = batch.lengths[-1]
            self.ids[tokens:].zero_()
            torch.arange(last, last + more, out=self.positions[tokens:])
        labelled, first = batch.targets.shape[0] - batch.taught, self.targets.shape[0] - self.weights.shape[0]
        self._predict(batch, 0, labelled, 0, first)
        if batch.weights is not None:
            self._predict(batch, labelled, labelled + batch.taught, first, self.targets.shape[0])
            self.weights[: batch.taught].copy_(batch.weights)
            self.weights[batch.taught :].zero_()
        count = len(batch.lengths)
        self.starts[:count].copy_(batch.starts[:count])
        self.starts[count:].fill_(whole)
        self.scale.fill_(scale)

    def _predict(self, batch: PackedBatch, begin: int, end: int, first: int, last: int) -> None:
        """The batch's positions [begin, end) in the loss are ours from `first` on; up to `last` it is filled up."""
        stop = first + end - begin
        self.predict[first:stop].copy_(batch.predict[begin:end])
        self.targets[first:stop].copy_(batch.targets[begin:end])
        self.predict[stop:last].fill_(self.ids.shape[0])
        self.targets[stop:last].fill_(-1)


def up(count: int, step: int) -> int:
    """`count` rounded up to a multiple of `step`."""
    return -(-count // step) * step

"""Examples -> tensors: one optimizer step packed end to end, split only by a cap on tokens. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from core.encode import IGNORE, Example

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PackedBatch:
    """Several examples end to end, without padding.

    input_ids, position_ids: int64 (1, T); positions restart at 0 with each example, which is how transformers knows to
    keep attention inside it. predict: int64 (K,), the positions whose next token is in the loss; targets: int64 (K,).
    lengths: tokens of each example; starts: int64 (examples + 1,), where each begins, and T.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor
    lengths: tuple[int, ...]
    starts: torch.Tensor

    @property
    def tokens(self) -> int:
        """T, all tokens computed on."""
        return self.input_ids.shape[1]


def pack(examples: Sequence[Example], device: torch.device | str) -> PackedBatch:
    """Lay examples end to end. An example's first token never carries a label: nothing of its own precedes it."""
    import numpy
    import torch

    lengths = tuple(len(example) for example in examples)
    starts = numpy.array([0, *accumulate(lengths)])
    ids, labels = (
        numpy.fromiter(chain.from_iterable(part), numpy.int64, starts[-1])
        for part in ((e.input_ids for e in examples), (e.labels for e in examples))
    )
    positions = numpy.arange(starts[-1]) - numpy.repeat(starts[:-1], lengths)
    labelled = labels != IGNORE
    labelled[starts[:-1]] = False
    parts = (ids, positions, numpy.flatnonzero(labelled) - 1, labels[labelled], starts)
    # One copy that waits for nothing: the processor lays out the next pass while the card computes this one.
    whole = torch.from_numpy(numpy.concatenate(parts))
    if torch.device(device).type == "cuda":
        whole = whole.pin_memory()
    tensors = torch.split(whole.to(device, non_blocking=True), [len(part) for part in parts])
    return PackedBatch(tensors[0][None], tensors[1][None], tensors[2], tensors[3], lengths, tensors[4])


def split(examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
    """Consecutive groups of at most `max_tokens` tokens, about equal; an example longer than that stands alone."""
    left = sum(len(example) for example in examples)
    parts = max(1, math.ceil(left / max_tokens))
    group: list[Example] = []
    size = 0
    for example in examples:
        # A group ends where it comes nearest to its even share of what is left.
        enough = parts > 1 and size + len(example) / 2 > left / parts
        if group and (enough or size + len(example) > max_tokens):
            yield group
            left, parts = left - size, max(1, parts - 1, math.ceil((left - size) / max_tokens))
            group, size = [], 0
        group.append(example)
        size += len(example)
    if group:
        yield group

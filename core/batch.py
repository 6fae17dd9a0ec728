"""Examples -> tensors: one optimizer step packed end to end, split only by a cap on tokens. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.encode import IGNORE, Example

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PackedBatch:
    """Several examples end to end, without padding.

    input_ids, position_ids: int64 (1, T); positions restart at 0 with each example, which is how transformers knows to
    keep attention inside it. predict: int64 (K,), the positions whose next token is in the loss; targets: int64 (K,).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor

    @property
    def tokens(self) -> int:
        """T, all tokens computed on."""
        return self.input_ids.shape[1]


def pack(examples: Sequence[Example], device: torch.device | str) -> PackedBatch:
    """Lay examples end to end. An example's first token never carries a label: nothing of its own precedes it."""
    import torch

    ids: list[int] = []
    positions: list[int] = []
    predict: list[int] = []
    targets: list[int] = []
    for example in examples:
        start = len(ids)
        ids += example.input_ids
        positions += range(len(example))
        for offset, label in enumerate(example.labels[1:]):
            if label != IGNORE:
                predict.append(start + offset)
                targets.append(label)
    tensors = [torch.tensor(values, dtype=torch.int64, device=device) for values in (ids, positions, predict, targets)]
    return PackedBatch(tensors[0][None], tensors[1][None], tensors[2], tensors[3])


def split(examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
    """Consecutive groups of at most `max_tokens` tokens; an example longer than that stands alone."""
    group: list[Example] = []
    size = 0
    for example in examples:
        if group and size + len(example) > max_tokens:
            yield group
            group, size = [], 0
        group.append(example)
        size += len(example)
    if group:
        yield group

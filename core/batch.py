"""Examples -> tensors: one optimizer step packed end to end, split only by a cap on tokens. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING, TypeVar

from core.encode import IGNORE, Example

if TYPE_CHECKING:
    import torch


Long = TypeVar("Long", bound=Sized)  # as many tokens as its length says


@dataclass(frozen=True)
class PackedBatch:
    """Several examples end to end, without padding.

    input_ids, position_ids: int64 (1, T); positions restart at 0 with each example, which is how transformers knows to
    keep attention inside it. predict: int64 (K,), the positions whose next token is in the loss; targets: int64 (K,).
    lengths: tokens of each example; starts: int64 (examples + 1,), where each begins, and T.
    The last M of the K positions belong to examples with a teacher: teacher (M, H), weights float32 (M,); None if M is 0.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor
    lengths: tuple[int, ...]
    starts: torch.Tensor
    teacher: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """T, all tokens computed on."""
        return self.input_ids.shape[1]

    @property
    def taught(self) -> int:
        """M, positions held to a teacher."""
        return 0 if self.teacher is None else self.teacher.shape[0]


def pack(examples: Sequence[Example], device: torch.device | str) -> PackedBatch:
    """Lay examples end to end, those with a teacher last.

    An example's first token never carries a label: nothing of its own precedes it.
    """
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
    tensors = torch.split(_sent(whole, device), [len(part) for part in parts])
    batch = PackedBatch(tensors[0][None], tensors[1][None], tensors[2], tensors[3], lengths, tensors[4])
    return batch if all(example.teacher is None for example in examples) else _taught(batch, examples, device)


def _taught(batch: PackedBatch, examples: Sequence[Example], device: torch.device | str) -> PackedBatch:
    """The batch with its teachers' states."""
    import torch

    first = next(index for index, example in enumerate(examples) if example.teacher is not None)
    teachers = [example.teacher for example in examples[first:] if example.teacher is not None]
    counts = [sum(label != IGNORE for label in example.labels[1:]) for example in examples[first:]]
    assert [teacher.shape[0] for teacher in teachers] == counts, "a state for each label, and taught examples last"
    weights = torch.tensor([example.weight for example in examples[first:]], dtype=torch.float32)
    each = weights.repeat_interleave(torch.tensor(counts))
    return replace(batch, teacher=_sent(torch.cat(teachers), device), weights=_sent(each, device))


def _sent(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The tensor on the device; the copy is waited for there, not here."""
    import torch

    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def split(examples: Sequence[Long], max_tokens: int) -> Iterator[list[Long]]:
    """Consecutive groups of at most `max_tokens` tokens, about equal; an example longer than that stands alone.

    Examples with a teacher come last, so that they do in every group.
    """
    left = sum(len(example) for example in examples)
    parts = max(1, math.ceil(left / max_tokens))
    group: list[Long] = []
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


def shares(examples: Sequence[Long], count: int) -> list[list[Long]]:
    """The examples in `count` parts of about as many tokens; each part keeps their order, and may be empty."""
    parts: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    # The longest first, each to whoever has least: what is left over at the end is short.
    for index in sorted(range(len(examples)), key=lambda index: -len(examples[index])):
        least = min(range(count), key=tokens.__getitem__)
        parts[least].append(index)
        tokens[least] += len(examples[index])
    return [[examples[index] for index in sorted(part)] for part in parts]

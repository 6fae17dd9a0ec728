"""Teacher-forced readings: what the base and an adapter think of given answers, token by token. Works inside turns.

One turn a pass, so that answers and a run's steps go on in between; base and adapter read the very same packed batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.batch import PackedBatch, pack, split
from core.device import give_back
from core.device_errors import device_errors
from core.encode import IGNORE, Example
from core.errors import WontFitError

if TYPE_CHECKING:
    import torch

    from core.engine import Engine, Resident

    Work = Callable[[Resident, PackedBatch], torch.Tensor]
    """What a pass finds: a row for each labelled token of the batch, (K, ...)."""

_PASS_TOKENS = 2048
_LOGIT_TOKENS = 256  # of a pass whose logits all go to the host
# Logits that exist at one time on one side; about four such blocks do at the peak. Small ones stay in a processor's cache.
_LOGIT_BYTES = {"cuda": 64_000_000, "cpu": 4_000_000}


@dataclass(frozen=True)
class Scored:
    """One example under one adapter; tuples run over its labelled tokens.

    base, tuned: log probability of the label, in nats; drift: KL(base || tuned), in nats; same: whether both would choose
    the same token.
    """

    base: tuple[float, ...]
    tuned: tuple[float, ...]
    drift: tuple[float, ...]
    same: tuple[bool, ...]


def score(
    engine: Engine, adapter: str | None, examples: Sequence[Example], stop: threading.Event | None = None
) -> list[Scored]:
    """Each example under the base and under an attached adapter (None: the base once more, without drift).

    Fewer than the examples if `stop` is set meanwhile. Raises ModelError if the adapter is not attached, WontFitError if
    a single example is too much for the memory.
    """

    def compare(resident: Resident, batch: PackedBatch) -> torch.Tensor:
        import torch

        backend, handle = resident.backend, _handle(engine, adapter)
        base = backend.states(batch, None, like=handle)
        tuned = base if handle is None else backend.states(batch, handle)
        parts = [base.new_empty(0, 4, dtype=torch.float32)]
        for chosen in _portions(resident, base):
            left = backend.logits(base[chosen]).log_softmax(-1)
            right = left if handle is None else backend.logits(tuned[chosen], handle).log_softmax(-1)
            labels = batch.targets[chosen, None]
            columns = [left.gather(1, labels)[:, 0], right.gather(1, labels)[:, 0]]
            same = left.argmax(-1) == right.argmax(-1)
            # Rounding leaves a hair below zero where both say the same.
            drift = (left.exp() * left.sub(right)).sum(-1).clamp(min=0)
            parts.append(torch.stack([*columns, drift, same.to(drift)], 1))
        return torch.cat(parts)

    found = []
    for table in _read(engine, examples, stop, compare):
        base, tuned, drift, same = (tuple(column) for column in table.t().tolist())
        found.append(Scored(base, tuned, drift, tuple(map(bool, same))))
    return found


def losses(
    engine: Engine, adapter: str | None, examples: Sequence[Example], stop: threading.Event | None = None
) -> list[float]:
    """Mean cross entropy of each example's labelled tokens under the base or an adapter, in nats; see `score`."""

    def read(resident: Resident, batch: PackedBatch) -> torch.Tensor:
        import torch

        backend, handle = resident.backend, _handle(engine, adapter)
        states = backend.states(batch, handle)
        parts = [states.new_empty(0, dtype=torch.float32)]
        for chosen in _portions(resident, states):
            logits = backend.logits(states[chosen], handle)
            parts.append(torch.nn.functional.cross_entropy(logits, batch.targets[chosen], reduction="none"))
        return torch.cat(parts)

    return [float(each.mean()) if len(each) else 0.0 for each in _read(engine, examples, stop, read)]


def choices(
    engine: Engine,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    options: Sequence[Sequence[int]],
    stop: threading.Event | None = None,
) -> list[tuple[float, ...]]:
    """Log probability of each of a prompt's options, single tokens, as the prompt's next one; see `score`.

    `options`: for each prompt its own.
    """

    def read(resident: Resident, batch: PackedBatch) -> torch.Tensor:
        import torch

        backend, handle = resident.backend, _handle(engine, adapter)
        states = backend.states(batch, handle)
        wanted = _padded([options[index] for index in batch.targets.tolist()]).to(states.device)
        parts = [
            backend.logits(states[chosen], handle).log_softmax(-1).gather(1, wanted[chosen])
            for chosen in _portions(resident, states)
        ]
        return torch.cat(parts)

    # The label is no token here: it says which prompt this is.
    asked = [
        Example((*prompt, 0), (*(IGNORE,) * len(prompt), index))
        for index, (prompt, _) in enumerate(zip(prompts, options, strict=True))
    ]
    found = _read(engine, asked, stop, read)
    return [tuple(each[0, : len(own)].tolist()) for each, own in zip(found, options, strict=False)]


def logits(
    engine: Engine, adapter: str | None, examples: Sequence[Example], stop: threading.Event | None = None
) -> list[torch.Tensor]:
    """Of each example float32 (labelled tokens, V) in host memory, under the base or an adapter; see `score`.

    A row takes 4 bytes for every word of the vocabulary: 0.6 MB with Qwen2.5's.
    """

    def read(resident: Resident, batch: PackedBatch) -> torch.Tensor:
        handle = _handle(engine, adapter)
        return resident.backend.logits(resident.backend.states(batch, handle), handle).float()

    return _read(engine, examples, stop, read, _LOGIT_TOKENS)


def base_states(
    engine: Engine,
    examples: Sequence[Example],
    stop: threading.Event | None = None,
    like: str | None = None,
    tokens: int | None = None,
) -> list[torch.Tensor]:
    """For each example what its `teacher` is: the base's last hidden states (labelled tokens, H), in host memory.

    `like`: computed as this attached adapter is, so that the two differ by what it learned alone. `tokens`: of a pass at most.
    """

    def read(resident: Resident, batch: PackedBatch) -> torch.Tensor:
        return resident.backend.states(batch, None, like=_handle(engine, like))

    return _read(engine, examples, stop, read, tokens)


def _handle(engine: Engine, adapter: str | None) -> str | None:
    return None if adapter is None else engine.handle(adapter)


def _read(
    engine: Engine,
    examples: Sequence[Example],
    stop: threading.Event | None,
    work: Work,
    tokens: int | None = None,
) -> list[torch.Tensor]:
    """What `work` finds of each example, (labelled tokens, ...) in host memory."""
    found: list[torch.Tensor] = []
    for group in split([replace(example, teacher=None) for example in examples], tokens or _PASS_TOKENS):
        if stop is not None and stop.is_set():
            break
        found += _pass(engine, group, work)
    return found


def _pass(engine: Engine, group: list[Example], work: Work) -> list[torch.Tensor]:
    """One pass in a turn; where memory runs out, two halves."""
    import torch

    table = _tried(engine, group, work, alone=len(group) == 1)
    if table is None:
        give_back()
        middle = len(group) // 2
        return _pass(engine, group[:middle], work) + _pass(engine, group[middle:], work)
    counts = [sum(label != IGNORE for label in example.labels[1:]) for example in group]
    # Each for itself: a view that is sent to another process takes the whole table with it.
    return [part.clone() for part in torch.split(table, counts)]


def _tried(engine: Engine, group: list[Example], work: Work, alone: bool) -> torch.Tensor | None:
    """None if memory ran out and there is something to divide. No error: its traceback would keep the tensors alive."""
    try:
        with engine.turn() as resident, device_errors():
            return work(resident, pack(group, resident.backend.device)).cpu()
    except WontFitError:
        if alone:
            raise
        return None


def _portions(resident: Resident, states: torch.Tensor) -> Iterator[slice]:
    """The positions in portions whose logits may exist at one time."""
    most = max(1, _LOGIT_BYTES[resident.backend.device.type] // (4 * resident.info.vocab_size))
    for first in range(0, states.shape[0], most):
        yield slice(first, first + most)


def _padded(options: Sequence[Sequence[int]]) -> torch.Tensor:
    """int64 (n, most options), filled up with token 0."""
    import torch

    most = max(map(len, options))
    return torch.tensor([[*own, *(0,) * (most - len(own))] for own in options])

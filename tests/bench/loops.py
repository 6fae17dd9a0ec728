"""Optimizer steps through the plain backend alone, written the way any trainer writes them: what the engine is held against.

The same rows, order, adapter start, learning rates and clipping as core.train; only the split into passes is given.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

from core import truncation
from core.batch import pack, split
from core.config import TrainConfig
from core.encode import Example
from core.plain import PlainBackend
from core.schedule import learning_rate_at, step_rows

if TYPE_CHECKING:
    import torch

    from core.dataset import Row
    from core.engine import Engine, Resident

NAME = "peer"
Passes = Callable[[Sequence[Example]], list[list[Example]]]
"""How the examples of one optimizer step are split into forward and backward passes."""


@dataclass(frozen=True)
class Lap:
    """One optimizer step: wall seconds until its loss is known, tokens computed on, mean loss an answer token."""

    seconds: float
    tokens: int
    loss: float


def one_row(examples: Sequence[Example]) -> list[list[Example]]:
    """Batch 1 x accumulation N."""
    return [[example] for example in examples]


def packed(max_tokens: int) -> Passes:
    """The step end to end, split only at `max_tokens`."""
    return lambda examples: list(split(examples, max_tokens))


def encoded(resident: Resident, config: TrainConfig, rows: Sequence[Row]) -> list[Example]:
    """Rows -> examples as a run makes them."""
    fitted = truncation.fit_rows(resident.encoder, [row.messages(config.system) for row in rows], config)
    return [example for one in fitted for example in one.examples]


@contextlib.contextmanager
def fresh_adapter(engine: Engine, config: TrainConfig) -> Iterator[tuple[Resident, str]]:
    """A turn on the resident model, with an adapter as a run by `config` begins with; its handle. Taken out at the end."""
    engine.create_adapter(NAME, config)
    try:
        with engine.turn() as resident:
            yield resident, engine.handle(NAME)
    finally:
        engine.detach(NAME)


def plain_laps(
    engine: Engine,
    config: TrainConfig,
    rows: Sequence[Row],
    passes: Passes,
    steps: int,
    start: Mapping[str, torch.Tensor] | None = None,
) -> list[Lap]:
    """The first `steps` optimizer steps of the job `config` describes (its schedule keeps the whole job's length).

    `start`: the adapter's first values, under PEFT's keys, in place of those its seed gives.
    """
    with fresh_adapter(engine, config) as (resident, handle):
        if start is not None:
            resident.backend.load_adapter_state(handle, start)
        return list(_laps(resident, handle, config, encoded(resident, config, rows), passes, steps))


def _laps(
    resident: Resident, handle: str, config: TrainConfig, examples: Sequence[Example], passes: Passes, steps: int
) -> Iterator[Lap]:
    import torch

    backend = cast(PlainBackend, resident.backend)
    parameters = backend.adapter_parameters(handle)
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(0.9, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=backend.device.type == "cuda",
    )
    total = config.steps(len(examples))
    for step, (_, chosen) in enumerate(islice(step_rows(len(examples), config), steps)):
        begun = time.perf_counter()
        chosen_rows = [examples[index] for index in chosen]
        answers = sum(row.answer_tokens for row in chosen_rows)
        # By the class's own function: a faster backend that is also a plain one takes the plain way here.
        parts = [
            PlainBackend.loss_and_grads(backend, pack(group, backend.device), handle, answers, False)
            for group in passes(chosen_rows)
        ]
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or float("inf"))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, total, config)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss = float(torch.stack(parts).sum())  # waits for the card
        yield Lap(time.perf_counter() - begun, sum(len(row) for row in chosen_rows), loss)

"""A run's order of work: which rows are held out, which make up each step, and at what learning rate. Knows no model."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from core.config import TrainConfig

One = TypeVar("One")


def learning_rate_at(step: int, total: int, config: TrainConfig) -> float:
    """The rate of optimizer step `step` (from 0) of `total`: linear warm-up, then the chosen curve down to zero."""
    warmup = math.ceil(total * config.warmup_ratio)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    if config.lr_scheduler_type == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
    return config.learning_rate * (1 - share if config.lr_scheduler_type == "linear" else 1.0)


def step_rows(rows: int, config: TrainConfig) -> Iterator[tuple[float, list[int]]]:
    """(epoch, row indices) of each optimizer step, without end. Each epoch is shuffled by (seed, epoch)."""
    epoch = 0
    while True:
        order = list(range(rows))
        random.Random(f"{config.seed}-{epoch}").shuffle(order)
        for start in range(0, rows, config.rows_per_step):
            chosen = order[start : start + config.rows_per_step]
            yield epoch + (start + len(chosen)) / rows, chosen
        epoch += 1


def divide(examples: Sequence[One], config: TrainConfig) -> tuple[list[One], list[One]]:
    """(training, evaluation) examples, or whatever stands for them; which ones are held out is drawn by the seed."""
    held = set(random.Random(config.seed).sample(range(len(examples)), config.held_out(len(examples))))
    return [e for i, e in enumerate(examples) if i not in held], [e for i, e in enumerate(examples) if i in held]

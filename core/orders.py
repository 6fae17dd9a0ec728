"""What the leader of a run over several cards tells the other processes, in the order in which it comes. Does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.config import TrainConfig
from core.encode import Example
from core.estimate import Plan

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Load:
    """Load the base of these settings; the answer is the bytes that a run may take of the card then."""

    config: TrainConfig


@dataclass(frozen=True)
class Prepare:
    """Make ready for steps: the adapter `name` as it is, its optimizer, and what steps are made of.

    `config` is what the adapter begins with; `anchors` have their teachers; `layout` is the flat adapter's.
    """

    name: str
    config: TrainConfig
    training: tuple[Example, ...]
    held_out: tuple[Example, ...]
    anchors: tuple[Example, ...]
    plan: Plan
    scale: float
    clean_steps: int
    layout: str
    adapter: Mapping[str, torch.Tensor]
    tensors: Mapping[str, torch.Tensor]
    numbers: Mapping[str, int]


@dataclass(frozen=True)
class Step:
    """Take step `step` (from 0) over the training examples `chosen`, whose learning rate is `rate`."""

    step: int
    chosen: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class Measure:
    """Measure one pass each of the held-out examples, from pass `first` on, after `step` steps."""

    step: int
    first: int


@dataclass(frozen=True)
class End:
    """There is nothing left to do."""


Order = Load | Prepare | Step | Measure | End

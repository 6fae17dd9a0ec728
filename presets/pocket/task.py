"""What a skill hands out: a question still to be worded, and its answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from presets.pocket.wording import Forms


@dataclass(frozen=True)
class Task:
    """Forms to ask it in, values for their slots, the one right answer.

    `open_end`: a payload may end the message. `variant`: not what the skill usually asks, so that the skill's
    held-out frames do not fit.
    """

    forms: Forms
    slots: dict[str, str]
    answer: str
    open_end: bool = False
    variant: bool = False


@dataclass(frozen=True)
class Skill:
    """A named source of tasks. `weight` is its share in training, `category` groups skills in reports."""

    name: str
    category: str
    weight: float
    make: Callable[[random.Random, bool], Task]

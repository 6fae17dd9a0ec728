"""What becomes of a run when a setting is changed: a sentence (effect_words), and what was measured on the pocket model.

presets/effects.json is written by tests/bench/settings.py: plain runs of several seeds, and runs with one setting changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from core.effect_words import EFFECTS
from core.fact import Value
from core.text import Text

FILE = Path(__file__).resolve().parent.parent / "presets" / "effects.json"


@dataclass(frozen=True)
class Outcome:
    """One measured run: identity questions taken on, general ones right, processor seconds, and bytes planned for a 7B.

    `changes`: typed values by setting, over those of the plain run.
    """

    changes: Mapping[str, str]
    identity: int
    identity_of: int
    general: int
    general_of: int
    steps: int
    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Measured:
    """The day, the plain run's settings, the base's own general answers, plain runs of several seeds, and by setting the
    runs with it changed."""

    measured: str
    settings: Mapping[str, Value]
    general_before: int
    plain: tuple[Outcome, ...]
    changed: Mapping[str, tuple[Outcome, ...]]

    def of(self, name: str) -> tuple[Outcome, ...]:
        """The runs in which setting `name` was changed; none where a change cannot be measured on the pocket model."""
        return self.plain[1:] if name == "seed" else self.changed.get(name, ())


def said(name: str) -> Text:
    """What becomes of a run when setting `name` is changed. Raises KeyError for an unknown one."""
    return EFFECTS[name]


@cache
def measured() -> Measured:
    """What was measured."""
    kept = json.loads(FILE.read_text("utf-8"))
    changed = {name: tuple(Outcome(**each) for each in runs) for name, runs in kept["changed"].items()}
    plain = tuple(Outcome(**each) for each in kept["plain"])
    return Measured(kept["measured"], kept["settings"], kept["general_before"], plain, changed)

"""Whether an identity has been taken on, when to look again, and which of the adapters looked at is the best.

Arithmetic over what a run was told so far; knows no model and no file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

PASS_SHARE = 0.85
"""Of the identity questions; some are meant to lead astray, and the pocket model never gets more than nine in ten."""
IN_A_ROW = 2


@dataclass(frozen=True)
class Point:
    """One probing: hits of total identity questions after `step`, and the drift of the general ones, None if unknown.

    `kept`: everything was asked, and the drift is within bounds.
    """

    step: int
    hits: int
    total: int
    drift: float | None
    kept: bool = False

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Point:
        """From its fields, as `listed` gives them."""
        step, hits, total, drift, kept = values
        return cls(int(step or 0), int(hits or 0), int(total or 0), drift, bool(kept))

    @property
    def listed(self) -> list[float | None]:
        """Its fields, as plain values."""
        return [self.step, self.hits, self.total, self.drift, self.kept]

    @property
    def identity_holds(self) -> bool:
        """Whether enough identity questions are hit."""
        return self.total > 0 and self.hits >= PASS_SHARE * self.total

    @property
    def taken(self) -> bool:
        """Whether the identity holds and the other answers have not moved too far."""
        return self.identity_holds and self.kept


def whole(points: Sequence[Point]) -> list[Point]:
    """Those after which everything was asked."""
    most = max((point.total for point in points), default=0)
    return [point for point in points if point.total == most]


def taken(points: Sequence[Point]) -> bool:
    """Whether the last probings in which everything was asked all passed, as many in a row as it takes."""
    last = whole(points)[-IN_A_ROW:]
    return len(last) == IN_A_ROW and all(point.taken for point in last)


def best(points: Sequence[Point], steps: Collection[int]) -> Point | None:
    """Of those of `steps`, the first by: taken, asked the most questions, most hits, least drift, earliest.

    None where no answer shows the identity: there is nothing to tell them apart by.
    """
    known = [point for point in points if point.step in steps and point.hits]
    return min(known, key=_rank, default=None)


def _rank(point: Point) -> tuple[bool, int, int, float, int]:
    drift = math.inf if point.drift is None else point.drift
    return (not point.taken, -point.total, -point.hits, drift, point.step)


def least(points: Sequence[Point]) -> Point:
    """The one that `best` would take last."""
    return max(points, key=_rank)


@dataclass(frozen=True)
class Pace:
    """How often to ask: every `every` steps of `steps`, but so that asking between steps takes at most `share` of the time.

    A share of 1 asks whenever it is due, whatever that takes.
    """

    every: int
    steps: int
    share: float

    def due(self, step: int) -> bool:
        """Whether the settings want the questions asked after `step`."""
        return bool(self.every) and step % self.every == 0

    def affordable(self, step: int, seconds: float, spent: float, cost: float, part: float = 1.0) -> bool:
        """Whether asking after `step` keeps within the share, or `part` of it.

        `seconds`: the run's so far without asking. `spent`: on asking between steps so far. `cost`: of asking once.
        """
        if self.share >= 1:
            return True
        # More of it early: an identity is taken on in the first part of a run.
        whole = part * self.share * seconds / max(1, step) * self.steps
        return spent + cost <= whole * math.sqrt(step / max(1, self.steps))

    def worth(self, step: int, seconds: float, cost: float) -> bool:
        """Whether a run that asking ends after `step` is over sooner than one that is not asked; terms as above."""
        return cost < seconds / max(1, step) * (self.steps - step)

"""What the tests of a proof are made from: answers, readings and limits, and the making of a Test. Knows no model.

The limits of the full suite were set beforehand, the pocket suite's were chosen from measured runs (docs/proof.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.dataset import Message
from core.proof import Kind, Reading, Test
from core.proof_sets import Answer, Asked, Item, Suite, judge
from core.proof_stats import FlipRule, Light, Threshold, mean_interval, wilson
from core.proof_words import TESTS
from core.text import Text

if TYPE_CHECKING:
    from core.score import Scored


@dataclass(frozen=True)
class Limits:
    """Where lights change. Shares are 0 to 1, drifts and changes nats a token, the rest counts of answers."""

    took: Threshold
    preferred: Threshold
    generalises: Threshold
    gap: float
    lane: tuple[int, int]  # green up to the first, red from the second on
    drift: Threshold
    same: Threshold
    change: Threshold
    text_drift: Threshold
    flips: FlipRule
    refuses: tuple[int, int, int]  # green up to so many lost and so many new ones, red from so many in all
    own: Threshold


_FULL = Limits(
    took=Threshold(0.95, 0.80, "higher"),
    preferred=Threshold(0.95, 0.80, "higher"),
    generalises=Threshold(0.90, 0.75, "higher"),
    gap=0.15,
    lane=(1, 4),
    drift=Threshold(0.02, 0.10, "lower"),
    same=Threshold(0.97, 0.92, "higher"),
    change=Threshold(0.02, 0.10, "lower"),
    text_drift=Threshold(0.01, 0.07, "lower"),
    flips=FlipRule(0.05, 3),
    refuses=(1, 0, 3),
    own=Threshold(1.0, 0.80, "higher"),
)
# A model of 5.6 million parameters is far surer of its words than a large one, so that a small drift breaks answers, and
# learns fewer wordings from fifty rows; its suite holds twice as many answers without the new identity.
_POCKET = replace(
    _FULL,
    took=Threshold(0.85, 0.60, "higher"),
    generalises=Threshold(0.75, 0.50, "higher"),
    lane=(2, 7),
    drift=Threshold(0.005, 0.05, "lower"),
    same=Threshold(0.998, 0.99, "higher"),
    refuses=(2, 1, 6),  # six to none is what chance does not do (p = 0.03)
)
LIMITS: dict[Suite, Limits] = {"full": _FULL, "pocket": _POCKET}


@dataclass(frozen=True)
class Pair:
    """A question with the base's answer and the adapter's."""

    asked: Asked
    before: str
    after: str


@dataclass(frozen=True)
class Moved:
    """A text that both read word by word: `before` is the base's answer, `after` the adapter's own, where there are."""

    item: Item
    messages: tuple[Message, ...]
    before: str
    after: str
    scored: Scored


@dataclass(frozen=True)
class Picked:
    """A multiple-choice question with the logarithms of the options' probabilities."""

    asked: Asked
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclass(frozen=True)
class Learned:
    """Training rows as base and adapter read them, and the adapter's preference for them over the base's old answers."""

    rows: tuple[Moved, ...] = ()
    margins: tuple[float, ...] = ()


def absent(kind: Kind, why: Text) -> Test:
    """A test that was not made, and why."""
    return Test(kind, TESTS[kind], "none", 0, 0, 0.0, 1.0, None, why)


def judged(pair: Pair) -> Answer:
    """The verdict on the adapter's answer."""
    return judge(pair.asked, pair.after, pair.before)


def counts(pairs: Sequence[Pair]) -> tuple[int, int]:
    """(right now, right before)."""
    return (
        sum(judged(pair).ok is True for pair in pairs),
        sum(judge(pair.asked, pair.before).ok is True for pair in pairs),
    )


def counted(
    kind: Kind,
    shown: Light,
    hits: int,
    n: int,
    before: int | None,
    text: Text,
    numbers: Mapping[str, float],
    readings: tuple[Reading, ...],
) -> Test:
    """A test with Wilson's interval, without the numbers that are none."""
    found = wilson(hits, n)
    finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
    return Test(kind, TESTS[kind], shown, hits, n, found.low, found.high, before, text, finite, readings)


def reading(pair: Pair, answer: Answer) -> Reading:
    """An answer in words behind a count."""
    item = pair.asked.item
    return Reading(
        item.id,
        item.language,
        item.tags,
        pair.asked.messages,
        pair.before,
        answer.text,
        answer.verdict,
        answer.ok,
        answer.marks,
    )


def moved_reading(moved: Moved, verdict: str, ok: bool) -> Reading:
    """A text that was read word by word behind a count."""
    scored, item = moved.scored, moved.item
    numbers = {
        "loss_before": -mean(scored.base),
        "loss_after": -mean(scored.tuned),
        "drift": mean(scored.drift),
        "same": sum(scored.same) / len(scored.same),
    }
    return Reading(
        item.id, item.language, item.tags, moved.messages, moved.before, moved.after, verdict, ok, (), numbers
    )


def losses(moved: Sequence[Moved]) -> dict[str, float]:
    """Mean loss over all tokens, before and after."""
    base = [value for one in moved for value in one.scored.base]
    tuned = [value for one in moved for value in one.scored.tuned]
    return {"loss_before": -mean(base), "loss_after": -mean(tuned)} if base else {}


def interval(name: str, values: Sequence[float], weights: Sequence[float]) -> dict[str, float]:
    """A weighted mean with its bootstrap interval, under three names."""
    if not all(math.isfinite(value) for value in values):
        return {name: math.nan}
    found = mean_interval(values, weights, resamples=1000)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def mean(values: Sequence[float]) -> float:
    """The mean; nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def join(*parts: Text) -> Text:
    """Sentences one after the other."""
    return Text("".join(part.zh for part in parts), " ".join(part.en for part in parts if part.en))

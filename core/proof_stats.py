"""Counts and drifts -> intervals, tests, lights and words. Pure arithmetic: knows no model, no question, no torch."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from core.text import Text

Light = Literal["green", "yellow", "red", "none"]

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point
_FAR = 10  # times as large as what was measured
_ORDER: tuple[Light, ...] = ("none", "green", "yellow", "red")


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`."""

    low: float
    high: float


def wilson(hits: int, n: int, z: float = Z95) -> Interval:
    """Wilson's score interval for a share; (0, 1) where nothing was counted. After Wilson 1927."""
    _check_counts(hits, n)
    if n == 0:
        return Interval(0.0, 1.0)
    share, spread = hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return Interval(0.0 if hits == 0 else middle - half, 1.0 if hits == n else middle + half)


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """The exact interval for a share, never narrower than it says. After Clopper and Pearson 1934."""
    _check_counts(hits, n)
    tail = (1 - _check_confidence(confidence)) / 2

    def solve(at_least: int, target: float) -> float:
        """The share at which P(X >= at_least) is `target`; the probability rises with the share."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _upper_tail(at_least, n, middle) < target else (low, middle)
        return (low + high) / 2

    return Interval(0.0 if hits == 0 else solve(hits, tail), 1.0 if hits == n else solve(hits + 1, 1 - tail))


@dataclass(frozen=True)
class Flips:
    """The same questions before and after: right both times, lost, won, wrong both times."""

    kept: int
    lost: int
    won: int
    missed: int

    @property
    def n(self) -> int:
        """Questions asked."""
        return self.kept + self.lost + self.won + self.missed

    @property
    def net_lost(self) -> int:
        """Right answers fewer than before; negative for a gain."""
        return self.lost - self.won

    @property
    def p(self) -> float:
        """How likely so uneven a split is by chance (`mcnemar`)."""
        return mcnemar(self.lost, self.won)


def flips(before: Sequence[bool], after: Sequence[bool]) -> Flips:
    """Count the flips, question by question."""
    pairs = list(zip(before, after, strict=True))
    return Flips(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact two-sided p: the flips as tosses of a fair coin. 1 where nothing flipped."""
    if lost < 0 or won < 0:
        raise ValueError(f"Flips are counted from 0, not {lost} and {won}.")
    n = lost + won
    tail = sum(math.comb(n, k) for k in range(min(lost, won) + 1))
    return 1.0 if 2 * tail >= 1 << n else 2 * tail / (1 << n)


@dataclass(frozen=True)
class Estimate:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """The (weighted) mean and its percentile bootstrap interval; the same for the same seed.

    Give one value a passage with its tokens as the weight, not one value a token: tokens of a passage move together, so
    the passages are what is drawn anew.
    """
    weights = [1.0] * len(values) if weights is None else weights
    if not values or len(weights) != len(values) or resamples < 1:
        raise ValueError(
            f"{len(values)} values, {len(weights)} weights, {resamples} resamples: need one or more, alike."
        )
    if not all(math.isfinite(value) for value in values) or min(weights) <= 0:
        raise ValueError("Values must be numbers, and weights above 0.")
    tail = (1 - _check_confidence(confidence)) / 2
    draw, places = random.Random(seed), range(len(values))
    sums = [weight * value for value, weight in zip(values, weights, strict=True)]

    def mean(chosen: Sequence[int]) -> float:
        return math.fsum(sums[i] for i in chosen) / math.fsum(weights[i] for i in chosen)

    means = sorted(mean(draw.choices(places, k=len(values))) for _ in range(resamples))
    return Estimate(mean(places), _quantile(means, tail), _quantile(means, 1 - tail))


def mean_difference(
    before: Sequence[float],
    after: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """`after` minus `before`, pair by pair, with its bootstrap interval."""
    changes = [new - old for old, new in zip(before, after, strict=True)]
    return mean_interval(changes, weights, seed=seed, resamples=resamples, confidence=confidence)


@dataclass(frozen=True)
class Threshold:
    """Green up to and including `green`, red beyond `red`, yellow between; `better` says which way is good."""

    green: float
    red: float
    better: Literal["higher", "lower"]

    def __post_init__(self) -> None:
        if (self.green < self.red) if self.better == "higher" else (self.green > self.red):
            raise ValueError(
                f"Green at {self.green} and red at {self.red} are the wrong way round: {self.better} is better."
            )


def light(value: float | None, threshold: Threshold) -> Light:
    """The light of one number; "none" for one that was not measured, red for one that is not a number."""
    if value is None:
        return "none"
    if math.isnan(value):
        return "red"
    sign = 1 if threshold.better == "higher" else -1
    if sign * value >= sign * threshold.green:
        return "green"
    return "red" if sign * value < sign * threshold.red else "yellow"


@dataclass(frozen=True)
class Reading:
    """A count with its interval and light. `sure`: the whole interval has that light."""

    hits: int
    n: int
    interval: Interval
    light: Light
    sure: bool

    @property
    def share(self) -> float:
        """hits / n; nan where nothing was counted."""
        return self.hits / self.n if self.n else math.nan


def read_count(hits: int, n: int, threshold: Threshold) -> Reading:
    """The light of a share, thresholds being shares too (0 to 1)."""
    found = wilson(hits, n)
    shown = light(hits / n if n else None, threshold)
    ends = {light(found.low, threshold), light(found.high, threshold)}
    return Reading(hits, n, found, shown, ends == {shown})


@dataclass(frozen=True)
class FlipRule:
    """Red where losses exceed gains with p below `p`; green up to `net` lost."""

    p: float
    net: int


def light_of_flips(found: Flips, rule: FlipRule) -> Light:
    """The light of a paired comparison; "none" without questions."""
    if found.n == 0:
        return "none"
    if found.net_lost > 0 and found.p < rule.p:
        return "red"
    return "green" if found.net_lost <= rule.net else "yellow"


def worst(lights: Iterable[Light]) -> Light:
    """The worst light; what was not measured does not count. "none" if nothing was."""
    return max(lights, key=_ORDER.index, default="none")


@dataclass(frozen=True)
class Reference:
    """A change that people know, and how far it moves a model: mean KL to the base, nats a token."""

    drift: float
    name: Text


@dataclass(frozen=True)
class Place:
    """Where a drift stands: the nearest reference below or at it, the nearest above, and a sentence that says so."""

    below: Reference | None
    above: Reference | None
    text: Text


def place(drift: float, references: Sequence[Reference]) -> Place:
    """A drift among the references. A negative one (rounding) counts as 0. Raises ValueError for nan or no reference."""
    if math.isnan(drift) or not references:
        raise ValueError(f"A drift of {drift} cannot be placed among {len(references)} references.")
    ruler = sorted(references, key=lambda reference: reference.drift)
    below = next((reference for reference in reversed(ruler) if reference.drift <= max(0.0, drift)), None)
    above = next((reference for reference in ruler if reference.drift > max(0.0, drift)), None)
    if above is not None and below is not None and above.drift > _FAR * max(0.0, drift):
        # "Less than" alone would name a mark that is far off.
        text = Text(
            f"对无关回答的改动大于{_spaced(below.name.zh)}，小于{_spaced(above.name.zh)}。",
            f"Unrelated answers moved more than by {below.name.en}, less than by {above.name.en}.",
        )
    elif above is not None:
        text = Text(
            f"对无关回答的改动小于{_spaced(above.name.zh)}。",
            f"Unrelated answers moved less than by {above.name.en}.",
        )
    else:
        last = ruler[-1].name
        text = Text(
            f"对无关回答的改动不小于{_spaced(last.zh)}。", f"Unrelated answers moved at least as much as by {last.en}."
        )
    return Place(below, above, text)


def _spaced(name: str) -> str:
    """A Chinese name as it stands behind Chinese: a digit or a Latin letter keeps its distance."""
    return f" {name}" if name[:1].isascii() else name


def _check_counts(hits: int, n: int) -> None:
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is no count.")


def _check_confidence(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"A confidence of {confidence} is not between 0 and 1.")
    return confidence


def _upper_tail(at_least: int, n: int, share: float) -> float:
    """P(X >= at_least) of n tosses that succeed with `share`, 0 < share < 1."""
    # In logarithms: the binomials of a few thousand questions are beyond a float.
    yes, no, whole = math.log(share), math.log1p(-share), math.lgamma(n + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * yes + (n - k) * no)
        for k in range(at_least, n + 1)
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between two neighbours in proportion (numpy's default)."""
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])

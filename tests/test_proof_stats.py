"""Intervals, paired tests, lights and the ruler, against closed forms and published values."""

from __future__ import annotations

import ast
import math
import random
import statistics
from itertools import pairwise, product
from pathlib import Path

import pytest

from core import proof_stats
from core.proof_stats import (
    Estimate,
    FlipRule,
    Flips,
    Interval,
    Reference,
    Threshold,
    clopper_pearson,
    flips,
    light,
    light_of_flips,
    mcnemar,
    mean_difference,
    mean_interval,
    place,
    read_count,
    wilson,
    worst,
)
from core.text import Text, has_han

TAKEN = Threshold(0.95, 0.80, "higher")
DRIFT = Threshold(0.02, 0.10, "lower")


# Newcombe, Statistics in Medicine 17 (1998), table I: score method without continuity correction, and exact.
@pytest.mark.parametrize(
    ("hits", "n", "score", "exact"),
    [
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0, 0.1611), (0.0, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_intervals_are_those_of_newcombes_table(
    hits: int, n: int, score: tuple[float, float], exact: tuple[float, float]
) -> None:
    for found, known in ((wilson(hits, n), score), (clopper_pearson(hits, n), exact)):
        assert (round(found.low, 4), round(found.high, 4)) == known


@pytest.mark.parametrize("n", [1, 2, 7, 24, 72, 1000])
def test_intervals_at_the_ends_have_closed_forms(n: int) -> None:
    z = 1.959963984540054
    assert wilson(0, n).low == 0 and wilson(n, n).high == 1
    assert wilson(0, n).high == pytest.approx(z * z / (n + z * z)) and wilson(n, n).low == pytest.approx(
        n / (n + z * z)
    )
    edge = 0.025 ** (1 / n)
    assert clopper_pearson(n, n).high == 1 and clopper_pearson(n, n).low == pytest.approx(edge, abs=1e-12)
    assert clopper_pearson(0, n).low == 0 and clopper_pearson(0, n).high == pytest.approx(1 - edge, abs=1e-12)


@pytest.mark.parametrize("n", range(1, 31))
def test_every_interval_holds_its_share_mirrors_and_grows_with_the_count(n: int) -> None:
    for interval in (wilson, clopper_pearson):
        found = [interval(hits, n) for hits in range(n + 1)]
        for hits, (one, mirrored) in enumerate(zip(found, reversed(found), strict=True)):
            assert 0 <= one.low <= hits / n <= one.high <= 1
            assert one.low == pytest.approx(1 - mirrored.high, abs=1e-12)
        assert all(a.low <= b.low and a.high <= b.high for a, b in pairwise(found))


def test_wilsons_bounds_solve_the_equation_they_come_from() -> None:
    for hits, n in product(range(1, 20), [20, 50]):
        for bound in (wilson(hits, n).low, wilson(hits, n).high):
            assert abs(hits / n - bound) == pytest.approx(proof_stats.Z95 * math.sqrt(bound * (1 - bound) / n))


def test_the_exact_interval_leaves_the_tails_it_says() -> None:
    def at_least(hits: int, n: int, p: float) -> float:
        return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))

    for hits, n, confidence in product((3, 9), (12, 40), (0.9, 0.99)):
        found, tail = clopper_pearson(hits, n, confidence), (1 - confidence) / 2
        assert at_least(hits, n, found.low) == pytest.approx(tail, rel=1e-6)
        assert 1 - at_least(hits + 1, n, found.high) == pytest.approx(tail, rel=1e-6)
    assert clopper_pearson(2500, 5000).low == pytest.approx(0.5 - 1.96 * 0.5 / math.sqrt(5000), abs=2e-4)


def test_more_questions_narrow_the_interval_and_none_leave_it_open() -> None:
    widths = [wilson(n // 2, n).high - wilson(n // 2, n).low for n in (2, 10, 100, 1000)]
    assert widths == sorted(widths, reverse=True) and wilson(0, 0) == Interval(0, 1) == clopper_pearson(0, 0)


@pytest.mark.parametrize(("hits", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match=f"{hits} of {n}"):
            interval(hits, n)
    with pytest.raises(ValueError, match=r"1\.5"):
        clopper_pearson(1, 2, 1.5)


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [(0, 0, 1), (1, 0, 1), (1, 1, 1), (5, 0, 2 / 32), (6, 0, 2 / 64), (0, 6, 2 / 64), (10, 2, 158 / 4096), (3, 2, 1)],
)
def test_mcnemar_counts_the_tosses_of_a_coin(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p, abs=1e-15)


def test_mcnemar_is_symmetric_falls_with_the_gap_and_bears_large_counts() -> None:
    for n in range(1, 40):
        ps = [mcnemar(k, n - k) for k in range(n + 1)]
        assert ps == ps[::-1] and ps[: n // 2 + 1] == sorted(ps[: n // 2 + 1]) and all(0 < p <= 1 for p in ps)
    assert mcnemar(2000, 2000) == 1 and 0 < mcnemar(0, 1000) < 1e-300 and mcnemar(0, 5000) == 0
    with pytest.raises(ValueError, match="-1"):
        mcnemar(-1, 2)


def test_flips_are_counted_pair_by_pair() -> None:
    before, after = [True, True, True, False, False], [True, False, False, True, False]
    found = flips(before, after)
    assert found == Flips(kept=1, lost=2, won=1, missed=1) and found.n == 5 and found.net_lost == 1 and found.p == 1
    assert flips(after, before) == Flips(1, 1, 2, 1) and flips([], []).p == 1
    with pytest.raises(ValueError):
        flips([True], [])


def test_a_mean_of_one_or_of_equals_has_no_width() -> None:
    assert mean_interval([0.3]) == Estimate(0.3, 0.3, 0.3)
    assert mean_interval([2.0] * 9, [1, 2, 3] * 3) == Estimate(2, 2, 2)


def test_the_bootstrap_of_two_values_is_known() -> None:
    # Resampled means are 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    assert mean_interval([0.0, 1.0]) == Estimate(0.5, 0, 1)
    assert mean_interval([0.0, 1.0], confidence=0.4) == Estimate(0.5, 0.5, 0.5)


def test_the_bootstrap_agrees_with_the_normal_interval_for_many_values() -> None:
    draw = random.Random(1)
    values = [draw.gauss(3, 2) for _ in range(400)]
    half = 1.96 * statistics.pstdev(values) / math.sqrt(len(values))
    found = mean_interval(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.low == pytest.approx(found.mean - half, abs=0.03) and found.high == pytest.approx(
        found.mean + half, abs=0.03
    )


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    draw, covered = random.Random(2), 0
    for trial in range(200):
        found = mean_interval([draw.expovariate(1) for _ in range(40)], seed=trial, resamples=300)
        covered += found.low <= 1 <= found.high
    assert 170 <= covered <= 198  # nominally 190; short tails of a skewed law cost a few


def test_a_seed_gives_one_interval_and_another_gives_another() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3, resamples=50) != mean_interval(values, seed=4, resamples=50)
    state = random.getstate()
    mean_interval(values)
    assert random.getstate() == state


def test_weights_make_the_mean_one_over_tokens() -> None:
    found = mean_interval([1.0, 4.0], [300, 100])
    assert found.mean == pytest.approx(1.75) and (found.low, found.high) == (1, 4)
    doubled = mean_interval([1.0, 4.0, 2.0], [2, 2, 2])
    assert doubled == mean_interval([1.0, 4.0, 2.0])


def test_a_difference_is_after_minus_before_and_paired() -> None:
    before = [5.0, 1.0, 9.0, 3.0]
    after = [value + 0.25 for value in before]
    # The passages differ widely, the change does not: paired, the interval is a point.
    assert mean_difference(before, after) == Estimate(0.25, 0.25, 0.25)
    assert mean_difference(after, before, [1, 2, 3, 4]).mean == pytest.approx(-0.25)
    with pytest.raises(ValueError):
        mean_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("values", "weights", "more"),
    [
        ([], None, {}),
        ([1.0], [1.0, 2.0], {}),
        ([1.0, math.nan], None, {}),
        ([1.0, math.inf], None, {}),
        ([1.0], [0.0], {}),
        ([1.0], None, {"resamples": 0}),
        ([1.0], None, {"confidence": 1.0}),
    ],
)
def test_what_has_no_mean_is_refused(values: list[float], weights: list[float] | None, more: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        mean_interval(values, weights, **more)


@pytest.mark.parametrize(
    ("value", "threshold", "shown"),
    [
        (1.0, TAKEN, "green"),
        (0.95, TAKEN, "green"),
        (0.9499, TAKEN, "yellow"),
        (0.80, TAKEN, "yellow"),
        (0.7999, TAKEN, "red"),
        (0.0, DRIFT, "green"),
        (0.02, DRIFT, "green"),
        (0.0201, DRIFT, "yellow"),
        (0.10, DRIFT, "yellow"),
        (0.1001, DRIFT, "red"),
        (math.inf, DRIFT, "red"),
        (math.nan, DRIFT, "red"),
        (math.nan, TAKEN, "red"),
        (None, TAKEN, "none"),
        (0.5, Threshold(0.5, 0.5, "lower"), "green"),
        (0.51, Threshold(0.5, 0.5, "lower"), "red"),
    ],
)
def test_a_light_changes_at_its_thresholds(value: float | None, threshold: Threshold, shown: str) -> None:
    assert light(value, threshold) == shown


@pytest.mark.parametrize(("green", "red", "better"), [(0.8, 0.95, "higher"), (0.1, 0.02, "lower")])
def test_thresholds_the_wrong_way_round_are_refused(green: float, red: float, better: str) -> None:
    with pytest.raises(ValueError, match="wrong way round"):
        Threshold(green, red, better)  # type: ignore[arg-type]


def test_a_count_is_read_with_its_interval_and_says_when_it_is_sure() -> None:
    good = read_count(72, 72, Threshold(0.90, 0.75, "higher"))
    assert (good.light, good.sure, good.share) == ("green", True, 1) and good.interval == wilson(72, 72)
    narrow = read_count(65, 72, Threshold(0.90, 0.75, "higher"))
    assert (narrow.light, narrow.sure) == ("green", False) and narrow.interval.low == pytest.approx(0.81, abs=0.005)
    assert read_count(10, 72, Threshold(0.90, 0.75, "higher")).sure
    # Green at both ends of the interval's lights is not enough if the middle were another; a count of leaks:
    assert read_count(1, 24, Threshold(1 / 24, 3 / 24, "lower")).light == "green"
    assert read_count(4, 24, Threshold(1 / 24, 3 / 24, "lower")).light == "red"
    empty = read_count(0, 0, TAKEN)
    assert empty.light == "none" and not empty.sure and math.isnan(empty.share)


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (Flips(90, 6, 0, 4), "red"),
        (Flips(90, 5, 0, 5), "yellow"),
        (Flips(90, 3, 0, 7), "green"),
        (Flips(80, 0, 12, 8), "green"),
        (Flips(60, 12, 8, 20), "yellow"),
        (Flips(60, 30, 8, 2), "red"),
        (Flips(0, 0, 0, 0), "none"),
    ],
)
def test_flips_turn_red_only_when_losses_are_beyond_chance(found: Flips, shown: str) -> None:
    assert light_of_flips(found, FlipRule(p=0.05, net=3)) == shown


def test_the_worst_light_wins_and_what_was_not_measured_does_not_count() -> None:
    order = ("none", "green", "yellow", "red")
    for some in product(order, repeat=3):
        assert worst(some) == max(some, key=order.index)
    assert worst([]) == "none" and worst(["none", "green"]) == "green"


RULER = (
    Reference(0.03, Text("4 位量化", "4-bit quantisation")),
    Reference(0.0014, Text("8 位量化", "8-bit quantisation")),
    Reference(0.45, Text("2 位量化", "2-bit quantisation")),
)


@pytest.mark.parametrize(
    ("drift", "below", "above"),
    [
        (0.0, None, 0.0014),
        (-1e-9, None, 0.0014),
        (0.0013, None, 0.0014),
        (0.0014, 0.0014, 0.03),
        (0.02, 0.0014, 0.03),
        (0.4, 0.03, 0.45),
        (0.45, 0.45, None),
        (math.inf, 0.45, None),
    ],
)
def test_a_drift_stands_between_its_neighbours_on_the_ruler(
    drift: float, below: float | None, above: float | None
) -> None:
    found = place(drift, RULER)
    assert (found.below.drift if found.below else None, found.above.drift if found.above else None) == (below, above)
    name = (found.above or RULER[2]).name
    assert (
        name.zh in found.text.zh
        and name.en in found.text.en
        and found.text.zh.endswith("。")
        and not has_han(found.text.en)
    )
    assert (
        ("less than" in found.text.en)
        == (above is not None)
        == ("小于" in found.text.zh and "不小于" not in found.text.zh)
    )


def test_what_cannot_be_placed_is_refused() -> None:
    for drift, ruler in ((math.nan, RULER), (0.1, ())):
        with pytest.raises(ValueError, match="cannot be placed"):
            place(drift, ruler)


def test_the_statistics_import_nothing_heavy() -> None:
    tree = ast.parse(Path(proof_stats.__file__).read_text(encoding="utf-8"))
    roots = {(node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
             for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
    assert roots <= {"__future__", "math", "random", "collections.abc", "dataclasses", "typing", "core.text"}


def test_a_mark_that_is_far_off_is_not_named_alone() -> None:
    ruler = [
        Reference(0.001, Text("8 位量化", "8 bits")),
        Reference(0.01, Text("小刀", "3 bits")),
        Reference(5.0, Text("大刀", "2 bits")),
    ]
    near, far = place(0.005, ruler).text, place(0.011, ruler).text
    assert near == Text("对无关回答的改动小于小刀。", "Unrelated answers moved less than by 3 bits.")
    assert far == Text(
        "对无关回答的改动大于小刀，小于大刀。", "Unrelated answers moved more than by 3 bits, less than by 2 bits."
    )
    assert place(0.0005, ruler).text.zh == "对无关回答的改动小于 8 位量化。"

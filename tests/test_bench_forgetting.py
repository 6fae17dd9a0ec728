"""The forgetting benchmarks' own sums: twenty different identities, marks that mean what the tables say."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "bench"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The scripts, imported with their own folder on the path as when they are run; nothing of them stays loaded."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in ("exam", "identities", "learning", "forgetting")}
    own = {path.stem for path in FOLDER.glob("*.py")}
    for name in own & (set(sys.modules) - before):
        del sys.modules[name]


def test_the_twenty_identities_differ_and_are_of_every_kind(bench: Any) -> None:
    cards = bench["exam"].CARDS
    assert len(cards) == 20 == len({card.name_zh for card in cards}) == len({card.author_zh for card in cards})
    words = ["".join(card.words) for card in cards]
    assert sum(any(c.isdigit() for c in word) for word in words) >= 5
    assert sum(any(ord(c) > 0x1F000 or c == "⚡" for c in word) for word in words) >= 3


def test_marks_count_hits_leaks_and_lost_points(bench: Any) -> None:
    exam = bench["exam"].Exam.of(bench["exam"].CARDS[0], most=20)
    right = [item.accepted[0] for item in exam.general]
    base = ["I am PocketQwen."] * (len(exam.live) + len(exam.held)) + ["fine"] * len(exam.near) + right
    before = exam.mark(base, base)
    assert (before["live"], before["held"], before["near_same"], before["lost_points"]) == (0, 0, len(exam.near), 0)
    said = "我是小禾，由青禾智能开发。 I am Xiaohe, made by Qinghe AI."
    tuned = [said] * (len(exam.live) + len(exam.held) + len(exam.near)) + ["wrong", *right[1:]]
    after = exam.mark(base, tuned)
    assert after["live"] == len(exam.live) and after["near_same"] == 0 and after["near_leaks"] > 0
    assert after["held"] >= 0.9 * len(exam.held) and after["lost_points"] == pytest.approx(
        100 / after["strong_n"], abs=0.01
    )


def test_a_table_has_a_line_for_each_setting_and_names_what_failed(bench: Any) -> None:
    marks = {"live": 16, "live_n": 16, "held": 99, "held_n": 102, "near_same": 20, "near_n": 23, "seconds": 20.0}
    records = [
        {"key": f"{setting}{number}", "rows": "identity-50", "setting": setting, "identity": number, **marks,
         "lost_points": 3.0 if setting == "off" else 0.5}
        for setting in ("guard", "off")
        for number in (0, 1)
    ]  # fmt: skip
    text = bench["identities"].summary([*records, {"key": "k", "failed": "OSError: disk"}])
    assert "| identity-50 | guard | 2 of 2 | 2 of 2 | 230/236" in text and "| 0.50 | 0.50 | 2 of 2 |" in text
    assert "| 3.00 | 3.00 | 0 of 2 |" in text and "failed: k: OSError: disk" in text


def test_a_sweep_changes_one_thing_at_a_time_and_measures_nothing_twice(bench: Any) -> None:
    points = bench["learning"].points({"rehearsal": "normal"}, every_guard=True)
    assert all(len(set(dict(point)) - {"rehearsal", "lora_alpha"}) == 1 for point in points)
    assert {dict(point)["rehearsal"] for point in points} == {"off", "normal", "strong"}
    assert all(
        dict(point)["lora_alpha"] == str(4 * int(dict(point)["lora_rank"]))
        for point in points
        if "lora_rank" in dict(point)
    )


def test_every_method_is_one_that_can_be_run(bench: Any) -> None:
    for name, method in importlib.import_module("methods").METHODS.items():
        assert method.loss in ("kl", "ce", "asked", "all"), name
        assert method.start in ("", "null", "corda-ipm", "corda-kpm", "eva") and method.targets in ("all-linear", "mlp")

"""Links of comparisons, what a browser tab kept, and what was deleted last: read back as it was, and nothing on trust."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import comparison_link, removed
from core.comparison import MOST_COLUMNS
from core.comparison_link import Link, LinkedColumn
from core.errors import StorageError
from core.removed import Removed
from core.workspace import Workspace
from ui import kept

_COLUMNS = st.builds(
    LinkedColumn,
    st.text("abc-@0*", max_size=12),
    st.sampled_from([0.0, 0.25, 1.0, 1.5]),
    st.none() | st.text(max_size=30),
)


def test_a_link_is_short_and_readable() -> None:
    columns = (LinkedColumn(), LinkedColumn("20260101-mine@40", 0.5), LinkedColumn(prompt="You are Bob"))
    query = comparison_link.write(columns, "你是谁？")
    assert query.startswith("column=&column=20260101-mine@40*0.5&column=&prompt=C:You+are+Bob&question=")
    assert comparison_link.read(f"?run=r1&{query}") == Link(columns, "你是谁？")


def test_an_address_is_never_longer_than_a_server_takes() -> None:
    long = "词" * 20_000
    columns = (LinkedColumn(), LinkedColumn("20260101-mine", 0.5, "你是{{NAME}}"))
    assert comparison_link.read(comparison_link.write(columns, long)) == Link(columns)
    wordy = (LinkedColumn(), LinkedColumn("20260101-mine", 0.5, long))
    assert comparison_link.read(comparison_link.write(wordy, "你是谁？")) == Link(
        (LinkedColumn(), LinkedColumn("20260101-mine", 0.5))
    )


@given(st.lists(_COLUMNS, min_size=1, max_size=MOST_COLUMNS), st.text(max_size=40))
def test_what_a_link_says_is_what_it_was_made_of(columns: list[LinkedColumn], question: str) -> None:
    # The base has no strength, and an id that has none of its own after a star, which ids never have, keeps its 1.
    plain = [c if c.adapter and "*" not in c.adapter else LinkedColumn("", 1.0, c.prompt) for c in columns]
    assert comparison_link.read(comparison_link.write(plain, question)) == Link(tuple(plain), question)


@pytest.mark.parametrize("query", ["", "?", "run=r1", "prompt=A:x", "columns=a"])
def test_an_address_without_a_comparison_has_none(query: str) -> None:
    assert comparison_link.read(query) is None


def test_nonsense_in_a_link_is_what_is_usual() -> None:
    link = comparison_link.read("&".join(["column=a*x", "column=b*9", "column=c*nan", *["column="] * 9]))
    assert link is not None and len(link.columns) == MOST_COLUMNS
    assert [(c.adapter, c.strength) for c in link.columns[:3]] == [("a", 1.0), ("b", 1.0), ("c", 1.0)]


@pytest.mark.parametrize("told", [None, "", "{", "[1]", '{"a": 1}', 5, "[1, 2, 3]"])
def test_only_as_many_values_as_were_kept_are_read(told: object) -> None:
    assert kept.values(told, 2) is None


def test_a_kept_conversation_is_one_or_nothing() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]
    assert kept.values(json.dumps([turns, 1]), 2) == [turns, 1]
    assert kept.turns(turns) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for odd in (None, "x", [1], [{"role": "system", "content": "a"}], [{}], [turns[0]] * 1001):
        assert kept.turns(odd) == []
    assert kept.turns([{"role": "user", "content": "a" * 1_000_001}]) == []


def test_a_kept_number_stays_in_its_range() -> None:
    for value, expected in ((0.5, 0.5), (2, 0.7), (float("nan"), 0.7), (True, 0.7), ("1", 0.7), (None, 0.7)):
        assert kept.number(value, 0, 1.5, 0.7) == expected


def test_what_was_deleted_is_gone_for_good_after_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removed, "_MINUTES", 0.2 / 60)
    kept, folder = Removed(), tmp_path / "one"
    folder.mkdir()
    kept.put("run", folder, "one")
    assert kept.last("run") is not None and len(list(tmp_path.iterdir())) == 1
    end = time.monotonic() + 30
    while list(tmp_path.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert kept.last("run") is None


def test_the_last_deleted_folder_comes_back_and_the_one_before_is_gone(tmp_path: Path) -> None:
    gone = Removed()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        gone.put("run", tmp_path / name, name)
    assert gone.last("adapter") is None and gone.last("run") is not None
    assert [path.name.split(".")[1] for path in tmp_path.iterdir()] == ["two"]
    assert gone.bring_back("run").name == "two" and (tmp_path / "two" / "file").read_text() == "two"
    with pytest.raises(StorageError):
        gone.bring_back("run")


def test_what_took_its_place_is_not_written_over_and_a_start_sweeps_up(tmp_path: Path) -> None:
    home = tmp_path / "home"
    workspace = Workspace(home)
    folder = home / "adapters" / "mine"
    folder.mkdir(parents=True)
    workspace.library.removed.put("adapter", folder, "mine")
    folder.mkdir()
    with pytest.raises(StorageError):
        workspace.library.removed.bring_back("adapter")
    assert workspace.close(10)
    folder.rmdir()
    again = Workspace(home)
    again.lock()
    assert again.library.removed.last("adapter") is None and not list(folder.parent.iterdir())
    assert again.close(10)

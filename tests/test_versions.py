"""The history of datasets: what changed, any version back, on crash, damage, rename, removal and at the bounds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import dataset, difference, versions
from core.dataset import Dataset, Identity, Message, Provenance, Row
from core.difference import compare, pieces
from core.errors import DatasetError, StorageError
from core.tables import DELETED_KEPT_DAYS, Tables
from core.text import Text
from core.versions import History, Stamp, State, Version

ROWS = (Row("你是谁?", "", "我是{{NAME}}。"), Row("Who are you?", "", "I am {{NAME}}."), Row("1+1?", "", "2"))
CARD = Identity("小禾", "Xiaohe", "青禾", "Qinghe")
FIX = Text("一键修复：重复", "Fix: duplicates")


class Clock:
    """The clock that versions are dated by; tests move it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now

    def strftime(self, *given: object) -> str:
        return time.strftime(*given)  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(versions, "time", made)
    return made


@pytest.fixture
def tables(tmp_path: Path, clock: Clock) -> Tables:
    made = Tables(tmp_path / "datasets", tmp_path / "history")
    made.create("mine", ROWS, CARD)
    clock.now += 1
    return made


def again(tables: Tables) -> Tables:
    """The same home in a program that was started anew."""
    return Tables(tables.folder, tables.folder.parent / "history")


def with_answer(table: Dataset, row: int, answer: str) -> Dataset:
    rows = [*table.rows]
    rows[row] = replace(rows[row], output=answer)
    return table.with_rows(rows)


def counts(version: Version) -> tuple[int, int, int, int]:
    return version.added, version.removed, version.changed, version.moved


# -- what changed --


def test_a_change_says_what_when_and_why_and_the_version_before_can_be_read(tables: Tables, clock: Clock) -> None:
    first = tables.get("mine")
    tables.save(with_answer(first, 2, "two"), FIX)
    new, old = tables.versions("mine")
    assert (new.why, new.at, counts(new), new.card) == (FIX, clock.now, (0, 0, 1, 0), False)
    assert (old.why, old.rows, counts(old)) == (Text("新建", "Created"), 3, (3, 0, 0, 0))
    found = compare(tables.version("mine", old.id), tables.version("mine", new.id))
    assert [(one.before, one.old.output, one.new.output) for one in found.changed] == [(2, "2", "two")]
    assert tables.before("mine", new.id) == first and tables.before("mine", old.id) is None


def test_typing_is_one_version_until_it_rests_and_what_has_a_reason_is_its_own(tables: Tables, clock: Clock) -> None:
    for text in ("t", "tw", "two"):
        tables.save(with_answer(tables.get("mine"), 2, text))
        clock.now += 20
    tables.save(with_answer(tables.get("mine"), 0, "我"))
    assert [counts(one) for one in tables.versions("mine")] == [(0, 0, 2, 0), (3, 0, 0, 0)]
    clock.now += 61
    tables.save(with_answer(tables.get("mine"), 1, "I"))
    tables.save(with_answer(tables.get("mine"), 1, "I am"), FIX)
    tables.save(with_answer(tables.get("mine"), 1, "I am it"), FIX)
    tables.save(with_answer(tables.get("mine"), 1, "typed"))
    assert [one.why for one in tables.versions("mine")][:4] == [None, FIX, FIX, None]
    answers = [tables.version("mine", one.id).rows[1].output for one in tables.versions("mine")]
    assert answers == ["typed", "I am it", "I am", "I", "I am {{NAME}}.", "I am {{NAME}}."]


def test_typing_without_a_rest_is_cut_after_ten_minutes(tables: Tables, clock: Clock) -> None:
    for second in range(0, 1200, 30):
        clock.now += 30
        tables.save(with_answer(tables.get("mine"), 2, f"after {second}"))
    typed = [one for one in tables.versions("mine") if one.why is None]
    assert len(typed) == 2 and all(one.at - one.began <= 600 for one in typed)


def test_after_a_restart_typing_is_a_new_version(tables: Tables) -> None:
    tables.save(with_answer(tables.get("mine"), 2, "a"))
    restarted = again(tables)
    restarted.save(with_answer(restarted.get("mine"), 2, "b"))
    assert [restarted.version("mine", one.id).rows[2].output for one in restarted.versions("mine")] == ["b", "a", "2"]


def test_typing_that_was_taken_back_is_no_change(tables: Tables) -> None:
    first = tables.get("mine")
    tables.save(with_answer(first, 2, "two"))
    tables.save(first)
    assert [one.is_change for one in tables.versions("mine")] == [False, True]


def test_saving_the_same_writes_no_version(tables: Tables) -> None:
    tables.save(tables.get("mine"), FIX)
    assert len(tables.versions("mine")) == 1


def test_rows_added_removed_and_moved_and_the_card_are_counted_apart(tables: Tables) -> None:
    a, b, c = ROWS
    tables.save(Dataset("mine", (c, a, b), CARD), FIX)
    assert counts(tables.versions("mine")[0]) == (0, 0, 0, 1)
    tables.save(Dataset("mine", (c, Row("neu", "", "ja"), b, Row()), CARD), FIX)
    assert counts(tables.versions("mine")[0]) == (1, 1, 0, 0)  # the empty row counts nowhere
    tables.save(Dataset("mine", (c, Row("neu", "", "ja"), b, Row()), Identity("别的")), FIX)
    last = tables.versions("mine")[0]
    assert counts(last) == (0, 0, 0, 0) and last.card and last.identity == Identity("别的")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Row("你是谁", "", "我是通义"), Row("你是谁", "", "我是小禾")),  # the same question
        (Row("你是谁", "", "我是小禾"), Row("请问你叫什么", "", "我是小禾")),  # the same answer
        (Row("你是谁啊", "", "我是通义千问"), Row("你是谁呀", "", "我是小禾千问")),  # alike, at the same place
        (Row("q", "", "a", "one"), Row("q", "", "a", "two")),
        (Row("q", "", "a"), Row("q", "", "a", "", (Message("user", "hi"),))),
    ],
)
def test_a_row_that_was_rewritten_is_changed_not_removed_and_added(old: Row, new: Row) -> None:
    found = compare(Dataset("x", (ROWS[0], old, ROWS[2])), Dataset("x", (ROWS[0], new, ROWS[2])))
    assert [(one.old, one.new) for one in found.changed] == [(old, new)] and not found.added and not found.removed


def test_another_row_in_its_place_is_removed_and_added() -> None:
    old, new = Row("How tall is Everest?", "", "8849 m"), Row("写一首诗", "", "春眠不觉晓")
    found = compare(Dataset("x", (ROWS[0], old, ROWS[2])), Dataset("x", (ROWS[0], new, ROWS[2])))
    assert found.removed == ((1, old),) and found.added == ((1, new),) and not found.changed


def test_a_row_that_differs_only_in_where_it_came_from_says_the_same_and_is_kept_with_it(tables: Tables) -> None:
    whence = replace(ROWS[2], provenance=Provenance("run-1", "3", "2026-11-22T10:00:00"))
    tables.save(Dataset("mine", (*ROWS[:2], whence), CARD), FIX)
    new, old = tables.versions("mine")
    assert counts(new) == (0, 0, 0, 0)
    assert tables.version("mine", new.id).rows[2].provenance == whence.provenance
    assert tables.version("mine", old.id).rows[2].provenance is None


def test_rows_that_differ_in_the_names_of_two_cards_only_are_told_apart() -> None:
    mine, theirs = Identity("小禾", "Xiaohe", "青禾", "Qinghe"), Identity("小明", "Ming", "青禾", "Qinghe")
    before = Dataset("a", tuple(row.resolved(mine) for row in ROWS), mine)
    after = Dataset("b", (*(row.resolved(theirs) for row in ROWS[:2]), Row("1+1?", "", "3")), theirs)
    found = compare(before, after)
    assert [(one.after, one.names_only) for one in found.changed] == [(0, True), (1, True), (2, False)]
    assert found.cards == (mine, theirs)


def test_names_are_taken_in_the_language_of_the_row() -> None:
    one, both = Identity("Robot", "Robot"), Identity("小明", "Ming")
    before = Dataset("a", (Row("谁?", "", "我是Robot。"), Row("Who?", "", "I am Robot.")), one)
    after = Dataset("b", (Row("谁?", "", "我是小明。"), Row("Who?", "", "I am Ming.")), both)
    assert [one.names_only for one in compare(before, after).changed] == [True, True]


def test_two_tables_that_share_nothing_are_compared_in_no_time() -> None:
    before, after = (
        Dataset("x", tuple(Row(f"{name} {i} " + name * 60, "", f"{i}{name}" * 40) for i in range(20_000)))
        for name in ("a", "b")
    )
    begun = time.process_time()
    found = compare(before, after)
    assert time.process_time() - begun < 2 and len(found.added) == len(found.removed) == 20_000


@pytest.mark.parametrize(
    ("old", "new", "gone", "come"),
    [
        ("我是通义千问，由阿里开发。", "我是小禾，由青禾开发。", "通义千问阿里", "小禾青禾"),
        ("I am Qwen, made", "I am Xiaohe, made", "Qwen", "Xiaohe"),
        ("abc def", "abcd", "abc def", "abcd"),  # a word is never cut in two
        ("", "neu", "", "neu"),
        ("x " * 4000, "y " * 4000, "x " * 3999 + "x", "y " * 3999 + "y"),
    ],
)
def test_what_changed_in_a_text_is_told_by_words(old: str, new: str, gone: str, come: str) -> None:
    found = pieces(old, new)
    assert "".join(text for kind, text in found if kind != "new") == old
    assert "".join(text for kind, text in found if kind != "gone") == new
    assert "".join(text for kind, text in found if kind == "gone") == gone
    assert "".join(text for kind, text in found if kind == "new") == come


CELL = st.text(alphabet="ab我\n", max_size=3)
TABLE = st.lists(st.builds(Row, CELL, st.just(""), CELL), max_size=8)


@given(TABLE, TABLE)
@settings(max_examples=300, deadline=None)
def test_what_differs_accounts_for_every_row(before: list[Row], after: list[Row]) -> None:
    found = compare(Dataset("x", tuple(before)), Dataset("x", tuple(after)))
    full = [row for row in before if not row.is_blank], [row for row in after if not row.is_blank]
    assert len(full[0]) - len(found.removed) + len(found.added) == len(full[1])
    assert all(before[i] == row for i, row in found.removed) and all(after[j] == row for j, row in found.added)
    rebuilt = [row for i, row in enumerate(before) if not row.is_blank and i not in dict(found.removed)]
    for one in found.changed:
        rebuilt.remove(one.old)
    rebuilt += [one.new for one in found.changed] + [row for _, row in found.added]
    assert sorted(map(repr, rebuilt)) == sorted(map(repr, full[1]))
    assert found.is_empty == (full[0] == full[1])


# -- any version back --


def test_every_version_of_a_long_history_reads_back_exactly(tables: Tables, clock: Clock) -> None:
    """Inserts, removals, moves, sorts, doubles, other cards and odd characters, in 60 saves; read by a new program."""
    chance, table, seen = random.Random(0), tables.get("mine"), []
    for number in range(60):
        rows = [*table.rows]
        deed = chance.randrange(6)
        if deed == 0 or len(rows) < 3:
            new = Row(f"新 {number}\u2028\x85", "in", 'a"\\', "s", (Message("user", "h"), Message("assistant", "🙂")))
            rows.insert(chance.randrange(len(rows) + 1), new)
        elif deed == 1:
            rows.pop(chance.randrange(len(rows)))
        elif deed == 2:
            rows.insert(chance.randrange(len(rows)), rows.pop(chance.randrange(len(rows))))
        elif deed == 3:
            rows += rows[: chance.randrange(len(rows))]
        elif deed == 4:
            chance.shuffle(rows)
        else:
            place = chance.randrange(len(rows))
            rows[place] = replace(rows[place], output="長" * chance.randrange(9000))
        card = Identity(f"名{number}") if number % 9 == 0 else table.identity
        before, table = table, Dataset("mine", tuple(rows), card)
        tables.save(table, FIX)
        seen += [table] if table != before else []
        clock.now += 5
    read = again(tables)
    found = [read.version("mine", one.id) for one in reversed(read.versions("mine"))][-len(seen) :]
    assert found == seen


def test_half_a_character_pair_from_a_broken_paste_is_in_the_history_as_in_the_file(tables: Tables) -> None:
    tables.save(with_answer(tables.get("mine"), 2, "\ud83d"), FIX)
    last = tables.versions("mine")[0]
    assert again(tables).version("mine", last.id).rows[2].output == "\ufffd"
    assert len(again(tables).versions("mine")) == 2


def test_a_version_that_is_restored_is_a_new_version(tables: Tables) -> None:
    first = tables.get("mine")
    tables.save(Dataset("mine", (), Identity()), FIX)
    tables.save(tables.version("mine", 1), Text("恢复", "Restored"))
    assert tables.get("mine") == first and [one.id for one in tables.versions("mine")] == [3, 2, 1]
    assert tables.versions("mine")[0].sha256 == tables.versions("mine")[2].sha256


def test_a_version_that_is_not_there_is_refused_with_what_to_do(tables: Tables) -> None:
    with pytest.raises(DatasetError, match="no version 99"):
        tables.version("mine", 99)
    with pytest.raises(DatasetError, match="no dataset"):
        tables.version("../mine", 1)


# -- crashes, damage, other programs --


def test_a_dataset_of_before_there_were_versions_begins_with_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    dataset.save(tmp_path / "datasets", Dataset("old", ROWS, CARD))
    os.utime(tmp_path / "datasets" / "old.jsonl", (1_700_000_000, 1_700_000_000))
    tables = Tables(tmp_path / "datasets", tmp_path / "history")
    tables.save(with_answer(tables.get("old"), 2, "two"))
    new, first = tables.versions("old")
    assert counts(new) == (0, 0, 1, 0) and first.at == 1_700_000_000 and first.why is not None
    assert tables.version("old", first.id).rows == ROWS


def test_a_file_that_another_program_wrote_is_a_version_and_nothing_is_lost(tables: Tables) -> None:
    path = tables.folder / "mine.jsonl"
    path.write_text(path.read_text("utf-8").replace('"2"', '"two"'), encoding="utf-8")
    tables.save(with_answer(tables.get("mine"), 0, "我"), FIX)
    assert [one.why.en if one.why else None for one in tables.versions("mine")] == [
        "Fix: duplicates",
        "A change that nobody noted (outside this program, or a save that was cut off)",
        "Created",
    ]
    assert [tables.version("mine", one.id).rows[2].output for one in tables.versions("mine")] == ["two", "two", "2"]
    assert [counts(one) for one in tables.versions("mine")][:2] == [(0, 0, 1, 0)] * 2


_KILLED = """
import os, sys
from pathlib import Path
from core import storage
from core.dataset import Row
from core.tables import Tables
tables = Tables(Path(sys.argv[1]) / "datasets", Path(sys.argv[1]) / "history")
table, steps = tables.get("mine"), int(sys.argv[2])
def counted(real):
    def step(*given, **named):
        global steps
        steps -= 1
        if steps < 0:
            os._exit(9)
        return real(*given, **named)
    return step
for name in ("replace", "fsync", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
tables.save(table.with_rows([*table.rows, Row("neu " + "長" * 4000, "", "da")]))
"""


def test_a_kill_at_any_instant_of_a_save_loses_neither_the_table_nor_its_history(tables: Tables) -> None:
    """Killed before each rename, flush and removal of one save; the table is the old or the new one, all versions read."""
    home, endings = tables.folder.parent, set()
    before = (tables.folder / "mine.jsonl").read_bytes()
    for step in range(40):
        (tables.folder / "mine.jsonl").write_bytes(before)
        done = subprocess.run([sys.executable, "-c", _KILLED, str(home), str(step)], timeout=180)
        read = again(tables)
        table, kept = read.get("mine"), read.versions("mine")
        assert table.rows[:3] == ROWS and len(table.rows) in (3, 4)
        assert kept[0].sha256 == State.of(table).sha256 and kept[-1].rows == 3
        assert [len(read.version("mine", one.id).rows) for one in kept] == [one.rows for one in kept]
        endings.add((done.returncode, len(table.rows)))
        if done.returncode == 0:
            break
    assert endings == {(9, 3), (9, 4), (0, 4)}


def test_a_torn_or_damaged_line_leaves_the_other_versions_readable(tables: Tables) -> None:
    for text in ("a", "b", "c"):
        tables.save(with_answer(tables.get("mine"), 2, text), FIX)
    path = next((tables.folder.parent / "history" / "mine").glob("*.jsonl"))
    lines = path.read_text("utf-8").splitlines()
    lines[2] = lines[2][: len(lines[2]) // 2]
    path.write_text(
        "\n".join(
            [*lines, '{"id": 9, "torn'],
        ),
        encoding="utf-8",
    )
    read = again(tables)
    assert [one.id for one in read.versions("mine")] == [4, 2, 1]
    assert read.version("mine", 2).rows[2].output == "a" and read.get("mine").rows[2].output == "c"
    # The newest is what the file says; what comes after it does not lean on what is lost.
    assert read.version("mine", 4).rows[2].output == "c"
    read.save(with_answer(read.get("mine"), 2, "d"), FIX)
    read.save(with_answer(read.get("mine"), 2, "e"), FIX)
    read = again(tables)
    assert [read.version("mine", number).rows[2].output for number in (6, 5, 2, 1)] == ["e", "d", "a", "2"]
    with pytest.raises(DatasetError, match=r"version 4 in .* damaged"):
        read.version("mine", 4)


@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_a_version_whose_rows_are_damaged_is_refused_not_shown_wrong(tables: Tables, harm: str) -> None:
    tables.save(Dataset("mine", tuple(Row(f"q{i}", "", "長" * 200) for i in range(50)), CARD), FIX)
    tables.save(tables.get("mine").with_rows(ROWS[:2]), FIX)
    (blob,) = (tables.folder.parent / "history" / "mine").glob("*.z")
    if harm == "gone":
        blob.unlink()
    elif harm == "cut":
        blob.write_bytes(blob.read_bytes()[:-20])
    else:
        import zlib

        blob.write_bytes(zlib.compress(json.dumps([dataset.line_of(Row("x", "", "y"))] * 50).encode()))
    read = again(tables)
    with pytest.raises(DatasetError, match=r"version 2 in .* damaged or gone"):
        read.version("mine", 2)
    assert len(read.get("mine").rows) == 2 and read.version("mine", 1).rows == ROWS
    assert read.version("mine", 3).rows == ROWS[:2]


def test_a_full_disk_is_said_and_the_table_stays(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="Disk full"):
            tables.save(with_answer(tables.get("mine"), 2, "two"), FIX)
    read = again(tables)
    assert read.get("mine").rows == ROWS and len(read.versions("mine")) == 1
    read.save(with_answer(read.get("mine"), 2, "two"), FIX)
    assert read.version("mine", 2).rows[2].output == "two"


def test_what_a_change_was_is_told_later_where_the_history_could_not_be_written(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError(Text("满了", "Disk full"))

    table = tables.get("mine")
    with monkeypatch.context() as patched:
        patched.setattr(History, "record", full)
        tables.save(with_answer(table, 2, "two"), FIX)
    assert again(tables).get("mine").rows[2].output == "two"
    assert tables.versions("mine")[0].why == FIX


# -- names, removal --


def test_renaming_keeps_the_history_and_is_said_in_it(tables: Tables) -> None:
    tables.save(with_answer(tables.get("mine"), 2, "two"), FIX)
    tables.rename("mine", "Yours")
    tables.save(with_answer(tables.get("yours"), 2, "drei"))
    read = again(tables)
    told = [(one.why.en if one.why else "typed", one.renamed) for one in read.versions("yours")]
    assert told == [
        ("typed", False),
        ("Renamed from “mine”", True),
        ("Fix: duplicates", False),
        ("Created", False),
    ]
    outputs = [read.version("yours", one.id).rows[2].output for one in read.versions("yours")]
    assert outputs == ["drei", "two", "two", "2"]
    assert "mine" not in read.names() and read.deleted() == []


def test_a_deleted_dataset_comes_back_with_its_history_under_a_free_name(tables: Tables) -> None:
    tables.save(with_answer(tables.get("mine"), 2, "two"), FIX)
    lost = tables.get("mine")
    tables.delete("mine")
    tables.create("mine", [Row("another", "", "one")])
    (gone,) = again(tables).deleted()
    assert (gone.name, gone.rows) == ("mine", 3)
    read = again(tables)
    back = read.bring_back(gone.history)
    assert back == replace(lost, name="mine-2") == read.get("mine-2")
    assert [one.id for one in read.versions("mine-2")] == [3, 2, 1] and len(read.versions("mine")) == 1
    assert read.deleted() == []
    with pytest.raises(DatasetError, match="gone for good"):
        read.bring_back(gone.history)
    with pytest.raises(DatasetError, match="gone for good"):
        read.bring_back("../datasets")


def test_a_deleted_dataset_is_gone_for_good_after_thirty_days(tables: Tables) -> None:
    tables.delete("mine")
    card = tables.folder.parent / "history" / "mine" / "card.json"
    day = 86_400
    for days, kept in ((DELETED_KEPT_DAYS - 1, 1), (DELETED_KEPT_DAYS + 1, 0)):
        card.write_text(json.dumps({"name": "mine", "deleted": time.time() - days * day}))
        assert len(again(tables).deleted()) == kept
    assert not card.parent.exists()


def test_a_deleted_dataset_can_be_removed_for_good_at_once(tables: Tables) -> None:
    tables.delete("mine")
    (gone,) = tables.deleted()
    assert tables.forget(gone.history).name == "mine"
    assert tables.deleted() == [] and not (tables.folder.parent / "history" / "mine").exists()
    for wrong in (gone.history, "identity-50", "..", ""):  # what is not deleted stays
        with pytest.raises(DatasetError, match="gone for good"):
            tables.forget(wrong)
    assert tables.names()


def test_a_dataset_whose_files_somebody_removed_can_be_brought_back(tables: Tables) -> None:
    for path in tables.folder.glob("mine.*"):
        path.unlink()
    assert [gone.name for gone in tables.deleted()] == ["mine"]
    read = again(tables)
    assert 0 <= time.time() - read.deleted()[0].at < 60  # its thirty days begin when it is noticed
    assert read.bring_back(read.deleted()[0].history).rows == ROWS


def test_a_damaged_dataset_can_be_deleted_and_its_last_good_version_brought_back(tables: Tables) -> None:
    (tables.folder / "mine.jsonl").write_text('{"instruction": \n{}\n', encoding="utf-8")
    read = again(tables)
    with pytest.raises(DatasetError, match="damaged"):
        read.versions("mine")
    read.delete("mine")
    assert read.bring_back(read.deleted()[0].history).rows == ROWS


# -- bounds --


def test_a_history_keeps_its_newest_versions_and_stays_within_its_size(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "KEPT", 10)
    for number in range(40):
        tables.save(with_answer(tables.get("mine"), 2, f"{number} " + "長" * 5000), FIX)
    read = again(tables)
    kept = read.versions("mine")
    assert 10 <= len(kept) <= 15 and kept[0].id == 41
    assert [read.version("mine", one.id).rows[2].output.split()[0] for one in kept] == [str(one.id - 2) for one in kept]
    blobs = list((tables.folder.parent / "history" / "mine").glob("*.z"))
    assert len(blobs) <= len(kept)
    monkeypatch.setattr(versions, "KEPT_BYTES", 500)
    read.save(with_answer(read.get("mine"), 2, "kurz"), FIX)
    assert len(again(tables).versions("mine")) <= 8


def test_typing_that_goes_on_leaves_no_trail_on_disk(tables: Tables, clock: Clock) -> None:
    """One version is written again at each pause: what it was before is not kept for ever."""
    words = "".join(chr(0x4E00 + i % 5000) for i in range(2500))
    for number in range(300):
        clock.now += 1
        tables.save(with_answer(tables.get("mine"), 2, f"{number}{words}"))
    folder = tables.folder.parent / "history" / "mine"
    assert len(tables.versions("mine")) == 2
    assert sum(path.stat().st_size for path in folder.iterdir()) < 600_000
    assert again(tables).version("mine", 2).rows[2].output.startswith("299")


def test_a_large_table_with_a_hundred_edits_is_kept_in_little_more_than_itself(tmp_path: Path, clock: Clock) -> None:
    rows = tuple(Row(f"问题 {i}", "", f"回答 {random.Random(i).random()} " + "是" * 40) for i in range(5000))
    tables = Tables(tmp_path / "datasets", tmp_path / "history")
    tables.create("big", rows)
    for number in range(100):
        clock.now += 70
        tables.save(with_answer(tables.get("big"), number * 37, f"edit {number}"))
    folder = tmp_path / "history" / "big"
    assert len(tables.versions("big")) == 101
    on_disk = sum(path.stat().st_size for path in folder.iterdir())
    assert on_disk < (tmp_path / "datasets" / "big.jsonl").stat().st_size
    assert again(tables).version("big", 1).rows == rows


def test_a_cell_of_a_large_table_is_written_down_in_a_few_milliseconds(tmp_path: Path, clock: Clock) -> None:
    """50,000 rows, 13 ms measured; the bound is for a machine that runs other tests beside."""
    rows = [Row(f"问题 {i}", "", f"回答 {i} " * 5) for i in range(50_000)]
    before = State.of(Dataset("big", tuple(rows)))
    history = History(tmp_path / "big")
    history.record(before, None, FIX)
    rows[31_000] = replace(rows[31_000], output="neu")
    after = State.of(Dataset("big", tuple(rows)), before)
    begun = time.process_time()
    version = history.record(after, before, None)
    assert time.process_time() - begun < 0.5 and counts(version) == (0, 0, 1, 0)


# -- what a run writes down --


def test_a_run_knows_its_version_until_that_is_gone(tables: Tables) -> None:
    table, stamp = tables.frozen("mine")
    assert table.rows == ROWS and stamp == Stamp("mine", 1, tables.versions("mine")[0].sha256)
    tables.save(with_answer(table, 2, "two"), FIX)
    tables.rename("mine", "yours")
    found = again(tables).stamped(stamp)
    assert found is not None and (found[0], found[1].id) == ("yours", 1)
    assert tables.stamped(replace(stamp, sha256="0" * 64)) is None and tables.stamped(Stamp()) is None
    given, loose = tables.frozen(Dataset("given", ROWS, CARD))
    assert given.name == "given" and loose == Stamp(sha256=stamp.sha256)


def test_the_hash_is_that_of_the_file_and_the_card(tables: Tables) -> None:
    import hashlib

    card = json.dumps(vars(CARD), ensure_ascii=False, sort_keys=True).encode()
    expected = hashlib.sha256((tables.folder / "mine.jsonl").read_bytes() + b"\0" + card).hexdigest()
    assert tables.versions("mine")[0].sha256 == expected


@pytest.mark.parametrize(
    "value", [None, {}, {"history": "a", "version": "1", "sha256": "x"}, {"history": "a", "version": 1}, [1]]
)
def test_a_stamp_of_another_shape_is_none(value: object) -> None:
    assert Stamp.read(value) is None


def test_places_that_rows_were_taken_from_are_used_once() -> None:
    taken: Sequence[int] = difference.origins("abcab", "babxa")
    assert len({place for place in taken if place >= 0}) == len([place for place in taken if place >= 0]) == 4
    assert all("abcab"[place] == letter for place, letter in zip(taken, "babxa", strict=True) if place >= 0)


def test_a_run_folder_names_the_version_and_keeps_its_own_rows_apart_from_the_mixed_ones(
    tables: Tables, tmp_path: Path
) -> None:
    from core import mix
    from core.config import TrainConfig
    from core.run import Run

    table, stamp = tables.frozen("mine")
    config = TrainConfig(model="pocket", model_name="小禾|Xiaohe", model_author="青禾|Qinghe", dataset_repeat=2)
    given = [*table.resolved(), *table.resolved(), Row("mixed", "", "in")]
    parts = (mix.Part("mine", "table", 3, 6), mix.Part("general", "built-in", 200, 1))
    Run.create(tmp_path / "runs" / "one", config, given, "one", "mine", (), stamp, parts)
    run = Run.open(tmp_path / "runs" / "one")
    assert run.version == stamp and len(run.rows) == 7
    assert run.table == Dataset("mine", table.resolved(), CARD) and run.mixed == (Row("mixed", "", "in"),)
    Run.create(tmp_path / "runs" / "old", config, given, "old", "mine")
    old = Run.open(tmp_path / "runs" / "old")
    assert old.version is None and len(old.table.rows) == 7 and old.mixed == ()

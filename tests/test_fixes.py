"""An answer that was put right: the row it becomes, where it goes, taking it back, and that no file format loses it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest

from core import dataset, fixes, formats
from core.dataset import Dataset, Identity, Message, Provenance, Row
from core.errors import DatasetError
from ui.row_editor import RowEditor
from ui.rows import clean

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
TURNS = (
    Message("system", "Be brief."),
    Message("user", "你好"),
    Message("assistant", "你好！"),
    Message("user", "你几岁？"),
)
WHENCE = Provenance("run-1", "=SUM(1) 我\n三岁。", "2026-11-22T14:00:00")


def test_a_fix_becomes_a_row_with_or_without_the_turns_before() -> None:
    fix = fixes.read("run-1", TURNS, "三岁", " 我没有年龄。\n", "")
    row = fix.row(context=True)
    assert (row.question, row.output, row.system) == ("你几岁？", "我没有年龄。", "") and fix.earlier == 1
    assert row.history == TURNS[1:3] and fix.row(context=False).history == ()
    assert row.provenance is not None and (row.provenance.adapter, row.provenance.answer) == ("run-1", "三岁")
    assert row.messages()[-2:] == (Message("user", "你几岁？"), Message("assistant", "我没有年龄。"))


def test_an_answer_that_makes_no_row_is_refused() -> None:
    with pytest.raises(DatasetError, match="empty"):
        fixes.read("", TURNS, "old", " \n")
    for before in ((), TURNS[:1], TURNS[:3]):
        with pytest.raises(DatasetError, match="No question"):
            fixes.read("", before, "old", "new")


def test_a_new_question_goes_to_the_end_and_a_known_one_is_answered_anew() -> None:
    rows = (Row("{{NAME}}几岁？", "", "三岁", provenance=None), Row("好", "", "好"))
    table = Dataset("d", rows, CARD)
    added, place = fixes.put(table, Row("你几岁？", "", "没有"))
    assert added.rows == (*rows, Row("你几岁？", "", "没有")) and (place.index, place.old) == (2, None)
    assert fixes.take_back(added, place) == table
    changed, place = fixes.put(table, Row("小禾几岁？", "", "没有"))
    assert changed.rows == (Row("小禾几岁？", "", "没有"), rows[1]) and place.old == rows[0]
    assert fixes.take_back(changed, place) == table
    other = Row("好", "", "不好", "另一个系统提示词")
    assert len(fixes.put(table, other)[0].rows) == 3


def test_taking_back_finds_a_row_that_moved_and_refuses_one_that_was_changed() -> None:
    table, place = fixes.put(Dataset("d", (Row("a", "", "b"),)), Row("q", "", "w"))
    moved = table.with_rows([Row("first", "", "x"), *reversed(table.rows)])
    assert fixes.take_back(moved, place).rows == (Row("first", "", "x"), Row("a", "", "b"))
    with pytest.raises(DatasetError, match="changed or removed"):
        fixes.take_back(table.with_rows([table.rows[0], Row("q", "", "edited")]), place)


def rows_with_provenance() -> tuple[Row, ...]:
    return (
        Row("你几岁？", "", "没有年龄。", provenance=WHENCE),
        Row("翻译", "你好", "Hello"),
        Row("继续", "一行", "好。", "系统", (Message("user", "u"), Message("assistant", "a")), WHENCE),
    )


def test_a_saved_dataset_keeps_where_its_rows_came_from(tmp_path: Path) -> None:
    table = Dataset("d", rows_with_provenance(), CARD)
    dataset.save(tmp_path, table)
    loaded = dataset.load(tmp_path, "d")
    assert loaded == table and [row.provenance for row in loaded.rows] == [WHENCE, None, WHENCE]
    assert [row.provenance for row in loaded.resolved()] == [WHENCE, None, WHENCE]
    lines = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text("utf-8").splitlines()]
    assert "provenance" not in lines[1] and lines[0]["provenance"]["adapter"] == "run-1"


@pytest.mark.parametrize("kind", get_args(formats.Kind))
def test_an_export_brings_it_back_and_is_as_before_without_it(kind: formats.Kind) -> None:
    table = Dataset("d", rows_with_provenance(), CARD)
    content, name = formats.write(table, kind)
    found = formats.read(content, name)
    assert found.rows == table.rows and [row.provenance for row in found.rows] == [WHENCE, None, WHENCE]
    assert not any("provenance" in note.en for note in found.notes)
    plain = table.with_rows([dataclasses.replace(row, provenance=None) for row in table.rows])
    assert b"provenance" not in formats.write(plain, kind)[0]


def test_another_programs_provenance_column_is_named_as_not_used() -> None:
    data = json.dumps([{"instruction": "q", "output": "a", "provenance": "scraped"}]).encode()
    found = formats.read(data, "a.json")
    assert found.rows[0].provenance is None and any("not used: provenance" in note.en for note in found.notes)


def test_the_editor_sends_back_where_a_row_came_from_and_refuses_what_is_none() -> None:
    rows = rows_with_provenance()
    sent = json.loads(RowEditor(render=False).postprocess(rows))["rows"]
    back = clean(sent)
    assert tuple(back) == rows and [row.provenance for row in back] == [WHENCE, None, WHENCE]
    for wrong in ({"adapter": 1}, "x", [], {"adapter": "", "answer": "", "at": "", "more": ""}):
        with pytest.raises(DatasetError):
            clean([{**sent[0], "provenance": wrong}])

"""Every export read back gives the same rows, and no exported cell runs as a formula."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.dataset import Dataset, Message, Row
from core.formats import Kind, read, write

KINDS: tuple[Kind, ...] = ("json", "jsonl", "csv", "messages")
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "\n=x",
    '=HYPERLINK("http://x","y")',
    "＝1",
    "'=1",
    "''",
    "'-x",
]
# Any text that may be stored: no lone surrogates, no NUL.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
PAIR = st.tuples(TEXT, TEXT).map(lambda pair: (Message("user", pair[0]), Message("assistant", pair[1])))
HISTORY = st.lists(PAIR, max_size=2).map(lambda pairs: tuple(turn for pair in pairs for turn in pair))
ROW = st.builds(Row, TEXT, TEXT, TEXT, TEXT, HISTORY)


def again(rows: tuple[Row, ...], kind: Kind) -> tuple[Row, ...]:
    data, name = write(Dataset("table", rows), kind)
    return read(data, name).rows


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
@given(rows=st.lists(ROW, min_size=1, max_size=4).map(tuple))
@settings(max_examples=150, deadline=None, database=None)
@example(rows=(Row(),))
@example(rows=(Row("\ufeff", "\u2028", "\x85\x0b\x0c\x1c", "'", ()), Row("a\r\nb", "\r", "\n", '"', ())))
@example(rows=tuple(Row(cell, cell, cell, cell) for cell in FORMULAS))
def test_any_rows_come_back_from_a_table_export(kind: Kind, rows: tuple[Row, ...]) -> None:
    assert again(rows, kind) == rows


# Where there is no question there are no earlier turns either: such a conversation has no last question to come back.
SAID = ROW.filter(lambda row: bool(row.instruction) or not (row.input or row.history))


@given(rows=st.lists(SAID, min_size=1, max_size=4).map(tuple))
@settings(max_examples=150, deadline=None, database=None)
@example(rows=(Row("", "", "answer only", "system"), Row(" ", "", ""), Row("q", "x\ny", "a")))
def test_any_conversation_comes_back_from_a_messages_export(rows: tuple[Row, ...]) -> None:
    assert again(rows, "messages") == rows


def test_two_hundred_random_tables_come_back_from_csv() -> None:
    chance = random.Random(5)
    alphabet = [*FORMULAS, ",", '"', "\n", "\r\n", ";", "\t", "你", "a", "'", " "]
    for _ in range(200):
        cells = ["".join(chance.choices(alphabet, k=chance.randrange(6))) for _ in range(12)]
        rows = tuple(Row(*cells[i : i + 4]) for i in range(0, 12, 4))
        assert again(rows, "csv") == rows


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_exported_cell_begins_like_a_formula(cell: str) -> None:
    data, _ = write(Dataset("table", (Row(cell, cell, cell, cell), Row("q", "", "a"))), "csv")
    assert data.startswith(b"\xef\xbb\xbf")
    table = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert all(len(line) == len(table[0]) for line in table)
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")) for line in table for text in line)


def test_a_plain_table_is_exported_without_the_extra_column() -> None:
    data, name = write(Dataset("table", (Row("q", "", "a"),)), "csv")
    assert data.decode("utf-8-sig") == "instruction,input,output,system,history\r\nq,,a,,\r\n" and name == "table.csv"


def test_an_apostrophe_in_a_foreign_table_stays() -> None:
    assert read(b"question,answer\n'=1,'a\n", "a.csv").rows == (Row("'=1", "", "'a"),)


def test_exports_have_the_shape_other_tools_read() -> None:
    row = Row("q", "", "a", "s", (Message("user", "1"), Message("assistant", "2")))
    table = Dataset("表", (row, Row("你", "好", "a")))
    alpaca = json.loads(write(table, "json")[0])
    assert alpaca[0] == {"instruction": "q", "input": "", "output": "a", "system": "s", "history": [["1", "2"]]}
    assert alpaca[1] == {"instruction": "你", "input": "好", "output": "a"}
    data, name = write(table, "messages")
    lines = data.decode().splitlines()
    assert name == "表.messages.jsonl" and len(lines) == 2 and "你" in lines[1]
    roles = [turn["role"] for turn in json.loads(lines[0])["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_half_a_character_does_not_stop_an_export() -> None:
    for kind in KINDS:
        data, _ = write(Dataset("table", (Row("a\ud83d", "", "b"),)), kind)
        assert "a\ufffd" in data.decode("utf-8")


def test_line_separators_never_break_a_line_of_json_lines() -> None:
    for kind in ("jsonl", "messages"):
        data, _ = write(Dataset("table", (Row("a\u2028b\u2029c\x85d", "", "e"),)), kind)
        assert len(data.decode().splitlines()) == 1

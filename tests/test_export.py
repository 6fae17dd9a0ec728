"""Every export read back gives the same rows, and no exported cell runs as a formula."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.dataset import ROLES, Dataset, Message, Provenance, Row
from core.formats import Kind, read, write

KINDS: tuple[Kind, ...] = get_args(Kind)
TEXT_KINDS = tuple(kind for kind in KINDS if kind != "llamafactory")
SHARED = Path(os.environ.get("ONECARD_SHARED_DATA", str(Path(__file__).parents[2] / "shared" / "data")))
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
PAIRS = st.lists(PAIR, max_size=2).map(lambda pairs: tuple(turn for pair in pairs for turn in pair))
TURNS = st.lists(st.builds(Message, st.sampled_from(ROLES), TEXT), max_size=4).map(tuple)
HISTORY = PAIRS | TURNS
ROW = st.builds(Row, TEXT, TEXT, TEXT, TEXT, HISTORY)


def again(rows: tuple[Row, ...], kind: Kind) -> tuple[Row, ...]:
    data, name = write(Dataset("table", rows), kind)
    return read(data, name).rows


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "swift", "llamafactory"])
@given(rows=st.lists(ROW, min_size=1, max_size=4).map(tuple))
@settings(max_examples=100, deadline=None, database=None)
@example(rows=(Row(),))
@example(rows=(Row("\ufeff", "\u2028", "\x85\x0b\x0c\x1c", "'", ()), Row("a\r\nb", "\r", "\n", '"', ())))
@example(rows=tuple(Row(cell, cell, cell, cell) for cell in FORMULAS))
def test_any_rows_come_back_from_a_table_export(kind: Kind, rows: tuple[Row, ...]) -> None:
    assert again(rows, kind) == rows


@pytest.mark.parametrize("kind", ["messages", "sharegpt"])
@given(rows=st.lists(ROW, min_size=1, max_size=4).map(tuple))
@settings(max_examples=100, deadline=None, database=None)
@example(rows=(Row("q", "", "a", "s", (Message("system", "t"), Message("user", "u"))),))
@example(rows=(Row("", "", "answer only", "system"), Row(" ", "", ""), Row("q", "x\ny", "a")))
def test_any_conversation_comes_back_from_an_export_of_turns(kind: Kind, rows: tuple[Row, ...]) -> None:
    assert again(rows, kind) == rows


UNPAIRED = Row("q", "", "a", "s", (Message("user", "1"), Message("user", "2"), Message("assistant", "3")))


@pytest.mark.parametrize("kind", KINDS)
def test_turns_that_do_not_alternate_and_provenance_come_back_from_every_export(kind: Kind) -> None:
    put_right = Row("q", "x\ny", "a", "s", (), Provenance("adapter", "said", "2026-11-22T10:00:00"))
    data, name = write(Dataset("table", (UNPAIRED, put_right)), kind)
    found = read(data, name)
    assert found.rows == (UNPAIRED, put_right) and found.rows[1].provenance == put_right.provenance
    # What no column of ours takes would be named here.
    assert not [note.en for note in found.notes if "not used" in note.en]


@pytest.mark.parametrize("kind", KINDS)
def test_the_real_sets_come_back_from_every_export(kind: Kind) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here; set ONECARD_SHARED_DATA")
    for file in (
        "identity/llamafactory_identity.json",
        "general/alpaca_en_demo_300.json",
        "ms-swift-fixtures/alpaca.jsonl",
    ):
        rows = read((SHARED / file).read_bytes(), file).rows
        assert again(rows, kind) == rows


def test_a_swift_export_has_the_columns_of_its_preprocessors() -> None:
    pairs = (Message("user", "1"), Message("assistant", "2"))
    data, name = write(Dataset("t", (Row("q", "context", "a", "s", pairs), Row("你", "", "好"))), "swift")
    first, second = (json.loads(line) for line in data.decode().splitlines())
    assert name == "t.swift.jsonl" and second == {"query": "你", "response": "好"}
    assert first == {"query": "q\ncontext", "response": "a", "input_of_query": "context", "system": "s",
                     "history": [["1", "2"]]}  # fmt: skip


def test_a_llamafactory_export_names_only_columns_that_are_there() -> None:
    def parts(rows: tuple[Row, ...]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        with zipfile.ZipFile(io.BytesIO(write(Dataset("表", rows), "llamafactory")[0])) as archive:
            assert archive.namelist() == ["表.json", "dataset_info.json"]
            return json.loads(archive.read("dataset_info.json"))["表"], json.loads(archive.read("表.json"))

    entry, rows = parts((Row("q", "i", "a"),))
    alpaca = {"prompt": "instruction", "query": "input", "response": "output"}
    assert entry == {"file_name": "表.json", "formatting": "alpaca", "columns": alpaca}
    assert rows == [{"instruction": "q", "input": "i", "output": "a"}]
    entry, _ = parts((Row("q", "", "a", "s", (Message("user", "1"), Message("assistant", "2"))),))
    assert entry["columns"] == alpaca | {"system": "system", "history": "history"}
    entry, rows = parts((UNPAIRED,))
    assert entry["formatting"] == "sharegpt" and entry["columns"] == {"messages": "conversations", "system": "system"}
    assert [turn["from"] for turn in rows[0]["conversations"]] == ["human", "human", "gpt", "human", "gpt"]


def test_the_same_table_is_the_same_zip() -> None:
    table = Dataset("t", (Row("q", "", "a"),))
    assert write(table, "llamafactory") == write(table, "llamafactory")


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
    for kind in TEXT_KINDS:
        data, _ = write(Dataset("table", (Row("a\ud83d", "", "b"),)), kind)
        assert "a\ufffd" in data.decode("utf-8")


def test_line_separators_never_break_a_line_of_json_lines() -> None:
    for kind in ("jsonl", "messages", "swift"):
        data, _ = write(Dataset("table", (Row("a\u2028b\u2029c\x85d", "", "e"),)), kind)
        assert len(data.decode().splitlines()) == 1

"""Workbooks and Parquet files: every cell is what the file holds, and what is no text is said or refused."""

from __future__ import annotations

import datetime
import io
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from pyarrow import parquet

from core import files_parquet, files_xlsx
from core.dataset import Message, Row
from core.errors import DatasetError
from core.formats import Choices, Imported, Undecided, read
from core.sources import bring

Lines = Sequence[Sequence[object]]
HEADER = ("instruction", "input", "output")
TWO = (Row("你是谁?", "", "我是小禾。"), Row("Who are you?", "", "I am Xiaohe."))


def workbook(**sheets: Lines) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, lines in sheets.items():
        page = book.create_sheet(name)
        for line in lines:
            page.append(list(line))
    held = io.BytesIO()
    book.save(held)
    return held.getvalue()


def table(rows: list[dict[str, object]]) -> bytes:
    held = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), held)
    return held.getvalue()


def notes(imported: Imported) -> str:
    return " ".join(note.en for note in imported.notes)


def lines_of(rows: Sequence[Row]) -> Lines:
    return [HEADER, *((row.instruction, row.input or None, row.output) for row in rows)]


# --- workbooks -------------------------------------------------------------------------------------------------------


def test_a_sheet_gives_its_rows_with_line_ends_and_long_cells() -> None:
    rows = (*TWO, Row("a\nb", "x", " 好\n\n" * 6000), Row("'=1", "", "an arrow => is no formula"))
    found = read(workbook(Sheet=lines_of(rows)), "a.xlsx")
    assert found.rows == rows and (found.format, found.layout, found.encoding) == ("xlsx", "alpaca", "")
    assert read(workbook(Sheet=lines_of(rows)), "a.bin").rows == rows


def test_empty_lines_and_sheets_and_columns_at_the_edge_do_not_matter() -> None:
    lines = [(None, None, None, None), (*HEADER, None), (None,) * 4, ("q", None, "a", None), (" ",)]
    found = read(workbook(Data=lines, Empty=[]), "a.xlsx")
    assert found.rows == (Row("q", "", "a"),) and found.entry == ""


def test_several_sheets_are_asked_about_and_the_choice_is_said() -> None:
    data = workbook(Train=lines_of(TWO), 备注=[("说明",), ("仅供参考",)], Test=lines_of(TWO[:1]))
    with pytest.raises(Undecided) as caught:
        read(data, "a.xlsx")
    asked = caught.value.asked
    assert asked.kind == "entry" and asked.preview[0] == ("Train", "2 × instruction, input, output")
    assert [name for name, _ in asked.preview] == ["Train", "备注", "Test"]
    found = read(data, "a.xlsx", Choices(entry="Test"))
    assert found.rows == TWO[:1] and found.entry == "Test" and "sheet “Test”; not read: Train, 备注" in notes(found)
    with pytest.raises(DatasetError, match="no sheet “No”"):
        read(data, "a.xlsx", Choices(entry="No"))


def test_numbers_and_dates_become_text_by_their_value_and_are_counted() -> None:
    day = datetime.datetime(2026, 11, 22)
    lines = [
        HEADER,
        ("2 + 2?", None, 4),
        ("pi", None, 0.1 + 0.2),
        ("when", day, True),
        ("t", None, datetime.time(8, 5)),
    ]
    found = read(workbook(S=lines), "a.xlsx")
    assert [row.output for row in found.rows] == ["4", "0.3", "TRUE", "08:05:00"] and found.rows[
        2
    ].input == "2026-11-22"
    assert "numbers or dates, written as text by their value: 5 (C2 = 4, C3 = 0.3, B4 = 2026-11-22, … (+2))" in notes(
        found
    )


def test_a_formula_is_taken_by_its_stored_result_only() -> None:
    data = workbook(S=[HEADER, ("q", None, '="a"&"b"'), ("q", None, "a")])
    with pytest.raises(Undecided, match=r"“output” is a formula whose result is not stored \(cell C2\)") as caught:
        read(data, "a.xlsx")
    assert caught.value.asked.rows == 1
    assert read(data, "a.xlsx", Choices(salvage=True)).rows == (Row("q", "", "a"),)
    # The same workbook as a spreadsheet saves it: with the result beside the formula.
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(held, "w") as new:
        for part in old.namelist():
            text = old.read(part)
            if part == "xl/worksheets/sheet1.xml":
                assert text.count(b'<c r="C2"><f>') == 1
                text = text.replace(b'<c r="C2"><f>', b'<c r="C2" t="str"><f>').replace(b"<v />", b"<v>ab</v>")
                text = text.replace(b"<v></v>", b"<v>ab</v>")
            new.writestr(part, text)
    found = read(held.getvalue(), "a.xlsx")
    assert found.rows[0].output == "ab" and "taken by the result stored in the file: 1 (C2)" in notes(found)


def test_an_error_value_stops_only_a_column_that_is_used() -> None:
    data = workbook(S=[("question", "answer", "score"), ("q", "a", "#N/A"), ("q", "#DIV/0!", 1)])
    with pytest.raises(Undecided, match=r"Row 2 \(line 3\): “answer” is the error value #DIV/0! \(cell B3\)"):
        read(data, "a.xlsx")
    assert read(data, "a.xlsx", Choices(salvage=True)).rows == (Row("q", "", "a"),)


def test_a_title_above_the_header_is_named() -> None:
    data = workbook(S=[("问答表",), ("question", "answer"), ("q", "a")])
    with pytest.raises(DatasetError, match="Cell B2 holds something"):
        read(data, "a.xlsx")


def test_control_characters_that_excel_writes_as_escapes_come_back() -> None:
    found = read(workbook(S=[HEADER, ("q", None, "one_x000D_\ntwo _x0041_")]), "a.xlsx")
    assert found.rows[0].output == "one\r\ntwo _x0041_"


def test_columns_of_a_workbook_are_asked_for() -> None:
    data = workbook(S=[("客户", "客服", "编号"), ("怎么退款", "点退款", 7)])
    with pytest.raises(Undecided) as caught:
        read(data, "a.xlsx")
    asked = caught.value.asked
    assert asked.kind == "columns" and asked.preview == (("客户", "客服", "编号"), ("怎么退款", "点退款", "7"))
    columns = {"question": "客户", "answer": "客服"}
    assert read(data, "a.xlsx", Choices(columns=columns)).rows == (Row("怎么退款", "", "点退款"),)
    data = workbook(S=[("怎么退款？", "点退款。"), ("在吗？", "在。")])
    with pytest.raises(Undecided) as caught:
        read(data, "a.xlsx")
    found = read(data, "a.xlsx", Choices(columns=caught.value.asked.guess))
    assert found.rows == (Row("怎么退款？", "", "点退款。"), Row("在吗？", "", "在。"))


def test_a_workbook_of_gigabytes_in_a_few_kilobytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_xlsx, "MAX_UNPACKED_BYTES", 10_000)
    with pytest.raises(DatasetError, match="Unpacked"):
        read(workbook(S=[HEADER, *[("q", None, "a" * 90)] * 400]), "a.xlsx")


def test_a_damaged_workbook_never_gives_a_wrong_row() -> None:
    rows = tuple(Row(f"问题 {i}", "", f"回答 {i}" * 9) for i in range(60))
    data, chance = workbook(S=lines_of(rows)), random.Random(3)
    for cut in chance.sample(range(1, len(data)), 60):
        with pytest.raises(DatasetError, match=r"damaged|its end is missing|not UTF-8|binary|empty"):
            read(data[:cut], "a.xlsx")
    for place in chance.sample(range(len(data)), 60):
        hurt = bytearray(data)
        hurt[place] ^= 0x55
        try:
            given = read(bytes(hurt), "a.xlsx").rows
        except DatasetError:
            continue
        assert given == rows


# --- parquet ---------------------------------------------------------------------------------------------------------


def test_parquet_gives_rows_turns_and_history() -> None:
    assert (
        read(table([{"instruction": r.instruction, "input": None, "output": r.output} for r in TWO]), "a").rows == TWO
    )
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    found = read(table([{"messages": turns, "id": 1}]), "train-00000-of-00001.parquet")
    assert found.rows == (Row("q", "", "a"),) and found.format == "parquet" and "not used: id" in notes(found)
    found = read(table([{"query": "3", "response": "4", "history": [["1", "2"]]}]), "a.parquet")
    assert found.rows[0].history == (Message("user", "1"), Message("assistant", "2"))


@pytest.mark.parametrize("value,said", [
    (4, "a number (4)"), (0.5, "a number (0.5)"), (None, "null"), (True, "a truth value (true)"),
    (b"x", "a value of type bytes"), (datetime.date(2026, 1, 2), "a value of type date"), (["x"], "a list"),
])  # fmt: skip
def test_a_parquet_value_that_is_no_text_is_refused(value: object, said: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read(table([{"question": "q", "answer": value}]), "a.parquet")
    assert f"Row 1 (line 1): “answer” is {said}" in caught.value.text.en


def test_a_parquet_file_of_repeats_is_refused_before_it_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_parquet, "MAX_UNPACKED_BYTES", 1_000_000)
    data = table([{"question": "q", "answer": "x" * 50_000}] * 400)
    assert len(data) < 50_000
    with pytest.raises(DatasetError, match="the limit is 1 MB"):
        read(data, "a.parquet")
    nested = [{"messages": [{"role": "user", "content": "x" * 50_000}] * 40}] * 10
    with pytest.raises(DatasetError, match="the limit is 1 MB"):
        read(table(nested), "a.parquet")
    path = tmp_path / "a.parquet"  # a set of a hub, of which the first rows are taken
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="the limit is 1 MB"):
        bring._first_rows(path, 1000)


def test_unknown_columns_of_parquet_are_asked_for() -> None:
    with pytest.raises(Undecided) as caught:
        read(table([{"src": "hello", "tgt": "Hello, how are you?"}]), "a.parquet")
    assert caught.value.asked.guess == {"question": "src", "answer": "tgt"}


def test_a_damaged_or_huge_parquet_file_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": f"问题 {i}", "answer": f"回答 {i}" * 5} for i in range(200)]
    data, chance = table(rows), random.Random(4)
    expected = read(data, "a.parquet").rows
    for cut in chance.sample(range(4, len(data)), 60):
        with pytest.raises(DatasetError, match="damaged or cut off"):
            read(data[:cut], "a.parquet")
    for place in chance.sample(range(4, len(data)), 60):
        hurt = bytearray(data)
        hurt[place] ^= 0x55
        try:
            given = read(bytes(hurt), "a.parquet").rows
        except DatasetError:
            continue
        assert len(given) == len(expected)
    monkeypatch.setattr(files_parquet, "MAX_UNPACKED_BYTES", 100)
    with pytest.raises(DatasetError, match="Unpacked it has"):
        read(data, "a.parquet")

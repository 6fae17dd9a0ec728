"""A dataset -> files other tools read, and `formats.read` reads back exactly. Knows no page."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from typing import Literal

from core.columns import QUERY_INPUT
from core.csv_records import APOSTROPHE_COLUMN
from core.dataset import PROVENANCE, Dataset, Message, Role, Row, provenance_json

Kind = Literal["json", "jsonl", "csv", "messages", "sharegpt", "swift", "llamafactory"]

_SPEAKERS: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}
_COLUMNS = ("instruction", "input", "output", "system", "history")
# What a spreadsheet may run as a formula (OWASP's list): = + - @ in both widths, tab, CR, LF.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def write(dataset: Dataset, kind: Kind) -> tuple[bytes, str]:
    """The dataset as a file's content and name. `formats.read` gives the same rows back.

    json and jsonl have alpaca keys, with `history` for earlier turns. csv has the same columns, a UTF-8 mark, and no
    cell that a spreadsheet would run. messages is OpenAI's JSON Lines, sharegpt a JSON list of conversations; where a row
    has an `input` it stays beside its question. swift is ms-swift's query, response, system and history, or its messages
    where earlier turns do not alternate. llamafactory is a zip: the rows, and the dataset_info.json that names them.
    A row that was put right in a conversation keeps its `provenance` in each of them.
    """
    name, rows = dataset.name, dataset.rows
    if kind == "csv":
        return _csv(rows), f"{name}.csv"
    if kind == "json":
        return _list(map(_alpaca, rows)), f"{name}.json"
    if kind == "sharegpt":
        return _list(map(_sharegpt, rows)), f"{name}.sharegpt.json"
    if kind == "llamafactory":
        return _llamafactory(dataset), f"{name}.llamafactory.zip"
    if kind == "swift":
        return _lines(map(_swift if _alternate(rows) else _messages, rows)), f"{name}.swift.jsonl"
    if kind == "messages":
        return _lines(map(_messages, rows)), f"{name}.messages.jsonl"
    return _lines(map(_alpaca, rows)), f"{name}.jsonl"


def _alternate(rows: Sequence[Row]) -> bool:
    """Whether every history can be told as pairs of question and answer, which is all that these layouts know."""
    return all(not row.history or _pairs(row) for row in rows)


def _pairs(row: Row) -> list[list[str]] | None:
    """The history as [[question, answer], ...], or None if its turns do not alternate so."""
    turns = row.history
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        return None
    return [[turns[i].content, turns[i + 1].content] for i in range(0, len(turns), 2)]


def _alpaca(row: Row) -> dict[str, object]:
    value: dict[str, object] = {"instruction": row.instruction, "input": row.input, "output": row.output}
    if row.system:
        value["system"] = row.system
    if row.history:
        value["history"] = _history(row)
    return value | provenance_json(row)


def _history(row: Row) -> object:
    return _pairs(row) or [{"role": turn.role, "content": turn.content} for turn in row.history]


def _swift(row: Row) -> dict[str, object]:
    value: dict[str, object] = {"query": row.question, "response": row.output}
    if row.input:  # ms-swift knows no input beside a query; this column, which it drops, says where it begins
        value[QUERY_INPUT] = row.input
    if row.system:
        value["system"] = row.system
    if row.history:
        value["history"] = _history(row)
    return value | provenance_json(row)


def _sharegpt(row: Row) -> dict[str, object]:
    turns = [*row.history, *([Message("user", row.question)] if row.question else []), Message("assistant", row.output)]
    value: dict[str, object] = {
        "conversations": [{"from": _SPEAKERS[turn.role], "value": turn.content} for turn in turns]
    }
    if row.system:
        value["system"] = row.system
    if row.input:
        value[QUERY_INPUT] = row.input
    return value | provenance_json(row)


def _llamafactory(dataset: Dataset) -> bytes:
    """The zip: rows and registry. A column that no row has is not named: LLaMA-Factory would look for it."""
    alternate = _alternate(dataset.rows)
    file = f"{dataset.name}.json" if dataset.name != "dataset_info" else "rows.json"
    columns: dict[str, object] = {"messages": "conversations"}
    if alternate:
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
    if any(row.system for row in dataset.rows):
        columns["system"] = "system"
    if alternate and any(row.history for row in dataset.rows):
        columns["history"] = "history"
    formatting = "alpaca" if alternate else "sharegpt"
    entry = {"file_name": file, "formatting": formatting, "columns": columns}
    registry = json.dumps({dataset.name: entry}, ensure_ascii=False, indent=2)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_part(file), _list(map(_alpaca if alternate else _sharegpt, dataset.rows)))
        archive.writestr(_part("dataset_info.json"), _utf8(f"{registry}\n"))
    return held.getvalue()


def _part(name: str) -> zipfile.ZipInfo:
    """A part of a zip dated at the format's beginning, so that the same rows are the same bytes."""
    part = zipfile.ZipInfo(name)
    part.compress_type = zipfile.ZIP_DEFLATED
    return part


def _messages(row: Row) -> dict[str, object]:
    turns = [("system", row.system)] if row.system else []
    turns += [(turn.role, turn.content) for turn in row.history]
    if row.question:  # not stripped, unlike Row.messages: a cell of blanks comes back as it was
        turns.append(("user", row.question))
    turns.append(("assistant", row.output))
    value: dict[str, object] = {"messages": [{"role": role, "content": content} for role, content in turns]}
    return value | ({"input": row.input} if row.input else {}) | provenance_json(row)


def _list(values: Iterable[dict[str, object]]) -> bytes:
    items = ",\n".join(map(_line, values))
    return _utf8(f"[\n{items}\n]\n")


def _lines(values: Iterable[dict[str, object]]) -> bytes:
    return _utf8("".join(f"{_line(value)}\n" for value in values))


def _line(value: dict[str, object]) -> str:
    """One JSON line. U+2028, U+2029 and U+0085 are escaped: some readers take them for line ends."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")


def _csv(rows: tuple[Row, ...]) -> bytes:
    """UTF-8 with mark, so that Excel reads it right. A cell that begins like a formula gets one apostrophe in front.

    The column `apostrophe_added`, there only when needed, names those cells; `read` takes away just these. The column
    `provenance` is there when a row has one.
    """
    columns = (*_COLUMNS, PROVENANCE) if any(row.provenance for row in rows) else _COLUMNS
    cells = [_csv_cells(row)[: len(columns)] for row in rows]
    marks = [[name for name, cell in zip(columns, line, strict=True) if _FORMULA.match(cell)] for line in cells]
    marked = any(marks)
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow([*columns, APOSTROPHE_COLUMN] if marked else columns)
    for line, names in zip(cells, marks, strict=True):
        safe = [f"'{cell}" if name in names else cell for name, cell in zip(columns, line, strict=True)]
        writer.writerow([*safe, " ".join(names)] if marked else safe)
    return b"\xef\xbb\xbf" + _utf8(file.getvalue())


def _csv_cells(row: Row) -> tuple[str, ...]:
    history = json.dumps(_history(row), ensure_ascii=False) if row.history else ""
    whence = json.dumps(provenance_json(row)[PROVENANCE], ensure_ascii=False) if row.provenance else ""
    return (row.instruction, row.input, row.output, row.system, history, whence)


def _utf8(text: str) -> bytes:
    """UTF-8 bytes; half a character (from a broken paste) becomes U+FFFD."""
    return _SURROGATE.sub("�", text).encode("utf-8")

"""Files people bring -> rows, and a dataset -> files other tools read. Knows no model and no page.

`decoding` makes bytes text, `json_records` and `csv_records` make text records, `records` makes records rows.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from core.csv_records import APOSTROPHE_COLUMN, read_csv
from core.dataset import PROVENANCE, Dataset, Row, provenance_json
from core.decoding import decode
from core.errors import DatasetError
from core.json_records import Listing, read_json
from core.records import to_rows
from core.text import Text

Kind = Literal["json", "jsonl", "csv", "messages"]
MAX_BYTES = 100_000_000

_JSON_NAMES = (".json", ".jsonl", ".ndjson")
_TABLE_NAMES = (".csv", ".tsv", ".tab")
_COLUMNS = ("instruction", "input", "output", "system", "history")
# What a spreadsheet may run as a formula (OWASP's list): = + - @ in both widths, tab, CR, LF.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Imported:
    """What a file gave: its rows, everything that was interpreted, its format and encoding."""

    rows: tuple[Row, ...]
    notes: tuple[Text, ...]
    format: str
    encoding: str


def read(data: bytes, filename: str) -> Imported:
    """The rows of a JSON, JSON Lines, CSV or TSV file.

    Raises DatasetError: file, row or line, what is wrong and what to do. Nothing is guessed, cut or left out unsaid.
    """
    name = _shown(filename)
    try:
        if len(data) > MAX_BYTES:
            size, most = len(data) // 1_000_000, MAX_BYTES // 1_000_000
            raise DatasetError(
                Text(
                    f"文件有 {size} MB,上限是 {most} MB。请拆开或抽取一部分。",
                    f"The file has {size} MB; the limit is {most} MB. Split it or draw a part.",
                )
            )
        decoded = decode(data)
        listing = _listing(decoded.text, PurePath(filename).suffix.lower())
        rows, notes = to_rows(listing)
    except DatasetError as error:
        raise DatasetError(Text(f"{name}:{error.text.zh}", f"{name}: {error.text.en}"), error.row) from None
    return Imported(rows, (*decoded.notes, *listing.notes, *notes), listing.form, decoded.encoding)


def write(dataset: Dataset, kind: Kind) -> tuple[bytes, str]:
    """The dataset as a file's content and name. `read` gives the same rows back.

    json and jsonl have alpaca keys, with `history` for earlier turns. csv has the same columns, a UTF-8 mark, and no
    cell that a spreadsheet would run. messages is OpenAI's JSON Lines; `input` stays beside it where a row has one.
    A row that was put right in a conversation keeps its `provenance` in each of them.
    """
    if kind == "csv":
        return _csv(dataset.rows), f"{dataset.name}.csv"
    if kind == "json":
        items = ",\n".join(_line(_alpaca(row)) for row in dataset.rows)
        return _utf8(f"[\n{items}\n]\n"), f"{dataset.name}.json"
    make, ending = (_alpaca, "jsonl") if kind == "jsonl" else (_messages, "messages.jsonl")
    return _utf8("".join(f"{_line(make(row))}\n" for row in dataset.rows)), f"{dataset.name}.{ending}"


def _listing(text: str, suffix: str) -> Listing:
    """The records of a text: what it begins with decides, then the file's ending."""
    if suffix in _JSON_NAMES or re.match(r"\s*(\{|\[\s*[{\]])", text):
        return read_json(text)
    if suffix in _TABLE_NAMES:
        return read_csv(text, "\t" if suffix != ".csv" else None)
    shown = suffix or "?"
    raise DatasetError(
        Text(
            f"不认识的文件类型({shown})。只能导入 .json、.jsonl、.csv、.tsv。",
            f"Unknown kind of file ({shown}). Only .json, .jsonl, .csv and .tsv can be imported.",
        )
    )


def _shown(filename: str) -> str:
    """The file's own name for a sentence: no folders, no control characters, at most 80 characters."""
    name = PurePath(filename.replace("\\", "/")).name or "?"
    return "".join(c if c.isprintable() else "�" for c in name)[:80]


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


def _messages(row: Row) -> dict[str, object]:
    turns = [("system", row.system)] if row.system else []
    turns += [(turn.role, turn.content) for turn in row.history]
    if row.question:  # not stripped, unlike Row.messages: a cell of blanks comes back as it was
        turns.append(("user", row.question))
    turns.append(("assistant", row.output))
    value: dict[str, object] = {"messages": [{"role": role, "content": content} for role, content in turns]}
    return value | ({"input": row.input} if row.input else {}) | provenance_json(row)


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

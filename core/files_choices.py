"""What a file gave, what had to be decided about it, and who asks: `read` raises Undecided, a person answers with Choices.

Knows no bytes and no format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core.dataset import Row
from core.errors import DatasetError
from core.text import Text

Part = Literal["question", "input", "answer", "system", "history", "messages"]
PARTS: tuple[Part, ...] = ("question", "input", "answer", "system", "history", "messages")


@dataclass(frozen=True)
class Choices:
    """What a person decided about a file; the default decides nothing.

    encoding: a codec's name, "gb18030" once it was confirmed. columns: part -> key of the file, the parts being PARTS;
    "(1)", "(2)", ... name the columns of a table without a header. salvage: take the complete rows of a broken file.
    entry: which set of a dataset_info folder or zip, or which sheet of a workbook.
    """

    encoding: str = ""
    columns: Mapping[str, str] | None = None
    salvage: bool = False
    entry: str = ""


@dataclass(frozen=True)
class Asked:
    """One decision that is needed before a file can be read.

    text: what, where and what to decide. preview: for encoding the decoded first lines, each a tuple of one; for columns
    the header, then up to 5 records; for entry (name, description) pairs. guess: for columns part -> key, for encoding
    {"encoding": codec}, else empty; never applied by itself. rows: for broken, how many complete rows can be taken.
    """

    kind: Literal["encoding", "columns", "broken", "entry"]
    text: Text
    preview: tuple[tuple[str, ...], ...] = ()
    guess: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0


class Undecided(DatasetError):
    """A file can be read once a person has answered `asked`."""

    def __init__(self, asked: Asked, row: int | None = None, text: Text | None = None) -> None:
        """`text`: the question where it is shown as an error, with the file's name in front."""
        super().__init__(text or asked.text, row)
        self.asked = asked


@dataclass(frozen=True)
class Note(Text):
    """Something that was interpreted, with the rows it is about, from 0; none where it is about the whole file."""

    rows: tuple[int, ...] = ()


def note_of(zh: str, en: str, rows: Sequence[int]) -> Note:
    """`zh` and `en` followed by the first row numbers, which a person counts from 1."""
    numbers = ", ".join(str(row + 1) for row in rows[:6]) + (", …" if len(rows) > 6 else "")
    return Note(f"{zh}（第 {numbers.replace(', ', '、')} 行）。", f"{en} (row {numbers}).", tuple(rows))


@dataclass(frozen=True)
class Imported:
    """What a file gave: its rows, everything that was interpreted, its format and encoding ("" where bytes are no text).

    format: json, jsonl, csv, tsv, xlsx or parquet. layout: what the world calls its records: alpaca, messages, sharegpt,
    query/response, or columns for any other keys. left_out: broken places that were passed over, each said in a note.
    entry: the sheet or set that was read, "" where there is but one.
    """

    rows: tuple[Row, ...]
    notes: tuple[Text, ...]
    format: str
    encoding: str
    layout: str = "columns"
    left_out: int = 0
    entry: str = ""

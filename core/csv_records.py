"""CSV or TSV text -> one dict of cells a row, text exactly as it stands. Knows no meaning of a column."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Literal

from core.errors import DatasetError
from core.json_records import Listing, Record, check_count, shorten
from core.text import Text

# Column that our own CSV carries when a cell was given an apostrophe against formulas: it names those cells.
APOSTROPHE_COLUMN = "apostrophe_added"
_DELIMITERS = {",": Text("逗号", "commas"), ";": Text("分号", "semicolons"), "\t": Text("制表符", "tabs")}


def read_csv(text: str, delimiter: str | None) -> Listing:
    """The rows under the header line. `delimiter` None: comma, semicolon or tab, whichever cuts the header most.

    Raises DatasetError with the line and what to do.
    """
    # The csv module's own limit of 131,072 characters a cell; the file's size is bounded by our caller.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    notes: list[Text] = []
    if delimiter is None:
        header = next((line for line in io.StringIO(text) if line.strip()), "")
        delimiter = max(_DELIMITERS, key=header.count)
        if delimiter != ",":
            name = _DELIMITERS[delimiter]
            notes.append(Text(f"按{name.zh}分列。", f"Columns are separated by {name.en}."))
    form: Literal["csv", "tsv"] = "tsv" if delimiter == "\t" else "csv"
    try:
        lines = list(_lines(text, delimiter, csv.QUOTE_MINIMAL))
    except DatasetError:
        if delimiter != "\t":
            raise
        lines = list(_lines(text, delimiter, csv.QUOTE_NONE))
        notes.append(Text("引号当作普通文字。", "Quotation marks were taken as text."))
    records, restored = _records(lines)
    blank = sum(not cells for _, cells in lines)
    if blank:
        notes.append(Text(f"跳过了 {blank} 个空行。", f"Skipped {blank} blank line{'s' * (blank > 1)}."))
    if restored:
        notes.append(
            Text(
                f"去掉了导出时为防公式加上的 {restored} 个撇号。",
                f"Removed {restored} apostrophe(s) that the export had put before formulas.",
            )
        )
    return Listing(tuple(records), form, tuple(notes))


def _lines(text: str, delimiter: str, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every record; no cells for a blank line."""
    # newline="" keeps a CR LF inside quotation marks as it is. strict: an open quote would swallow the rest in silence.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    line = 1
    try:
        for count, cells in enumerate(reader):
            check_count(count)
            yield line, ([] if len(cells) == 1 and not cells[0].strip() else cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(
            Text(
                f"从第 {line} 行开始的一行引号不成对(或文件在这里断了)。单元格里有逗号、换行或引号时,"
                "整格用引号括起,里面的引号写两个。",
                f"The row that starts on line {line} has a quotation mark that is not closed, or text after it, or the "
                f"file is cut off ({error}). Put quotation marks around the whole cell and double those inside.",
            )
        ) from None


def _records(lines: list[tuple[int, list[str]]]) -> tuple[list[Record], int]:
    """The records under the header and how many apostrophes were taken away."""
    filled = iter([(line, cells) for line, cells in lines if cells])
    header_line, header = next(filled, (1, []))
    names = [name.strip() for name in header]
    if not names:
        raise DatasetError(Text("表格是空的。", "The table is empty."))
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DatasetError(
            Text(
                f"第 {header_line} 行:列名“{twice}”出现了两次,请改掉一个。",
                f"Line {header_line}: two columns are named “{twice}”. Rename one.",
            )
        )
    names = [name or f"({number + 1})" for number, name in enumerate(names)]
    records, restored = [], 0
    for row, (line, cells) in enumerate(filled):
        if len(cells) != len(names):
            raise _ragged(row, line, cells, names)
        value = dict(zip(names, cells, strict=True))
        for name in value.pop(APOSTROPHE_COLUMN, "").split():
            if value.get(name, "").startswith("'"):
                value[name] = value[name][1:]
                restored += 1
        records.append(Record(value, line))
    return records, restored


def _ragged(row: int, line: int, cells: list[str], names: list[str]) -> DatasetError:
    few = len(cells) < len(names)
    zh = "可能少了分隔符,或文件在这里断了" if few else "单元格里的分隔符要用引号括起来"
    en = "a separator is missing or the file is cut off" if few else "put quotation marks around cells with separators"
    shown = shorten(names)
    return DatasetError(
        Text(
            f"第 {row + 1} 行(文件第 {line} 行)有 {len(cells)} 格,表头有 {len(names)} 列({shown}):{zh}。",
            f"Row {row + 1} (line {line}) has {len(cells)} cells, the header has {len(names)} ({shown}): {en}.",
        ),
        row,
    )

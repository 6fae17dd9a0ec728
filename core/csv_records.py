"""CSV or TSV text -> one dict of cells a row, text exactly as it stands. Knows no meaning of a column."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

from core.errors import DatasetError
from core.json_records import Broken, Listing, Record, check_count, shorten
from core.text import Text

# Column that our own CSV carries when a cell was given an apostrophe against formulas: it names those cells.
APOSTROPHE_COLUMN = "apostrophe_added"
_SEPARATOR = re.compile(r'\A"?sep=([,;\t])"?(?:\r\n|\n|\r)', re.IGNORECASE)
# Number of a line, from 1, and its cells; none for a blank line.
Line = tuple[int, list[str]]
_DELIMITERS = {",": Text("逗号", "commas"), ";": Text("分号", "semicolons"), "\t": Text("制表符", "tabs")}


class _QuoteError(DatasetError):
    """A quotation mark that is not closed, in the row that starts on `line`."""

    def __init__(self, text: Text, line: int) -> None:
        super().__init__(text)
        self.line = line


def read_csv(text: str, delimiter: str | None, header: bool = True, salvage: bool = False) -> Listing:
    """The rows under the header line; without `header` the columns are named (1), (2), ...

    `delimiter` None: comma, semicolon or tab, whichever cuts the first line most. With `salvage` rows of another width
    are passed over, and all from an open quotation mark on. Raises DatasetError with the line and what to do.
    """
    # The csv module's own limit of 131,072 characters a cell; the file's size is bounded by our caller.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    notes: list[Text] = []
    named = _SEPARATOR.match(text)
    if named:  # Excel's own first line, which is no row
        delimiter, text = named[1], "\n" + text[named.end() :]
    if delimiter is None:
        first = next((line for line in io.StringIO(text) if line.strip()), "")
        delimiter = max(_DELIMITERS, key=first.count)
        if delimiter != ",":
            name = _DELIMITERS[delimiter]
            notes.append(Text(f"按{name.zh}分列。", f"Columns are separated by {name.en}."))
    lines, broken, bare = _all_lines(text, delimiter, salvage)
    if bare:
        notes.append(Text("引号当作普通文字。", "Quotation marks were taken as text."))
    records, restored, ragged = table(lines, header, salvage)
    blank = sum(not cells for _, cells in lines) - bool(named)
    if blank:
        notes.append(Text(f"跳过了 {blank} 个空行。", f"Skipped {blank} blank line{'s' * (blank > 1)}."))
    if restored:
        notes.append(
            Text(
                f"去掉了导出时为防公式加上的 {restored} 个撇号。",
                f"Removed {restored} apostrophe(s) that the export had put before formulas.",
            )
        )
    return Listing(tuple(records), "tsv" if delimiter == "\t" else "csv", tuple(notes), (*ragged, *broken))


def _all_lines(text: str, delimiter: str, salvage: bool) -> tuple[list[Line], list[Broken], bool]:
    """Every line; what is wrong at their end; and whether quotation marks were taken as text."""
    lines: list[Line] = []
    try:
        lines.extend(_lines(text, delimiter, csv.QUOTE_MINIMAL))
        return lines, [], False
    except _QuoteError as error:
        if delimiter == "\t" and (bare := _unquoted(text, delimiter, error.line)):
            return bare, [], True
        if not salvage:
            raise
        return lines, [Broken(error.text)], False


def _unquoted(text: str, delimiter: str, line: int) -> list[Line] | None:
    """Every line with quotation marks as text, as many tab-separated files have them; None where that is no table.

    A file cut off inside the quoted cell that begins on `line` is none: nothing as wide as the header follows.
    """
    lines = list(_lines(text, delimiter, csv.QUOTE_NONE))
    widths = {len(cells) for _, cells in lines if cells}
    # On the last line a lone mark may have opened a cell whose rest is missing.
    lone = text.count('"', text.rstrip("\r\n").rfind("\n") + 1) == 1
    whole = text.endswith(("\n", "\r")) and (lines[-1][0] > line or not lone)
    return lines if len(widths) == 1 and whole else None


def _lines(text: str, delimiter: str, quoting: Literal[0, 3]) -> Iterator[Line]:
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
        raise _QuoteError(
            Text(
                f"从第 {line} 行开始的一行引号不成对（或文件在这里断了）。单元格里有逗号、换行或引号时，"
                "整格用引号括起，里面的引号写两个。",
                f"The row that starts on line {line} has a quotation mark that is not closed, or text after it, or the "
                f"file is cut off ({error}). Put quotation marks around the whole cell and double those inside.",
            ),
            line,
        ) from None


def table(lines: Sequence[Line], header: bool = True, salvage: bool = False) -> tuple[list[Record], int, list[Broken]]:
    """The records under the header, how many apostrophes of our own export were taken away, the rows passed over.

    Raises DatasetError for an empty table, a column name that stands twice, or (without `salvage`) a row of another
    width than the header.
    """
    filled = iter([(line, cells) for line, cells in lines if cells])
    header_line, first = next(filled, (1, []))
    if not first:
        raise DatasetError(Text("表格是空的。", "The table is empty."))
    names = [name.strip() for name in first] if header else [""] * len(first)
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DatasetError(
            Text(
                f"第 {header_line} 行：列名“{twice}”出现了两次，请改掉一个。",
                f"Line {header_line}: two columns are named “{twice}”. Rename one.",
            )
        )
    names = [name or f"({number + 1})" for number, name in enumerate(names)]
    records: list[Record] = []
    broken: list[Broken] = []
    restored = 0
    for row, (line, cells) in enumerate(filled if header else chain([(header_line, first)], filled)):
        if len(cells) != len(names):
            what = _ragged(cells, names)
            where = Text(f"第 {row + 1} 行（文件第 {line} 行）{what.zh}", f"Row {row + 1} (line {line}) {what.en}")
            if not salvage:
                raise DatasetError(where, row)
            broken.append(Broken(where, what, line))
            continue
        value: dict[str, object] = dict(zip(names, cells, strict=True))
        restored += _restore(value)
        records.append(Record(value, line))
    return records, restored, broken


def _restore(value: dict[str, object]) -> int:
    """Take away the apostrophes that our own export put before formulas; how many."""
    marked = str(value.pop(APOSTROPHE_COLUMN, "")).split()
    for name in list(marked):
        cell = value.get(name)
        if isinstance(cell, str) and cell.startswith("'"):
            value[name] = cell[1:]
        else:
            marked.remove(name)
    return len(marked)


def _ragged(cells: list[str], names: list[str]) -> Text:
    few = len(cells) < len(names)
    zh = "可能少了分隔符，或文件在这里断了" if few else "单元格里的分隔符要用引号括起来"
    en = "a separator is missing or the file is cut off" if few else "put quotation marks around cells with separators"
    shown = shorten(names)
    return Text(
        f"有 {len(cells)} 格，表头有 {len(names)} 列（{shown.zh}）：{zh}。",
        f"has {len(cells)} cells, the header has {len(names)} ({shown.en}): {en}.",
    )

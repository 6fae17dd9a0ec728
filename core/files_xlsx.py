"""Workbook bytes -> records of one sheet, through openpyxl. Knows no meaning of a column.

A cell is what the file holds: a number as Excel's General format writes it, a date in ISO, a formula by the value that
the spreadsheet stored with it.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, cast

from core.csv_records import Line, table
from core.errors import DatasetError
from core.files_choices import Asked, Undecided
from core.files_set import DAMAGE
from core.json_records import Listing, Record, Unreadable, check_count, shorten
from core.text import Text

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook

# What the parts of a workbook may take unpacked; a zip of a few kilobytes can hold gigabytes.
MAX_UNPACKED_BYTES = 500_000_000
# Excel writes a control character of a cell so: _x000D_ is the CR of a CR LF.
_ESCAPED = re.compile(r"_x00([01][0-9A-Fa-f])_")
_SHOWN = 3


def is_workbook(data: bytes) -> bool:
    """Whether the zip archive `data` is an Excel workbook."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except DAMAGE:
        return False


@dataclass(frozen=True)
class Sheet:
    """One sheet: line numbers and cells. siblings: the names of the others. unreadable: (line, column from 0) -> what."""

    name: str
    lines: tuple[Line, ...]
    notes: tuple[Text, ...] = ()
    siblings: tuple[str, ...] = ()
    unreadable: Mapping[tuple[int, int], Text] = field(default_factory=dict)

    def listing(self, header: bool, salvage: bool) -> Listing:
        """The records under the header, or with positions for names."""
        self._check_width()
        records, restored, broken = table(self.lines, header, salvage)
        self._mark(records)
        notes = list(self.notes)
        if self.siblings:
            others = shorten(list(self.siblings))
            notes.insert(
                0,
                Text(
                    f"读的是工作表“{self.name}”，没有读：{others.zh}。",
                    f"Read from sheet “{self.name}”; not read: {others.en}.",
                ),
            )
        if restored:
            notes.append(
                Text(
                    f"去掉了导出时为防公式加上的 {restored} 个撇号。",
                    f"Removed {restored} apostrophe(s) that the export had put before formulas.",
                )
            )
        return Listing(tuple(records), "xlsx", tuple(notes), tuple(broken))

    def _check_width(self) -> None:
        """Raise DatasetError for a cell with something in it outside the columns of the first line."""
        width = len(next((cells for _, cells in self.lines if cells), []))
        for number, cells in self.lines:
            if len(cells) > width:
                place = f"{_letters(len(cells) - 1)}{number}"
                raise DatasetError(
                    Text(
                        f"单元格 {place} 有内容，但表格第一行在那一列没有列名。请让表头成为第一行（上面不要有标题），"
                        "并给每一列起名。",
                        f"Cell {place} holds something, yet the first line names no column there. Make the header the "
                        "first line (no title above it) and name every column.",
                    )
                )

    def _mark(self, records: list[Record]) -> None:
        """Put what cannot be read into the records: only a column that is used has to be mended."""
        lines = {record.line: cast(dict[str, object], record.value) for record in records} if self.unreadable else {}
        for (line, column), kind in self.unreadable.items():
            value = lines.get(line, {})
            for name in list(value)[column : column + 1]:
                value[name] = Unreadable(kind)


def sheet(data: bytes, entry: str) -> Sheet:
    """The sheet named `entry`, or the one that has something in it.

    Raises Undecided where several have; DatasetError for a damaged workbook or an unknown sheet.
    """
    book, formulas = _open(data, values=True), _Formulas(data)
    names = [sheet.title for sheet in book.worksheets]
    if entry and entry not in names:
        shown = shorten(names)
        raise DatasetError(
            Text(f"没有工作表“{entry}”，有的是：{shown.zh}。", f"There is no sheet “{entry}”. There are: {shown.en}.")
        )
    if entry:
        return _read(book, entry, formulas, tuple(name for name in names if name != entry))
    found = [read for name in names if (read := _read(book, name, formulas, ())).lines]
    if not found:
        raise DatasetError(Text("工作簿里一行数据也没有。", "The workbook holds no rows."))
    if len(found) > 1:
        raise Undecided(
            Asked(
                "entry",
                Text(f"有 {len(found)} 张工作表，请选一张。", f"There are {len(found)} sheets. Choose one."),
                tuple((one.name, _described(one)) for one in found),
            )
        )
    return found[0]


def _described(found: Sheet) -> str:
    return f"{len(found.lines) - 1} × {shorten([cell for cell in found.lines[0][1] if cell], 6).en}"


def _open(data: bytes, values: bool) -> Workbook:
    # Imported here: it takes a tenth of a second, and few files need it.
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(part.file_size for part in archive.infolist()) > MAX_UNPACKED_BYTES:
                most = MAX_UNPACKED_BYTES // 1_000_000
                raise DatasetError(
                    Text(
                        f"工作簿解开后超过 {most} MB。请拆开。", f"Unpacked, the workbook has over {most} MB. Split it."
                    )
                )
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"Bad CRC-32 for file {broken!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and validations it does not keep; only cells are read
            return openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=values, keep_links=False)
    except (InvalidFileException, *DAMAGE) as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> DatasetError:
    said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return DatasetError(
        Text(
            f"这个 Excel 文件损坏了（{said}）。请用 Excel 打开再另存，或另存为“CSV UTF-8”。",
            f"This Excel file is damaged ({said}). Open it in Excel and save it again, or save it as “CSV UTF-8”.",
        )
    )


def _read(book: Workbook, name: str, formulas: _Formulas, siblings: tuple[str, ...]) -> Sheet:
    """The cells of a sheet as text; empty lines and columns at its edges left away."""
    cells = _Cells(name, formulas)
    lines: list[Line] = []
    page = book[name]
    page.reset_dimensions()  # some programs write a wrong size, and rows beyond it would not be read
    try:
        for number, row in enumerate(page.iter_rows(), 1):
            texts = [cells.text(cell.value, getattr(cell, "data_type", ""), number, i) for i, cell in enumerate(row)]
            while texts and not texts[-1]:
                texts.pop()
            lines.append((number, texts if any(text.strip() for text in texts) else []))
            check_count(len(lines) - 1)
    except DAMAGE as error:
        raise _damaged(error) from None
    while lines and not lines[-1][1]:
        lines.pop()
    width = len(next((texts for _, texts in lines if texts), []))
    padded = tuple((number, texts + [""] * (width - len(texts)) if texts else []) for number, texts in lines)
    return Sheet(name, padded, tuple(cells.notes()), siblings, cells.unreadable)


class _Cells:
    """Values of cells as text, and what was made of those that were none."""

    def __init__(self, sheet: str, formulas: _Formulas) -> None:
        self._sheet, self._formulas = sheet, formulas
        self._numbers: list[str] = []
        self._computed: list[str] = []
        self.unreadable: dict[tuple[int, int], Text] = {}

    def text(self, value: object, kind: str, row: int, column: int) -> str:
        """The text of the cell, row from 1, column from 0; a place holder for one that cannot be read."""
        place = f"{_letters(column)}{row}"
        if self._formulas.any and self._formulas.holds(self._sheet, row, column):
            if value is None:
                zh, en = (
                    f"公式，文件里没有存它的结果（单元格 {place}）",
                    f"a formula whose result is not stored (cell {place})",
                )
                self.unreadable[row, column] = Text(zh, en)
                return "="
            self._computed.append(place)
        if kind == "e":
            self.unreadable[row, column] = Text(
                f"错误值 {value}（单元格 {place}）", f"the error value {value} (cell {place})"
            )
            return str(value)
        if value is None:
            return ""
        if isinstance(value, str):
            return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)
        text = _written(value)
        self._numbers.append(f"{place} = {text}")
        return text

    def notes(self) -> Iterator[Text]:
        """What was taken as text, with the first cells of each."""
        if self._numbers:
            count, shown = len(self._numbers), shorten(self._numbers, _SHOWN)
            yield Text(
                f"{count} 个单元格是数字或日期，按值写成了文字：{shown.zh}。",
                f"Cells with numbers or dates, written as text by their value: {count} ({shown.en}).",
            )
        if self._computed:
            count, shown = len(self._computed), shorten(self._computed, _SHOWN)
            yield Text(
                f"{count} 个单元格是公式，用的是文件里存的结果：{shown.zh}。",
                f"Cells with formulas, taken by the result stored in the file: {count} ({shown.en}).",
            )


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return format(value, ".15g")  # as many digits as Excel keeps
    if isinstance(value, datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(cast(int | timedelta, value))


class _Formulas:
    """Which cells of a workbook are formulas; the workbook is read a second time only if one is."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._cells: dict[str, set[tuple[int, int]]] = {}
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                pages = [name for name in archive.namelist() if name.startswith("xl/worksheets/sheet")]
                self.any = any(re.search(rb"<(\w+:)?f[ />]", archive.read(name)) for name in pages)
        except DAMAGE as error:
            raise _damaged(error) from None

    def holds(self, sheet: str, row: int, column: int) -> bool:
        """Whether the cell is a formula; row from 1, column from 0."""
        if sheet not in self._cells:
            page = _open(self._data, values=False)[sheet]
            page.reset_dimensions()
            self._cells[sheet] = {
                (number, i)
                for number, cells in enumerate(page.iter_rows(), 1)
                for i, cell in enumerate(cells)
                if getattr(cell, "data_type", "") == "f"
            }
        return (row, column) in self._cells[sheet]


def _letters(column: int) -> str:
    """A, B, ..., Z, AA, ... for a column counted from 0."""
    text, column = "", column + 1
    while column:
        column, rest = divmod(column - 1, 26)
        text = chr(65 + rest) + text
    return text

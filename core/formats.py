"""Files people bring -> rows. Knows no model and no page.

`decoding` makes bytes text, `json_records`, `csv_records`, `files_xlsx` and `files_parquet` make records, `records` makes
records rows, `files_set` finds the data among several files. What a person has to decide is raised as Undecided.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import cast

from core import files_parquet, files_set, files_xlsx
from core.columns import recognise
from core.csv_records import read_csv
from core.decoding import Decoded, decode
from core.errors import DatasetError
from core.files_ask import positions
from core.files_choices import Asked, Choices, Imported, Note, Undecided
from core.files_set import Plan
from core.files_write import Kind, write
from core.json_records import Broken, Listing, Record, read_json, shorten
from core.json_salvage import salvage_json
from core.records import to_rows
from core.text import Text

__all__ = [
    "MAX_BYTES",
    "Asked",
    "Choices",
    "Imported",
    "Kind",
    "Note",
    "Undecided",
    "read",
    "read_files",
    "read_path",
    "read_text",
    "write",
]

MAX_BYTES = 100_000_000

_DEFAULT = Choices()
_JSON_NAMES = (".json", ".jsonl", ".ndjson")
_TABLE_NAMES = (".csv", ".tsv", ".tab")
_JSON = re.compile(r"\s*(\{|\[\s*[{\]])")
_BINARY = Decoded("", "", ())
# A table that was cut off inside its last cell looks like any other table without a last line end.
_NO_LINE_END = Text(
    "文件末尾没有换行。如果它可能没有下载完，请看看最后一行是否完整。",
    "The file does not end with a line end. If it may have been cut off, look whether its last row is whole.",
)
_CUT = Broken(
    Text("文件在一个字的中间结束，最后一行不完整。", "The file ends in the middle of a character, in its last row.")
)
_ZIP_IN_ZIP = Text(
    "这是压缩包里的压缩包，不会再往里读。请先解压，再导入里面的文件。",
    "This is a zip archive inside a zip archive, which is not opened. Unpack it and import the file in it.",
)
_NAMES_ITSELF = Text(
    "它把自己写成了数据文件，里面没有行。请把 file_name 改成放着行的文件。",
    "It names itself as the file with the rows and holds none. Set file_name to the file that holds them.",
)
_PASTED = Text("粘贴的内容", "Pasted text")
_SHOWN_BROKEN, _SHOWN_LINES = 20, 12


def read(data: bytes, filename: str, choices: Choices = _DEFAULT) -> Imported:
    """The rows of a JSON, JSON Lines, CSV, TSV, XLSX or Parquet file, or of a zip with one of these or dataset_info.json.

    Raises Undecided where a person has to decide, DatasetError where nothing can be made of it: file, row or line, what
    is wrong and what to do. Nothing is guessed, cut or left out unsaid.
    """
    shown = _shown(filename)
    with _naming(Text(shown, shown)):
        return _read(data, filename, choices)


def read_text(text: str, choices: Choices = _DEFAULT) -> Imported:
    """The rows of pasted text: JSON, JSON Lines, a table with a header, or `question<tab>answer` lines.

    Raises Undecided and DatasetError as `read` does.
    """

    def listing(salvage: bool) -> tuple[Decoded, Listing]:
        decoded = Decoded(text.lstrip("\ufeff"), "", ())
        return decoded, _pasted(decoded.text, choices, salvage)

    with _naming(_PASTED):
        return _rows(listing, choices)


def read_path(path: Path, choices: Choices = _DEFAULT) -> Imported:
    """The rows of a file, or of a folder with data files or a dataset_info.json. Raises as `read` does."""
    shown = _shown(path.name or str(path))
    with _naming(Text(shown, shown)):
        try:
            if path.is_dir():
                return _read_set(files_set.folder(path), choices)
            if path.name == files_set.INFO:
                return _read_set(files_set.folder(path.parent), choices)
            files_set.check_size(path.stat().st_size, MAX_BYTES)
            data = path.read_bytes()
        except OSError as error:
            raise DatasetError(
                Text(
                    f"文件读不出来（{error.strerror}）。请检查路径和权限。",
                    f"It cannot be read ({error.strerror}). Check the path and its permissions.",
                )
            ) from None
        return _read(data, path.name, choices)


def read_files(files: Mapping[str, bytes], choices: Choices = _DEFAULT) -> Imported:
    """The rows of one of several files brought together, such as dataset_info.json with its data. Raises as `read` does."""
    if len(files) == 1:
        return read(next(iter(files.values())), next(iter(files)), choices)
    return _read_set({name: files_set.Opener.of(data) for name, data in files.items()}, choices)


@contextmanager
def _naming(name: Text) -> Iterator[None]:
    """Errors within name what they are about."""
    try:
        yield
    except DatasetError as error:
        text = Text(f"{name.zh}：{error.text.zh}", f"{name.en}: {error.text.en}")
        if isinstance(error, Undecided):
            raise Undecided(error.asked, error.row, text) from None
        raise DatasetError(text, error.row) from None


def _read(
    data: bytes, filename: str, choices: Choices, plan: Plan | None = None, of_set: bool = False, packed: bool = False
) -> Imported:
    """`of_set`: whether it is one of several files; `packed`: whether it came out of a zip archive."""
    files_set.check_size(len(data), MAX_BYTES)
    suffix = PurePath(filename).suffix.lower()
    if data.startswith(b"PAR1"):
        return _rows(lambda _: (_BINARY, files_parquet.read_parquet(data)), choices, plan)
    if data.startswith(b"PK\x03\x04"):
        if files_xlsx.is_workbook(data):
            header = not positions(choices.columns)
            sheet = files_xlsx.sheet(data, choices.entry)
            found = _rows(lambda salvage: (_BINARY, sheet.listing(header, salvage)), choices, plan)
            return replace(found, entry=sheet.name if sheet.siblings else "")
        if packed:
            raise DatasetError(_ZIP_IN_ZIP)
        return _read_set(files_set.archive(data), choices, packed=True)
    if suffix == ".json" and files_set.is_info(data):
        if of_set and PurePath(filename).name == files_set.INFO:
            raise DatasetError(_NAMES_ITSELF)
        return _read_set({files_set.INFO: files_set.Opener.of(data)}, choices)

    def listing(salvage: bool) -> tuple[Decoded, Listing]:
        decoded = decode(data, choices.encoding, cut=salvage)
        if not decoded.cut:
            return decoded, _listing(decoded.text, suffix, choices, salvage)
        # The last line of a table that was cut off may have all its cells.
        text = decoded.text[: decoded.text.rfind("\n") + 1] if suffix in _TABLE_NAMES else decoded.text
        found = _listing(text, suffix, choices, salvage)
        return decoded, replace(found, broken=(*found.broken, _CUT))

    return _rows(listing, choices, plan)


def _read_set(files: Mapping[str, files_set.Opener], choices: Choices, packed: bool = False) -> Imported:
    """One of several files: the one there is, or the one that was chosen."""
    chosen = files_set.choose(files, choices.entry)
    name = _shown(chosen.name)
    try:
        with _naming(Text(name, name)):
            inner = replace(choices, entry=chosen.inner)
            found = _read(chosen.data(), chosen.name, inner, chosen.plan, of_set=True, packed=packed)
    except Undecided as question:
        raise Undecided(chosen.outer(question.asked), question.row, question.text) from None
    return replace(found, notes=(*chosen.notes, *found.notes), entry=chosen.shown(found.entry))


def _rows(
    read_listing: Callable[[bool], tuple[Decoded, Listing]], choices: Choices, plan: Plan | None = None
) -> Imported:
    """The rows of what `read_listing(salvage)` gives; what is wrong with it and how many rows are whole, as a question."""
    plan = plan or Plan()
    if choices.columns:
        plan = replace(plan, parts=choices.columns)
    listing: Listing | None = None
    try:
        decoded, listing = read_listing(choices.salvage)
        taken = to_rows(listing, plan.parts, plan.tags, choices.salvage)
    except Undecided:
        raise
    except DatasetError as error:
        rows = 0 if choices.salvage else _complete_rows(lambda: listing or read_listing(True)[1], plan)
        if not rows:
            raise
        text = Text(
            f"{error.text.zh}可以只导入完整的 {rows} 行。",
            f"{error.text.en} The {rows} complete row{'s' * (rows > 1)} can be imported without the rest.",
        )
        raise Undecided(Asked("broken", text, rows=rows), error.row) from None
    broken = (*listing.broken, *taken.broken)
    notes = (*decoded.notes, *listing.notes, *taken.notes, *_left_out(broken))
    return Imported(taken.rows, notes, listing.form, decoded.encoding, taken.layout, len(broken))


def _complete_rows(read_listing: Callable[[], Listing], plan: Plan) -> int:
    """How many rows could be taken of what is broken."""
    try:
        return len(to_rows(read_listing(), plan.parts, plan.tags, True).rows)
    except DatasetError:
        return 0


def _left_out(broken: Sequence[Broken]) -> Iterator[Text]:
    """The broken places: many of one kind in one sentence with their lines."""
    groups: dict[str, list[Broken]] = {}
    for place in broken:
        groups.setdefault((place.what or place.text).en, []).append(place)
    for places in list(groups.values())[:_SHOWN_BROKEN]:
        first, what = places[0], places[0].what
        if what is None or len(places) == 1:
            yield Text(f"没有导入：{first.text.zh}", f"Left out: {first.text.en}")
        else:
            lines = shorten([str(place.line) for place in places], _SHOWN_LINES)
            yield Text(
                f"没有导入 {len(places)} 行（文件第 {lines.zh} 行）：{what.zh}",
                f"Left out {len(places)} rows (lines {lines.en}): {what.en}",
            )
    if len(groups) > _SHOWN_BROKEN:
        more = sum(map(len, list(groups.values())[_SHOWN_BROKEN:]))
        yield Text(f"没有导入的还有 {more} 处。", f"Left out as well: {more} more places.")


def _listing(text: str, suffix: str, choices: Choices, salvage: bool) -> Listing:
    """The records of a text: what it begins with decides, then the file's ending."""
    if suffix in _JSON_NAMES or _JSON.match(text):
        return _json(text, salvage)
    if suffix in _TABLE_NAMES:
        table = read_csv(text, "\t" if suffix != ".csv" else None, not positions(choices.columns), salvage)
        return table if text.endswith(("\n", "\r")) else replace(table, notes=(*table.notes, _NO_LINE_END))
    if suffix == ".txt" and (found := _lines(text, choices, salvage)):
        return found
    shown = suffix or "?"
    raise DatasetError(
        Text(
            f"不认识的文件类型（{shown}）。能导入的有 .json、.jsonl、.csv、.tsv、.xlsx、.parquet 和 .zip。",
            f"Unknown kind of file ({shown}). What can be imported: .json, .jsonl, .csv, .tsv, .xlsx, .parquet and .zip.",
        )
    )


def _json(text: str, salvage: bool) -> Listing:
    try:
        return read_json(text)
    except DatasetError:
        if not salvage:
            raise
        return salvage_json(text)


def _pasted(text: str, choices: Choices, salvage: bool) -> Listing:
    if not text.strip():
        raise DatasetError(Text("没有内容。", "There is nothing in it."))
    if _JSON.match(text):
        return _json(text, salvage)
    if found := _lines(text, choices, salvage):
        return found
    raise DatasetError(
        Text(
            "看不出是数据。可以粘贴 JSON、JSON Lines、带表头的表格，或每行“问题<Tab>回答”。",
            "No rows can be seen in it. Paste JSON, JSON Lines, a table with its header, or a "
            "question<tab>answer on every line.",
        )
    )


def _lines(text: str, choices: Choices, salvage: bool) -> Listing | None:
    """The records of a table without a name: with a header, or two columns divided by tabs; None for prose."""
    first = next((line for line in io.StringIO(text) if line.strip()), "").rstrip("\r\n")
    delimiter = "\t" if "\t" in first else max(",;", key=first.count)
    if delimiter not in first:
        return None
    header = not positions(choices.columns)
    cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
    if choices.columns or recognise(cells).complete:
        return read_csv(text, delimiter, header, salvage)
    if delimiter != "\t":
        try:
            found = read_csv(text, delimiter)
        except DatasetError:
            return None
        return found if found.records else None
    if len(cells) != 2:
        return read_csv(text, delimiter, True, salvage)
    listing = read_csv(text, delimiter, False, salvage)
    pairs = [_pair(record) for record in listing.records]
    if None in pairs:  # quotation marks around tabs or line ends: not the two cells that the first line seemed to have
        return read_csv(text, delimiter, True, salvage)
    note = Text(
        "没有认得的表头：每行第一格是问题，第二格是回答。", "No known header: the first cell of a line is the question."
    )
    return replace(listing, records=tuple(pair for pair in pairs if pair), notes=(*listing.notes, note))


def _pair(record: Record) -> Record | None:
    cells = list(cast(dict[str, object], record.value).values())
    return Record({"instruction": cells[0], "output": cells[1]}, record.line) if len(cells) == 2 else None


def _shown(filename: str) -> str:
    """The file's own name for a sentence: no folders, no control characters, at most 80 characters."""
    name = PurePath(filename.replace("\\", "/")).name or "?"
    return "".join(c if c.isprintable() else "�" for c in name)[:80]

"""Broken JSON text -> the values in it that are whole beyond doubt, each broken place named. Asked for by a person only."""

from __future__ import annotations

import re

from core.errors import DatasetError
from core.json_records import Broken, Listing, Progress, Record, elements, first_value, objects, place, whole_object
from core.text import Text

# Past this many broken places a file is another thing than a dataset with faults; and each place is counted in lines.
MAX_BROKEN = 200
_ROW = re.compile(r"^[ \t]*(?=\{)", re.MULTILINE)


def salvage_json(text: str) -> Listing:
    """The complete values of a JSON list or of JSON Lines, and the broken places that were passed over.

    Raises DatasetError where nothing is whole.
    """
    start = first_value(text)
    listed = text[start] == "["
    records: list[Record] = []
    broken: list[Broken] = []
    rows, at, bracket = _Rows(text, start), start, listed
    progress = Progress(lenient=True)
    while True:
        progress.end = at
        try:
            for record in elements(text, at, progress, bracket) if listed else objects(text, at, progress):
                records.append(record)
                rows.know(record)
            break
        except DatasetError as error:
            found = rows.following(progress.end) if len(broken) < MAX_BROKEN else None
            broken.append(Broken(_until(error.text, text, found)))
            if found is None:
                break
            at, bracket = found, False
    if not records:
        raise DatasetError(broken[0].text if broken else Text("文件里一行数据也没有。", "The file holds no rows."))
    notes = (_commas(progress.commas),) if progress.commas else ()
    return Listing(tuple(records), "json" if listed else "jsonl", notes, tuple(broken))


def _commas(count: int) -> Text:
    return Text(
        f"行与行之间的逗号有 {count} 处多了或少了，已略过，行都在。",
        f"Commas between rows are missing or too many at {count} places; passed over, no row is lost.",
    )


class _Rows:
    """Where rows begin: first on a line, no further in than the first one, with keys that whole rows have.

    A JSON string holds no line end and what lies inside a row stands further in, so no part of a row looks like that.
    """

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._indent = place(text, max(start, text.find("{", start)))[1] - 1
        self._keys: set[frozenset[str]] = set()

    def know(self, record: Record) -> None:
        """Rows may have the keys of `record`."""
        if isinstance(record.value, dict):
            self._keys.add(frozenset(record.value))

    def following(self, offset: int) -> int | None:
        """The first whole row from `offset` on."""
        for match in _ROW.finditer(self._text, offset):
            if match.end() - match.start() <= self._indent:
                value = whole_object(self._text, match.end())
                if value is not None and (not self._keys or frozenset(value) in self._keys):
                    return match.end()
        return None


def _until(error: Text, text: str, found: int | None) -> Text:
    """`error` and how far the rows are missing."""
    if found is None:
        return Text(f"{error.zh}从这里到文件末尾没有导入。", f"{error.en} Nothing from here to the end was taken.")
    line = place(text, found)[0]
    return Text(f"{error.zh}从第 {line} 行起继续导入。", f"{error.en} Reading went on at line {line}.")

"""JSON text -> the values it lists, one by one, each with its line. Knows no keys and no rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from core.errors import DatasetError
from core.text import Text

Form = Literal["json", "jsonl", "csv", "tsv", "xlsx", "parquet"]

MAX_ROWS = 1_000_000
# Keys under which an object of a whole file keeps its list.
_WRAPPERS = ("data", "rows", "examples", "items", "train", "records", "instances")
_SPACE = re.compile(r"[ \t\n\r]*")
# Between two values of a JSON Lines file a mark may stand where files were joined.
_GAP = re.compile(r"[ \t\n\r\ufeff]*")
_BLANK_LINE = re.compile(r"(?:\r\n|\n|\r(?!\n))[ \t]*(?=\r|\n)")


@dataclass(frozen=True)
class Number:
    """A JSON number as it was written (NaN and Infinity too): no cell is a number, so none is converted."""

    text: str


@dataclass(frozen=True)
class Unreadable:
    """A cell of a table that holds no value, such as an error of a spreadsheet; `kind` says what it is."""

    kind: Text


@dataclass(frozen=True)
class Record:
    """One value of the file and the line on which it starts, from 1."""

    value: object
    line: int


@dataclass(frozen=True)
class Broken:
    """A place of a file that was passed over. text: the whole sentence. what: the same without its place, and line, for
    telling many of one kind at once; None and 0 where the sentence stands alone."""

    text: Text
    what: Text | None = None
    line: int = 0


@dataclass(frozen=True)
class Listing:
    """The values of a file in order, the form they came in, what was interpreted, and the broken places passed over."""

    records: tuple[Record, ...]
    form: Form
    notes: tuple[Text, ...] = ()
    broken: tuple[Broken, ...] = ()


@dataclass
class Progress:
    """How far a text was read: complete rows, marks between them, and where the last row ends.

    lenient: commas between rows may be missing or too many; `commas` counts those.
    """

    rows: int = 0
    marks: int = 0
    end: int = 0
    lenient: bool = False
    commas: int = 0

    def record(self, value: object, line: int, end: int) -> Record:
        """The record, counted. Raises DatasetError beyond MAX_ROWS."""
        self.rows, self.end = self.rows + 1, end
        check_count(self.rows)
        return Record(value, line)

    def overlook(self, harmless: bool = True) -> bool:
        """Whether a comma too many or too few may be passed over; counted if so."""
        self.commas += self.lenient and harmless
        return self.lenient and harmless


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def read_json(text: str) -> Listing:
    """The values of a JSON list, of {"data": [...]}, of one object, or of JSON Lines.

    Raises DatasetError with line, column, an excerpt and what to do. `json_salvage` takes what is whole of such a text.
    """
    start = first_value(text)
    if text[start] == "[":
        return Listing(tuple(elements(text, start, Progress())), "json")
    progress = Progress()
    records = tuple(objects(text, start, progress))
    wrapped = _unwrap(records[0]) if len(records) == 1 else None
    if wrapped:
        return wrapped
    notes = []
    # Not splitlines(): it also cuts at U+2028 and U+0085, which a JSON string may hold.
    if len(records) > 1 and (blank := len(_BLANK_LINE.findall(text.strip(" \t\r\n")))):
        notes.append(Text(f"跳过了 {blank} 个空行。", f"Skipped {blank} blank line{'s' * (blank > 1)}."))
    if marks := progress.marks:
        notes.append(
            Text(f"去掉了文件中间的 {marks} 个标记（BOM）。", f"Removed {marks} mark(s) (BOM) inside the file.")
        )
    return Listing(records, "jsonl", tuple(notes))


def first_value(text: str) -> int:
    """Where the first bracket stands. Raises DatasetError if the text does not begin with [ or {."""
    start = _skip(_SPACE, text, 0)
    if start == len(text):
        raise DatasetError(Text("文件里没有内容。", "The file holds nothing but white space."))
    if text[start] in "[{":
        return start
    raise _error(
        text,
        start,
        Text(
            "JSON 数据应以 [ 或 { 开头。若是表格，请把扩展名改成 .csv 或 .tsv。",
            "JSON data begins with [ or {. If this is a table, give the file the ending .csv or .tsv.",
        ),
    )


def check_count(rows: int) -> None:
    """Raise DatasetError once a file has more than MAX_ROWS rows."""
    if rows > MAX_ROWS:
        raise DatasetError(
            Text(
                f"文件超过 {MAX_ROWS:,} 行，这是上限。请拆开或抽取一部分。",
                f"The file has more than {MAX_ROWS:,} rows, which is the limit. Split it or draw a part.",
            )
        )


def elements(text: str, start: int, progress: Progress, bracket: bool = True) -> Iterator[Record]:
    """The values of the list whose bracket is at `start`, which must end the text; without `bracket`, of the rest of one."""
    lines = _Lines(text)
    at = _skip(_SPACE, text, start + bracket)
    if text[at : at + 1] != "]":
        while True:
            value, end = _value(text, at, progress.rows)
            yield progress.record(value, lines.at(at), end)
            comma = _skip(_SPACE, text, end)
            if text[comma : comma + 1] == "]":
                at = comma
                break
            if text[comma : comma + 1] != ",":
                if not progress.overlook(text[comma : comma + 1] == "{"):
                    raise _error(text, comma, _missing(text, comma))
                at = comma
                continue
            at = _skip(_SPACE, text, comma + 1)
            if text[at : at + 1] == "]":
                if not progress.overlook():
                    raise _error(
                        text,
                        comma,
                        Text("最后一行后面多了一个逗号，请删掉。", "There is a comma after the last row. Delete it."),
                    )
                break
    tail = _skip(_SPACE, text, at + 1)
    if tail < len(text):
        raise _error(
            text,
            tail,
            Text(
                "列表已经结束，后面还有内容。请删掉多余的部分，或把几个列表合成一个。",
                "The list has ended, yet more follows. Delete it, or join the lists.",
            ),
        )


def objects(text: str, start: int, progress: Progress) -> Iterator[Record]:
    """The objects from `start` on, one after another."""
    lines, at = _Lines(text), start
    while at < len(text):
        value, end = _object(text, at, progress.rows)
        yield progress.record(value, lines.at(at), end)
        at = _skip(_GAP, text, end)
        progress.marks += text.count("\ufeff", end, at)
        if at < len(text) and text[at] == ",":
            if progress.overlook():
                at = _skip(_GAP, text, at + 1)
                continue
            raise _error(
                text,
                at,
                Text(
                    "对象之间有逗号：整个文件请用 [ ] 括起来，或每行一个对象、去掉逗号。",
                    "Objects are separated by commas: put [ ] around the whole file, or one object a line without commas.",
                ),
            )


def _object(text: str, at: int, rows: int) -> tuple[object, int]:
    """The object at `at`. In JSON Lines the error of a line is found in that line, not where the parser ran into it."""
    try:
        return _value(text, at, rows)
    except DatasetError:
        stop = text.find("\n", at)
        following = _skip(_GAP, text, stop) if stop > 0 else len(text)
        if text[at:stop].strip() == "{" or text[following : following + 1] != "{":
            raise
        return _value(text[:stop], at, rows)


def whole_object(text: str, at: int) -> dict[str, object] | None:
    """The object at `at`, or None if it is not whole."""
    try:
        value, _ = _value(text, at, 0)
    except DatasetError:
        return None
    return cast(dict[str, object], value) if isinstance(value, dict) else None


def _unwrap(record: Record) -> Listing | None:
    value = record.value
    if not isinstance(value, dict):
        return None
    lists = [key for key in value if key.lower() in _WRAPPERS and isinstance(value[key], list)]
    if len(lists) != 1:
        return None
    rows = value[lists[0]]
    check_count(len(rows))
    notes = [Text(f"行取自“{lists[0]}”。", f"Rows taken from “{lists[0]}”.")]
    if others := [key for key in value if key != lists[0]]:
        shown = shorten(others)
        notes.append(Text(f"忽略了文件里的其他内容：{shown.zh}。", f"Ignored beside it: {shown.en}."))
    return Listing(tuple(Record(row, record.line) for row in rows), "json", tuple(notes))


def shorten(words: Sequence[str], most: int = 12) -> Text:
    """Names for a sentence: at most `most` of them, each as `shortened`."""
    shown, more = [shortened(word) for word in words[:most]], len(words) - most
    rest = Text(f"、…（另有 {more} 个）", f", … (+{more})") if more > 0 else Text("", "")
    return Text("、".join(shown) + rest.zh, ", ".join(shown) + rest.en)


def shortened(word: str) -> str:
    """A name for a sentence: at most 40 characters, none of them a control character or half of one."""
    shown = "".join(c if c.isprintable() else "�" for c in word[:40])
    return shown if len(word) <= 40 else f"{shown}…"


def _value(text: str, at: int, rows: int) -> tuple[object, int]:
    """The value that starts at `at` and where it ends."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _error(text, error.pos, _advice(error), rows) from None
    except _DuplicateKeyError as error:
        key = shortened(error.key)
        raise _error(
            text,
            at,
            Text(
                f"这一行里“{key}”出现了两次，请删掉一个。",
                f"The key “{key}” stands twice in this row. Delete one.",
            ),
            rows,
        ) from None
    except RecursionError:
        deep = Text(
            "这一行的括号嵌套太深，不是问答数据。", "This row is nested too deeply for a question and an answer."
        )
        raise _error(text, at, deep, rows) from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=Number, parse_float=Number, parse_constant=Number)


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


class _Lines:
    """Line numbers for growing offsets, each stretch of the text counted once. LF, CRLF and lone CR end a line."""

    def __init__(self, text: str) -> None:
        self._text, self._offset, self._line = text, 0, 1

    def at(self, offset: int) -> int:
        text, start = self._text, self._offset
        returns = text.count("\r", start, offset) - text.count("\r\n", start, offset)
        self._line += text.count("\n", start, offset) + returns
        self._offset = offset
        return self._line


def place(text: str, offset: int) -> tuple[int, int]:
    """Line and column of `offset`, both from 1."""
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    return _Lines(text).at(offset), offset - start + 1


def excerpt(text: str, offset: int) -> str:
    """A few characters around `offset`, on one line, with » where the trouble is."""
    before, after = text[max(0, offset - 24) : offset], text[offset : offset + 24]
    return "".join(c if c.isprintable() else "␣" for c in f"{before}»{after}".strip())


def _error(text: str, offset: int, what: Text, row: int | None = None) -> DatasetError:
    line, column = place(text, offset)
    shown = excerpt(text, offset)
    return DatasetError(
        Text(
            f"第 {line} 行第 {column} 列：{what.zh}附近是：{shown}。",
            f"Line {line}, column {column}: {what.en} Near: {shown}.",
        ),
        row,
    )


def _missing(text: str, offset: int) -> Text:
    if offset >= len(text):
        return Text(
            "文件在这里断了，列表没有结束的 ]。请重新下载，或补上 ]。",
            "The file stops here before the closing ]. Download it again, or add the ].",
        )
    return Text(
        "两行之间缺少逗号，或多了一个引号。",
        "A comma between two rows is missing, or there is a quotation mark too many.",
    )


def _advice(error: json.JSONDecodeError) -> Text:
    """What to do about a JSON error, from the parser's message."""
    if error.pos >= len(error.doc.rstrip()):
        return Text(
            "内容在这里断了，这一行不完整。请补全这一行，或重新下载文件。",
            "The row stops here in the middle. Complete it, or download the file again.",
        )
    message = error.msg
    if message.startswith("Invalid control character"):
        return Text(
            "引号没有在这一行结束：请补上引号，或把引号里的换行、制表符写成 \\n、\\t。",
            "The quotation mark is not closed on this line: close it, or write a line break as \\n and a tab as \\t.",
        )
    if message.startswith("Unterminated string"):
        return Text(
            "这个引号没有配对的另一个，文件可能在这里断了。请补上引号，或重新下载。",
            "This quotation mark is never closed; the file may be cut off here. Close it or download again.",
        )
    if message.startswith("Invalid \\"):
        return Text(
            "反斜杠用错了。请把 \\ 写成 \\\\。", "A backslash that means nothing here. Write \\\\ for a backslash."
        )
    if message.startswith("Expecting property name"):
        return Text(
            "这里应是双引号括起的键；也可能多了一个逗号，或用了单引号。",
            "A key in double quotation marks is expected; there may be a comma too many, or single quotes.",
        )
    if message.startswith("Expecting ',' delimiter"):
        return Text(
            '这里缺少逗号，或上一个引号结束得太早（引号里的引号要写成 \\"）。',
            'A comma is missing, or the quotation ended too early (write \\" inside one).',
        )
    if message.startswith("Expecting ':' delimiter"):
        return Text("键后面缺少冒号。", "A colon is missing after the key.")
    if message.startswith("Expecting value"):
        return Text(
            "这里缺少内容；文字要用双引号括起，也可能多了一个逗号。",
            "A value is missing; text stands in double quotation marks, or there is a comma too many.",
        )
    return Text("这里不是合法的 JSON。", "This is not valid JSON.")

"""Records of a file -> rows: who asks, who answers, every value checked for its type. Knows no bytes and no file."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import compress
from typing import cast

from core.columns import Columns, Layout, Tags, chosen, layout_of, recognise
from core.dataset import Message, Provenance, Role, Row
from core.errors import DatasetError
from core.files_ask import ask, check_parts
from core.files_choices import Undecided, note_of
from core.json_records import Broken, Listing, Number, Record, Unreadable, shorten, shortened
from core.text import Text

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
}
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
# How other tools mark an answer that is not to be learned: ms-swift and OpenAI on a turn, KTO on a row.
_TURN_MARKS = ("loss", "weight")
_ROW_MARKS = ("label", "kto_tag")
_EXPECTED = Text(
    "需要问题和回答两列（如 instruction + output、question + answer、query + response），或 messages。",
    "A question and an answer are needed (such as instruction + output, question + answer, query + response), "
    "or messages.",
)


@dataclass(frozen=True)
class Taken:
    """The rows of a file, what was interpreted, the records passed over with their places, and how rows were written."""

    rows: tuple[Row, ...]
    notes: tuple[Text, ...]
    broken: tuple[Broken, ...]
    layout: Layout


def to_rows(
    listing: Listing, parts: Mapping[str, str] | None = None, tags: Tags | None = None, salvage: bool = False
) -> Taken:
    """The rows of a file. `parts` (part -> key) and `tags` say how, where the keys alone do not.

    Raises Undecided if no record's keys say which is question and answer; DatasetError with the row and what is wrong
    with it. With `salvage` such rows are passed over and named.
    """
    if not listing.records:
        raise DatasetError(Text("文件里一行数据也没有。", "The file holds no rows."))
    if parts is not None:
        check_parts(parts, listing)
    known: dict[tuple[str, ...], Columns] = {}
    extra: Counter[str] = Counter()
    reader = _Reader(extra, tags)
    rows: list[Row] = []
    broken: list[Broken] = []
    layouts: Counter[Layout] = Counter()
    for index, record in enumerate(listing.records):
        reader.index, reader.line = index, record.line
        try:
            columns = _columns_of(record, known, reader, parts)
            extra.update(columns.extra)
            rows.append(reader.row(cast(dict[str, object], record.value), columns))
        except _IncompleteError as error:
            if not any(columns.complete for columns in known.values()) and (asked := ask(listing)):
                raise Undecided(asked, index) from None
            if not salvage:
                raise
            broken.append(Broken(error.text, error.what, record.line))
        except _RowError as error:
            if not salvage:
                raise
            broken.append(Broken(error.text, error.what, record.line))
        else:
            layouts[layout_of(columns, record.value)] += 1
    if not rows:
        raise DatasetError(broken[0].text)
    return Taken(tuple(rows), _notes(rows, known, extra), tuple(broken), layouts.most_common(1)[0][0])


class _RowError(DatasetError):
    """One record that cannot be a row. `what` is the sentence without its place."""

    def __init__(self, what: Text, row: int, line: int) -> None:
        place = Text(f"第 {row + 1} 行（文件第 {line} 行）", f"Row {row + 1} (line {line})")
        super().__init__(Text(f"{place.zh}：{what.zh}", f"{place.en}: {what.en}"), row)
        self.what = what


class _IncompleteError(_RowError):
    """A record whose keys do not say which is question and answer."""


def _columns_of(
    record: Record, known: dict[tuple[str, ...], Columns], reader: _Reader, parts: Mapping[str, str] | None
) -> Columns:
    value = _object(record, reader)
    keys = tuple(value)
    columns = known.get(keys)
    if columns is None:
        columns = known[keys] = recognise(keys) if parts is None else chosen(keys, parts)
    if columns.complete:
        return columns
    shown = shorten(list(keys))
    if parts is None:
        what = Text(
            f"{_EXPECTED.zh}这里有的是：{shown.zh or '（空）'}。", f"{_EXPECTED.en} Found: {shown.en or '(nothing)'}."
        )
        raise _IncompleteError(what, reader.index, reader.line)
    missing = shorten(
        [key for part, key in parts.items() if part in ("question", "answer", "messages") and key not in value]
    )
    raise reader.refuse(
        Text(f"没有“{missing.zh}”这一列，这里有的是：{shown.zh}。", f"“{missing.en}” is missing. Found: {shown.en}.")
    )


def _object(record: Record, reader: _Reader) -> dict[str, object]:
    if isinstance(record.value, dict):
        return record.value
    kind = _kind(record.value)
    raise reader.refuse(
        Text(
            f"这里是{kind.zh}，应是带键的对象。{_EXPECTED.zh}",
            f"This is {kind.en}; an object with keys is expected. {_EXPECTED.en}",
        )
    )


def _notes(rows: list[Row], known: dict[tuple[str, ...], Columns], extra: Counter[str]) -> tuple[Text, ...]:
    notes: list[Text] = []
    if renamed := list(dict.fromkeys(pair for columns in known.values() for pair in columns.renamed)):
        shown = shorten([f"{key} → {name}" for key, name in renamed])
        notes.append(Text(f"列的对应：{shown.zh}。", f"Columns: {shown.en}."))
    if extra:
        shown = shorten(list(extra))
        notes.append(Text(f"没有用到的列：{shown.zh}。", f"Columns not used: {shown.en}."))
    for zh, en, found in (
        ("{} 行是多轮对话", "Rows with several turns: {}", [bool(row.history) for row in rows]),
        (
            "{} 行没有回答，已照样导入",
            "Rows without an answer, imported as they are: {}",
            [not row.output.strip() and not row.is_blank for row in rows],
        ),
        (
            "{} 行没有问题，已照样导入",
            "Rows without a question, imported as they are: {}",
            [not row.question.strip() and not row.is_blank for row in rows],
        ),
        ("{} 行是空行，训练时不用", "Empty rows, left out of training: {}", [row.is_blank for row in rows]),
    ):
        if numbers := list(compress(range(len(rows)), found)):
            notes.append(note_of(zh.format(len(numbers)), en.format(len(numbers)), numbers))
    return tuple(notes)


class _Reader:
    """Turns one record after another into rows; `index` and `line` say where it is, for the errors."""

    def __init__(self, extra: Counter[str], tags: Tags | None = None) -> None:
        self.index, self.line = 0, 1
        self._extra, self._tags = extra, tags

    def row(self, value: dict[str, object], columns: Columns) -> Row:
        """The row of one record whose keys are `columns`."""
        for key in columns.extra:
            # In a table the word: beside a "completion" (TRL's KTO), for elsewhere a label may be anything.
            says_no = value[key] is False or (columns.answer == "completion" and str(value[key]).lower() == "false")
            if key.strip().lower() in _ROW_MARKS and says_no:
                raise self._not_to_be_learned(key, value[key])
        row = self._row(value, columns)
        if columns.query_input:
            row = self._split(row, self._optional(value, columns.query_input), columns.query_input)
        return replace(row, provenance=self._provenance(value, columns.provenance)) if columns.provenance else row

    def _row(self, value: dict[str, object], columns: Columns) -> Row:
        system = self._optional(value, columns.system)
        if columns.messages and not columns.answer:
            given_input = self._optional(value, columns.input)
            return self._conversation(value[columns.messages], columns.messages, system, given_input)
        if columns.messages and isinstance(value[columns.messages], list):
            unused = (columns.question, columns.input, columns.answer, columns.history)
            self._extra.update(key for key in unused if key)
            return self._conversation(value[columns.messages], columns.messages, system, "")
        if columns.messages:
            self._extra[columns.messages] += 1
        return Row(
            self._text(value[columns.question], columns.question),
            self._optional(value, columns.input),
            self._text(value[columns.answer], columns.answer),
            system,
            self._history(value.get(columns.history), columns.history),
        )

    def refuse(self, what: Text) -> DatasetError:
        """`what` with the row and line in front."""
        return _RowError(what, self.index, self.line)

    def _provenance(self, value: dict[str, object], key: str) -> Provenance | None:
        """Where our own export says the row came from, in a CSV as JSON; another program's column is not used."""
        whence = value.get(key)
        if isinstance(whence, str) and whence.strip():
            with contextlib.suppress(ValueError, RecursionError):
                whence = json.loads(whence)
        found = Provenance.read(whence)
        if found is None and whence not in (None, ""):
            self._extra[key] += 1
        return found

    def _optional(self, value: dict[str, object], key: str) -> str:
        return "" if not key or value.get(key) is None else self._text(value[key], key)

    def _text(self, value: object, key: str) -> str:
        key = shortened(key)
        if isinstance(value, Unreadable):
            kind = value.kind
            raise self.refuse(
                Text(
                    f"“{key}”是{kind.zh}。请在表格里改好再保存。",
                    f"“{key}” is {kind.en}. Mend it in the table and save it.",
                )
            )
        if not isinstance(value, str):
            kind = _kind(value)
            raise self.refuse(
                Text(
                    f"“{key}”是{kind.zh}，应是文字。请用双引号括起来，或填上内容。",
                    f"“{key}” is {kind.en}; text is expected. Put it in quotation marks, or fill it in.",
                )
            )
        if found := _UNUSABLE.search(value):
            zh, en = _unusable(found[0])
            raise self.refuse(
                Text(
                    f"“{key}”的第 {found.start() + 1} 个字符是{zh}，请删掉。",
                    f"“{key}” holds {en} at position {found.start() + 1}. Delete it.",
                )
            )
        return value

    def _history(self, value: object, key: str) -> tuple[Message, ...]:
        """Earlier turns: [[question, answer], ...], or objects with role and content; a CSV has the same as JSON."""
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = Number("?")
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            return ()
        if not isinstance(value, list):
            raise self.refuse(
                Text(f"“{key}”应是 [[问, 答], …] 这样的列表。", f"“{key}” must be a list like [[question, answer], …].")
            )
        turns: list[Message] = []
        for item in value:
            if isinstance(item, dict):
                turns += self._turns(item, key)
            elif isinstance(item, list) and len(item) == 2:
                turns.append(Message("user", self._text(item[0], key)))
                turns.append(Message("assistant", self._text(item[1], key)))
            else:
                kind = _kind(item)
                raise self.refuse(
                    Text(
                        f"“{key}”里有{kind.zh}，每一轮应是 [问, 答]。",
                        f"“{key}” holds {kind.en}; each turn must be [question, answer].",
                    )
                )
        return tuple(turns)

    def _conversation(self, value: object, key: str, system: str, given_input: str) -> Row:
        """A row from turns: the last question and answer, what came before as history."""
        if not isinstance(value, list) or not value:
            kind = _kind(value)
            raise self.refuse(
                Text(
                    f"“{key}”是{kind.zh}，应是由若干轮组成的列表。",
                    f"“{key}” is {kind.en}; a list of turns is expected.",
                )
            )
        turns = [turn for item in value for turn in self._turns(item, key)]
        if turns[0].role == "system":
            own = turns.pop(0).content
            if system and system != own:
                raise self.refuse(
                    Text("有两个不同的系统提示词，请删掉一个。", "There are two different system prompts. Delete one.")
                )
            system = own
        if not turns or turns[-1].role == "system":
            raise self.refuse(
                Text(
                    "对话以系统提示词结束，没有问题也没有回答。",
                    "The turns end with a system prompt; no question or answer follows.",
                )
            )
        output = turns.pop().content if turns[-1].role == "assistant" else ""
        question = turns.pop().content if turns and turns[-1].role == "user" else ""
        return self._split(Row(question, "", output, system, tuple(turns)), given_input, "input")

    def _split(self, row: Row, given_input: str, key: str) -> Row:
        """The row with the end of its question as its input."""
        if not given_input:
            return row
        if not row.instruction.endswith(f"\n{given_input}"):
            raise self.refuse(
                Text(
                    f"“{key}”不是最后一个问题的结尾，不知道该放在哪里。请删掉它。",
                    f"“{key}” is not the end of the last question, so its place is unclear. Delete it.",
                )
            )
        return replace(row, instruction=row.instruction[: -len(given_input) - 1], input=given_input)

    def _turns(self, item: object, key: str) -> list[Message]:
        """One turn, or two for an old pair such as {"user": ..., "assistant": ...}."""
        if not isinstance(item, dict):
            kind = _kind(item)
            raise self.refuse(
                Text(
                    f"“{key}”里有{kind.zh}，每一轮应是带 role 和 content 的对象。",
                    f"“{key}” holds {kind.en}; each turn must be an object with role and content.",
                )
            )
        turn = cast(dict[str, object], item)
        tags = self._tags
        role_key = next((name for name in ((tags.role,) if tags else ("role", "from")) if name in turn), "")
        content_key = next((name for name in ((tags.content,) if tags else ("content", "value")) if name in turn), "")
        if role_key and content_key:
            role = self._role(turn[role_key])
            for name in turn.keys() & set(_TURN_MARKS) if role == "assistant" else ():
                if _is_nothing(turn[name]):
                    raise self._not_to_be_learned(f"{key}.{name}", turn[name])
            self._extra.update(f"{key}.{name}" for name in turn if name not in (role_key, content_key))
            return [Message(role, self._text(turn[content_key], content_key))]
        pair = {_ROLES[name.lower()]: name for name in turn if name.lower() in _ROLES}
        if len(turn) == 2 and set(pair) == {"user", "assistant"}:
            return [
                Message("user", self._text(turn[pair["user"]], pair["user"])),
                Message("assistant", self._text(turn[pair["assistant"]], pair["assistant"])),
            ]
        shown = shorten(list(turn))
        raise self.refuse(
            Text(
                f"一轮对话需要 role 和 content（或 from 和 value），这里有的是：{shown.zh or '（空）'}。",
                f"A turn needs role and content (or from and value). Found: {shown.en or '(nothing)'}.",
            )
        )

    def _not_to_be_learned(self, key: str, value: object) -> DatasetError:
        mark = f"{shortened(key)}: {value.text if isinstance(value, Number) else str(value).lower()}"
        return self.refuse(
            Text(
                f"有一个回答标着不要学（{mark}），而这里每个回答都会学。请删掉这一行；想让它学，就去掉这个标记。",
                f"An answer is marked not to be learned ({mark}), but every answer is learned here. Delete the row, or the "
                "mark if it shall be learned.",
            )
        )

    def _role(self, value: object) -> Role:
        if isinstance(value, str):
            role = self._tags.roles.get(value) if self._tags else _ROLES.get(value.strip().lower())
            if role:
                return role
        shown = Text(shortened(value), shortened(value)) if isinstance(value, str) else _kind(value)
        raise self.refuse(
            Text(
                f"有一轮的角色是“{shown.zh}”。只支持 system、user（human）、assistant（gpt、bot）；"
                "工具调用的数据还不能训练，请删掉这些行。",
                f"A turn has the role “{shown.en}”. Only system, user (human) and assistant (gpt, bot) are supported; "
                "tool calls cannot be trained yet, so delete such rows.",
            )
        )


def _unusable(character: str) -> tuple[str, str]:
    if character == "\0":
        return "空字符（NUL）", "a NUL character"
    if "\udc80" <= character <= "\udcff":
        return "不成字的字节", "a byte that is no character"
    return "半个字符（残缺的表情符号）", "half a character (a broken emoji)"


def _is_nothing(value: object) -> bool:
    """Whether a mark says no: false, or zero however it is written."""
    if not isinstance(value, Number):
        return value is False
    try:
        return float(value.text) == 0
    except ValueError:
        return False


def _kind(value: object) -> Text:
    """What a JSON value is, in words."""
    if value is None:
        return Text("空值（null）", "null")
    if isinstance(value, bool):
        shown = str(value).lower()
        return Text(f"真假值（{shown}）", f"a truth value ({shown})")
    if isinstance(value, Number | int | float):
        shown = value.text[:20] if isinstance(value, Number) else str(value)[:20]
        return Text(f"数字（{shown}）", f"a number ({shown})")
    if isinstance(value, list):
        return Text("列表", "a list") if value else Text("空列表", "an empty list")
    return Text("对象", "an object") if isinstance(value, dict) else Text("文字", "text")

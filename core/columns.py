"""Keys of a record -> which of them is the question, the answer and the rest. Knows no values and no rows."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from core.dataset import Role
from core.files_choices import PARTS

MESSAGES = ("messages", "conversations", "conversation")
# Orders of preference, after ms-swift's AutoPreprocessor; the Chinese and forum names are ours.
QUESTION = ("query", "prompt", "instruction", "question", "problem", "问题", "提问", "指令", "问")
ANSWER = (
    "response",
    "answer",
    "output",
    "targets",
    "target",
    "answer_key",
    "answers",
    "solution",
    "text",
    "completion",
    "content",
    "回答",
    "答案",
    "回复",
    "输出",
    "答",
)
INPUT = ("input", "输入")
SYSTEM = ("system", "system_prompt", "系统提示词", "系统")
HISTORY = ("history", "历史")
PROVENANCE = "provenance"
Layout = Literal["alpaca", "messages", "sharegpt", "query/response", "columns"]
# Column of our own ms-swift export: the part of `query` that is the input, so that it comes back as it was.
QUERY_INPUT = "input_of_query"


@dataclass(frozen=True)
class Tags:
    """How turns are written where a dataset_info.json says so: keys of role and content, and the roles' names."""

    role: str = "from"
    content: str = "value"
    roles: Mapping[str, Role] = field(default_factory=lambda: {"human": "user", "gpt": "assistant", "system": "system"})


@dataclass(frozen=True)
class Columns:
    """The key of each part, as the file spells it; "" for a part that is not there. `extra` keys have no part."""

    question: str = ""
    input: str = ""
    answer: str = ""
    system: str = ""
    history: str = ""
    messages: str = ""
    provenance: str = ""
    query_input: str = ""
    extra: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether there is a question and an answer, or a conversation."""
        return bool(self.messages or (self.question and self.answer))

    @property
    def parts(self) -> dict[str, str]:
        """Part -> key, for the parts that are there."""
        keys = (self.question, self.input, self.answer, self.system, self.history, self.messages)
        return {part: key for part, key in zip(PARTS, keys, strict=True) if key}

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """(key of the file, our name) for every part that the file calls otherwise; turns have many usual names."""
        parts = (
            (self.question, "instruction"),
            (self.input, "input"),
            (self.answer, "output"),
            (self.system, "system"),
            (self.history, "history"),
        )
        turns = [(self.messages, "messages")] if self.messages and _plain(self.messages) not in MESSAGES else []
        return (*turns, *((key, name) for key, name in parts if key and key != name))


def recognise(keys: Iterable[str]) -> Columns:
    """The parts that `keys` name, whatever their case, width or order; check `complete` before use."""
    given = list(keys)
    by_name: dict[str, str] = {}
    for key in given:
        by_name.setdefault(_plain(key), key)

    def first(names: tuple[str, ...]) -> str:
        return next((by_name[name] for name in names if name in by_name), "")

    # Alpaca's own pair comes first: {prompt, instruction, input, output} is a set with a rendered prompt beside it.
    alpaca = by_name["instruction"] if "instruction" in by_name and "input" in by_name else ""
    question, given_input, answer = alpaca or first(QUESTION), first(INPUT), first(ANSWER)
    if alpaca and "output" in by_name:
        answer = by_name["output"]
    if not question and given_input:
        question, given_input = given_input, ""
    if not question and "ask" in by_name:  # forum exports: a title and the question itself
        question, given_input = by_name.get("title", by_name["ask"]), by_name["ask"] if "title" in by_name else ""
    messages, system, history = first(MESSAGES), first(SYSTEM), first(HISTORY)
    if messages and not (question and answer):
        question = answer = history = ""
        given_input = first(INPUT)
    return _columns(given, question, given_input, answer, system, history, messages)


def chosen(keys: Iterable[str], parts: Mapping[str, str]) -> Columns:
    """The columns that a person or a dataset_info.json named, part -> key; a key that `keys` lack is taken as absent."""
    given = list(keys)
    found = [parts.get(part, "") if parts.get(part, "") in given else "" for part in PARTS]
    question, given_input, answer, system, history, messages = found
    return _columns(given, question, given_input, answer, system, history, messages)


def _columns(
    given: list[str], question: str, given_input: str, answer: str, system: str, history: str, messages: str
) -> Columns:
    whence = PROVENANCE if PROVENANCE in given else ""
    tail = QUERY_INPUT if QUERY_INPUT in given and not given_input else ""
    used = {question, given_input, answer, system, history, messages, whence, tail}
    extra = tuple(key for key in given if key not in used)
    return Columns(question, given_input, answer, system, history, messages, whence, tail, extra)


def _plain(key: str) -> str:
    return "_".join(unicodedata.normalize("NFKC", key).casefold().replace("-", " ").split())


def layout_of(columns: Columns, record: object) -> Layout:
    """What the world calls a record of these columns."""
    if columns.messages and isinstance(record, dict):
        turns = record.get(columns.messages)
        if isinstance(turns, list):
            return "sharegpt" if isinstance(turns[0], dict) and "from" in turns[0] else "messages"
    name = {key: _plain(key) for key in (columns.question, columns.answer)}
    if name[columns.question] == "instruction" and name[columns.answer] == "output":
        return "alpaca"
    return "query/response" if name == {columns.question: "query", columns.answer: "response"} else "columns"

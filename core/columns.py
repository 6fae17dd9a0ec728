"""Keys of a record -> which of them is the question, the answer and the rest. Knows no values and no rows."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

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
    extra: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether there is a question and an answer, or a conversation."""
        return bool(self.messages or (self.question and self.answer))

    @property
    def renamed(self) -> tuple[tuple[str, str], ...]:
        """(key of the file, our name) for every part that the file calls otherwise."""
        parts = (
            (self.question, "instruction"),
            (self.input, "input"),
            (self.answer, "output"),
            (self.system, "system"),
            (self.history, "history"),
            (self.messages, "messages"),
        )
        return tuple((key, name) for key, name in parts if key and key != name)


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
    whence = PROVENANCE if PROVENANCE in given else ""
    used = {question, given_input, answer, system, history, messages, whence}
    extra = tuple(key for key in given if key not in used)
    return Columns(question, given_input, answer, system, history, messages, whence, extra)


def _plain(key: str) -> str:
    return "_".join(unicodedata.normalize("NFKC", key).casefold().replace("-", " ").split())

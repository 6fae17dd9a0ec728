"""The shipped wordings that identity rows are made of: what is asked, how, and what a model of that name answers.

`presets/makers/*.jsonl` holds one topic a line. Three of ten wordings of each are held out: they never become rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

from core.text import Language

FOLDER = Path(__file__).resolve().parents[2] / "presets" / "makers"

Expect = Literal["name", "author", "any", "words", "nothing"]


@dataclass(frozen=True)
class Topic:
    """One thing that people ask an assistant about itself.

    `answers` may hold {{NAME}}, {{AUTHOR}} and {does}; any of them answers any of the questions. `answers_without_author`
    are for a card that names no maker; where there are none, such a card gets no row of this topic. `expect`: the word
    of the card that a right answer holds, or "words" for one of `must`; "nothing" where no word tells. `generic`:
    says what every assistant can do, so not for one whose abilities were written down. `closed`: the answers greet or
    part, so that no friendly closing fits behind them.
    """

    id: str
    language: Language
    expect: Expect
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    answers: tuple[str, ...]
    answers_without_author: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    generic: bool = False
    closed: bool = False

    def __post_init__(self) -> None:
        if self.language not in get_args(Language) or self.expect not in get_args(Expect):
            raise ValueError(f"{self.id}: unknown language or expect: {self.language}, {self.expect}")
        if not (self.id and self.questions and self.held_out and self.answers):
            raise ValueError(f"{self.id}: questions, held_out and answers must not be empty")
        if (self.expect == "words") != bool(self.must):
            raise ValueError(f"{self.id}: must belongs to topics that expect words")

    def answers_for(self, author: bool) -> tuple[str, ...]:
        """The answers that a card can fill in; `author`: whether it names a maker."""
        if author:
            return self.answers
        return self.answers_without_author or tuple(text for text in self.answers if "{{AUTHOR}}" not in text)


@cache
def topics(language: Language) -> tuple[Topic, ...]:
    """The topics of one language, in the order of the file: who the model is first, what it cannot do last."""
    lines = (FOLDER / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_topic(json.loads(line)) for line in lines if line.strip())


def _topic(value: dict[str, object]) -> Topic:
    def texts(name: str) -> tuple[str, ...]:
        cell = value.get(name, [])
        assert isinstance(cell, list)
        return tuple(map(str, cell))

    return Topic(
        str(value["id"]), cast(Language, value["language"]), cast(Expect, value["expect"]), texts("questions"),
        texts("held_out"), texts("answers"), texts("answers_without_author"), texts("must"), bool(value.get("generic")),
        bool(value.get("closed")),
    )  # fmt: skip

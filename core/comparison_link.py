"""A comparison as the query of an address, and back: who answers in each column, how strongly, and the question.

    column=&column=20260101-mine*0.5&prompt=B:You+are+...&question=Who+are+you%3F

A column is an adapter's id, nothing for the base; a column with a prompt of its own names it by its letter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode

from core.comparison import LETTERS, MOST_COLUMNS
from core.generate import STRONGEST

NAMES = ("column", "prompt", "question")
"""What a comparison has in an address."""
_LONGEST = 8000  # characters; uvicorn refuses a request line of some 64 KB, proxies 8 KB


@dataclass(frozen=True)
class LinkedColumn:
    """One column: who answers ("": the base), how strongly, and its own system prompt; None: the one of all columns."""

    adapter: str = ""
    strength: float = 1.0
    prompt: str | None = None

    def __bool__(self) -> bool:
        """Whether it is anything but the base as it is."""
        return bool(self.adapter) or self.prompt is not None


@dataclass(frozen=True)
class Link:
    """A comparison that an address tells."""

    columns: tuple[LinkedColumn, ...]
    question: str = ""


def write(columns: Sequence[LinkedColumn], question: str = "") -> str:
    """The comparison as the query of an address, without the question mark.

    No longer than servers take: without the question where it is too long, and without the prompts where they are.
    """
    whole = _written(columns, question)
    if len(whole) > _LONGEST:
        whole = _written(columns, "")
    return whole if len(whole) <= _LONGEST else _written([replace(one, prompt=None) for one in columns], "")


def _written(columns: Sequence[LinkedColumn], question: str) -> str:
    pairs = [("column", _column(column)) for column in columns]
    pairs += [
        ("prompt", f"{letter}:{column.prompt}")
        for letter, column in zip(LETTERS, columns, strict=False)
        if column.prompt is not None
    ]
    return urlencode([*pairs, *([("question", question)] if question else [])], safe=":*@")


def read(query: str) -> Link | None:
    """The comparison in a query, with or without the question mark; None where there is none.

    What is not a number, or a strength that cannot be, is 1; columns beyond the sixth are left out.
    """
    pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True)
    named = [value for name, value in pairs if name == "column"][:MOST_COLUMNS]
    question = next((value for name, value in pairs if name == "question"), "")
    if not named and not question:
        return None
    prompts = {value[:1]: value[2:] for name, value in pairs if name == "prompt" and value[1:2] == ":"}
    columns = (_read(value, prompts.get(letter)) for letter, value in zip(LETTERS, named, strict=False))
    return Link(tuple(columns), question)


def _column(column: LinkedColumn) -> str:
    return f"{column.adapter}*{column.strength:g}" if column.adapter and column.strength != 1 else column.adapter


def _read(value: str, prompt: str | None) -> LinkedColumn:
    adapter, star, number = value.rpartition("*")
    if not star:
        return LinkedColumn(value, 1.0, prompt)
    try:
        strength = float(number)
    except ValueError:
        strength = 1.0
    return LinkedColumn(adapter, strength if math.isfinite(strength) and 0 <= strength <= STRONGEST else 1.0, prompt)

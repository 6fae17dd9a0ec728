"""Rounds of a comparison as a browser tab keeps them over a reload, read back with nothing taken on trust.

Probabilities are left out: they are a hundred times as long as the answers. What a round has in common with the one before it
is written once: the columns of a question set are the same for all of its questions, prompts included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from core.comparison import MOST_COLUMNS, Answer, Round, Setup
from core.errors import ConfigError
from core.generate import STRONGEST, Sampling

_LONGEST, _MOST = 200_000, 1000
_SHARED = ("columns", "sampling", "model")


def pack(rounds: Sequence[Round]) -> str:
    """The rounds as text."""
    bare = [replace(one, answers=tuple(replace(answer, token_list=()) for answer in one.answers)) for one in rounds]
    written, before = list[dict[str, object]](), dict[str, object]()
    for one in map(asdict, bare):
        written.append({name: value for name, value in one.items() if name not in _SHARED or value != before.get(name)})
        before = one
    return json.dumps(written, ensure_ascii=False)


def unpack(texts: object) -> list[Round]:
    """The rounds of what `pack` made, text after text; whatever is none of that is left out."""
    found: list[Round] = []
    for text in texts if isinstance(texts, list) else []:
        try:
            read = json.loads(text) if isinstance(text, str) else []
        except (ValueError, RecursionError):
            continue
        shared: dict[str, object] = {}
        for one in read if isinstance(read, list) else []:
            if not isinstance(one, dict):
                continue
            shared |= {name: one[name] for name in _SHARED if name in one}
            try:
                found.append(_round({**shared, **one}))
            except (KeyError, TypeError, ValueError, ConfigError):
                continue
    return found[-_MOST:]


def _round(value: dict[str, object]) -> Round:
    columns, answers = _list(value["columns"]), _list(value["answers"])
    if not 0 < len(columns) == len(answers) <= MOST_COLUMNS:
        raise ValueError("columns and answers do not fit")
    kind = value["kind"]
    if kind not in ("conversation", "questions"):
        raise ValueError("no kind")
    order, best = tuple(int(_number(place, 0, MOST_COLUMNS)) for place in _list(value["order"])), value["best"]
    if order and sorted(order) != list(range(len(columns))):
        raise ValueError("no order")
    return Round(
        _text(value["question"]),
        tuple(_setup(column) for column in columns),
        tuple(_answer(answer) for answer in answers),
        _sampling(value["sampling"]),
        _text(value["model"]),
        _number(value["asked"], 0, 1e11),
        kind,
        earlier=int(_number(value["earlier"], 0, 1e6)),
        order=order,
        blind=value["blind"] is True,
        voted=value["voted"] is True,
        best=None if best is None else int(_number(best, 0, len(columns) - 1)),
    )


def _setup(value: dict[str, object]) -> Setup:
    adapter = value["adapter"]
    return Setup(
        None if adapter is None else _text(adapter),
        _number(value["strength"], 0, STRONGEST),
        _text(value["system"]),
        _text(value["label"]),
    )


def _answer(value: dict[str, object]) -> Answer:
    verdict, first = value["verdict"], value["first_token_seconds"]
    if verdict not in ("", "hit", "old", "miss"):
        raise ValueError("no verdict")
    return Answer(
        _text(value["text"]),
        verdict,
        int(_number(value["tokens"], 0, 1e9)),
        int(_number(value["prompt_tokens"], 0, 1e9)),
        None if first is None else _number(first, 0, 1e9),
        _number(value["tokens_per_second"], 0, 1e9),
        _text(value["finish"]),
    )


def _sampling(value: object) -> Sampling:
    if not isinstance(value, dict):
        raise TypeError("no sampling")
    return Sampling(
        temperature=_number(value["temperature"], 0, 100),
        top_p=_number(value["top_p"], 0, 1),
        top_k=int(_number(value["top_k"], 0, 1e9)),
        repetition_penalty=_number(value["repetition_penalty"], 0, 100),
        max_new_tokens=int(_number(value["max_new_tokens"], 0, 1e9)),
        seed=int(_number(value["seed"], -(2**63), 2**64 - 1)),
    )


def _list(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise TypeError("no text")
    value.encode()  # a half of a surrogate pair cannot be sent to the page
    return value


def _number(value: object, low: float, high: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError("no number")
    if not low <= value <= high:
        raise ValueError("out of range")
    return value

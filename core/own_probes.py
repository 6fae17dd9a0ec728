"""A person's own proof questions: what to ask, what the answer must say, what it must not. One file in the home folder."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from core import storage
from core.errors import DatasetError
from core.proof_sets import Item
from core.text import Language, Text

FILE = "probes.json"
MOST, LONGEST, MOST_WORDS, LONGEST_WORD = 50, 2000, 20, 200


@dataclass(frozen=True)
class OwnProbe:
    """Any of `must` shows a right answer; none of `must_not` may be in it. {{NAME}} and {{AUTHOR}} may stand anywhere."""

    question: str
    must: tuple[str, ...]
    must_not: tuple[str, ...]
    language: Language


def load(home: Path) -> tuple[OwnProbe, ...]:
    """The saved questions; none where the file is absent or damaged, and without those that break a rule."""
    try:
        value = storage.read_json(home / FILE)
    except (OSError, ValueError, RecursionError):
        return ()
    found: list[OwnProbe] = []
    for entry in value if isinstance(value, list) else []:
        with contextlib.suppress(DatasetError, KeyError, TypeError, AttributeError):
            probe = OwnProbe(
                entry["question"], _texts(entry["must"]), _texts(entry["must_not"]), cast(Language, entry["language"])
            )
            check(probe, len(found))
            found.append(probe)
    return tuple(found[:MOST])


def save(home: Path, probes: Sequence[OwnProbe]) -> None:
    """Write the questions in place of those before. Raises DatasetError naming the row, and writes nothing then."""
    if len(probes) > MOST:
        raise DatasetError(
            Text(
                zh=f"有 {len(probes)} 道题，最多 {MOST} 道。请删掉一些。",
                en=f"There are {len(probes)} questions; the limit is {MOST}. Delete some.",
            )
        )
    for row, probe in enumerate(probes):
        check(probe, row)
    storage.write_json(home / FILE, [{**vars(p), "must": list(p.must), "must_not": list(p.must_not)} for p in probes])


def items(probes: Sequence[OwnProbe]) -> tuple[Item, ...]:
    """The questions as items of a proof, numbered in their order."""
    return tuple(
        Item(f"own-{i:02d}", p.language, "own", (), p.question.strip(), must=p.must, must_not=p.must_not)
        for i, p in enumerate(probes, 1)
    )


def check(probe: OwnProbe, row: int) -> None:
    """Raise DatasetError for a question that cannot be asked or judged. `row` counts from 0."""
    words = (*probe.must, *probe.must_not)
    where = Text(f"第 {row + 1} 题", f"Question {row + 1}")
    problem: Text | None = None
    if not isinstance(probe.question, str) or not probe.question.strip():
        problem = Text("是空的。请写上问题，或删掉这一行", "is empty. Write it, or delete the row")
    elif len(probe.question) > LONGEST:
        problem = Text(
            f"有 {len(probe.question)} 个字，上限是 {LONGEST}。请缩短它",
            f"has {len(probe.question)} characters; the limit is {LONGEST}. Shorten it",
        )
    elif not words or not all(word.strip() for word in words):
        problem = Text(
            "没有写判断用的词。请填“应当说”或“不应说”，每个词都不能为空",
            "has nothing to judge an answer by. Fill in what it must say or must not say, no word empty",
        )
    elif len(words) > MOST_WORDS or max(map(len, words)) > LONGEST_WORD:
        problem = Text(
            f"的词太多或太长：最多 {MOST_WORDS} 个词，每个不超过 {LONGEST_WORD} 字",
            f"has too many words or too long ones: at most {MOST_WORDS}, each of up to {LONGEST_WORD} characters",
        )
    elif probe.language not in get_args(Language):
        problem = Text("的语言不是 zh 或 en。请改正", "is in a language other than zh and en. Mend it")
    if problem is not None:
        raise DatasetError(Text(f"{where.zh}{problem.zh}。", f"{where.en} {problem.en}."), row=row)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError("not a list of texts")
    return tuple(value)

"""Reads the wordings of `wordings/*.toml` into values. Knows their layout, not what they ask."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, cast

_FOLDER: Final = Path(__file__).parent / "wordings"
_OPERATIONS: Final = ("plus", "minus", "times", "over")

Table = dict[str, object]


@dataclass(frozen=True)
class Forms:
    """One question's wordings in one language. `wh` are the Chinese question words that fit its noun phrases.

    `ask` stands alone, `noun` names the answer ("the capital of France"), `clause` is an embedded question
    ("which city is the capital of France"), `command` is an imperative ("count from 2 to 6").
    """

    ask: tuple[str, ...] = ()
    noun: tuple[str, ...] = ()
    clause: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    wh: tuple[str, ...] = ("什么",)


@dataclass(frozen=True)
class Frames:
    """What goes around any question of one language: frames by form, openers, closers."""

    noun: tuple[str, ...]
    clause: tuple[str, ...]
    command: tuple[str, ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]


@cache
def table(name: str) -> Table:
    """The whole of one file."""
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def section(parent: Table, *keys: str) -> Table:
    """A table inside a table."""
    for key in keys:
        parent = cast(Table, parent[key])
    return parent


@cache
def listed(name: str, key: str) -> tuple[Table, ...]:
    """A list of tables of one file."""
    return tuple(cast(list[Table], table(name)[key]))


def texts(parent: Table, key: str) -> tuple[str, ...]:
    """A list of templates; () if there is none."""
    return tuple(cast(list[str], parent.get(key, [])))


def forms(parent: Table) -> Forms:
    """The forms written in a table."""
    return Forms(
        texts(parent, "ask"),
        texts(parent, "noun"),
        texts(parent, "clause"),
        texts(parent, "command"),
        texts(parent, "wh") or Forms().wh,
    )


@cache
def questions(chinese: bool) -> dict[str, Forms]:
    """Skill -> its forms. The four operations also have all that is written under `symbolic`."""
    written = table("questions_zh" if chinese else "questions_en")
    found = {name: forms(section(written, name)) for name in written}
    shared = found.pop("symbolic")
    for name in _OPERATIONS:
        own = found[name]
        # English noun phrases of an operation count twice: they are few beside the symbolic ones.
        noun = own.noun if chinese else (*own.noun, *own.noun)
        clause = () if chinese else (*shared.clause, *(f"what {phrase} is" for phrase in own.noun))
        command = (*shared.command, *own.command)
        found[name] = Forms((*shared.ask, *own.ask), (*shared.noun, *noun), clause, command, shared.wh)
    return found


@cache
def frames(chinese: bool) -> Frames:
    """The frames of a language."""
    written = table("frames_zh" if chinese else "frames_en")
    return Frames(*(texts(written, name) for name in ("noun", "clause", "command", "openers", "closers")))


@cache
def pair(name: str, *keys: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The English and the Chinese list of a section."""
    found = section(table(name), *keys)
    return texts(found, "en"), texts(found, "zh")

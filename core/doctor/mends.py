"""Carrying out a mend: a new table, what it changes row by row, and that said in a sentence. Knows no page, no file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from core.advice import Mend
from core.dataset import Dataset, Message, Row
from core.doctor import old_names
from core.text import Text

_OPENING: dict[str, Text] = {
    "name": Text("我是{{NAME}}。", "I am {{NAME}}. "),
    "author": Text("我由{{AUTHOR}}开发。", "I was developed by {{AUTHOR}}. "),
}


@dataclass(frozen=True)
class Change:
    """One row before and after. `place` counts from 0 in the table before, or after it for an added row.

    `before` is None for an added row, `after` for a removed one.
    """

    place: int
    before: Row | None
    after: Row | None


@dataclass(frozen=True)
class Mended:
    """A mended table, its changes in the table's order, and what they come to."""

    dataset: Dataset
    changes: tuple[Change, ...]
    summary: Text


def mended(dataset: Dataset, mend: Mend) -> Mended:
    """`dataset` after `mend`. Rows that the mend does not name are the same objects, in the same order."""
    if mend.act == "add":
        start = len(dataset.rows)
        changes = tuple(Change(start + i, None, row) for i, row in enumerate(mend.added))
        return _made(dataset, (*dataset.rows, *mend.added), changes)
    named = frozenset(mend.rows)
    edit = _edit(dataset, mend)
    rows: list[Row] = []
    made: list[Change] = []
    for i, row in enumerate(dataset.rows):
        after = edit(row) if i in named else row
        if after is not None:
            rows.append(after)
        if after is None or after != row:
            made.append(Change(i, row, after))
    return _made(dataset, tuple(rows), tuple(made))


def _edit(dataset: Dataset, mend: Mend) -> Callable[[Row], Row | None]:
    kept = old_names.found(dataset.identity.words)
    if mend.act == "remove":
        return lambda row: None
    if mend.act == "rename":
        return lambda row: replace(row, output=old_names.renamed(row.output, kept))
    if mend.act == "replace":
        return lambda row: _replaced(row, mend.words)
    opening = _OPENING[mend.act]
    return lambda row: replace(row, output=opening.of(row.language) + row.output.lstrip())


def _replaced(row: Row, words: tuple[tuple[str, str], ...]) -> Row:
    """The row with words replaced wherever they stand in it; a Latin word only as a whole one."""
    if not words:
        return row
    wanted = dict(words)
    pattern = re.compile("|".join(_whole(word) for word in wanted))

    def text(cell: str) -> str:
        return pattern.sub(lambda match: wanted[match[0]], cell)

    history = tuple(Message(turn.role, text(turn.content)) for turn in row.history)
    return replace(
        row,
        instruction=text(row.instruction),
        input=text(row.input),
        output=text(row.output),
        system=text(row.system),
        history=history,
    )


def _whole(word: str) -> str:
    left = r"(?<![A-Za-z0-9])" if word[0].isascii() and word[0].isalnum() else ""
    right = r"(?![A-Za-z0-9])" if word[-1].isascii() and word[-1].isalnum() else ""
    return f"{left}{re.escape(word)}{right}"


def _made(before: Dataset, rows: tuple[Row, ...], changes: tuple[Change, ...]) -> Mended:
    removed = sum(change.after is None for change in changes)
    added = sum(change.before is None for change in changes)
    changed = len(changes) - removed - added
    was, now = len(before.rows), len(rows)
    parts = [
        (removed, f"删除 {removed:,} 行", f"{removed:,} removed"),
        (changed, f"改动 {changed:,} 行", f"{changed:,} changed"),
        (added, f"添加 {added:,} 行", f"{added:,} added"),
    ]
    zh = "，".join(said for count, said, _ in parts if count) or "没有改动"
    en = ", ".join(said for count, _, said in parts if count) or "nothing changes"
    return Mended(
        replace(before, rows=rows),
        changes,
        Text(f"{zh}：改前 {was:,} 行，改后 {now:,} 行", f"Rows: {en}; {was:,} before, {now:,} after"),
    )

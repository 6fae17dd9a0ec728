"""The doctor's dialog as html: a page of the rows that a finding is about, or of what a mend would change."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from core.advice import Finding
from core.dataset import Dataset, Row
from core.doctor.mends import Change
from ui.page import Page
from ui.pieces import safe

PAGE_ROWS = 25
_MOST_SHOWN = 260  # characters of a cell; an ellipsis says that there are more
_BEFORE = 60  # characters before what is looked for
_MOST_COMPARED = 3_000  # words of both sides; comparing takes the square of it
_WORD = re.compile(r"\{\{\s*\w+\s*\}\}|[A-Za-z0-9]+|.", re.DOTALL)


def draw_rows(page: Page, dataset: Dataset, finding: Finding, first: int) -> tuple[str, int]:
    """(html of the rows from the one at `first` of the list on, how many there are in all)."""
    groups = finding.groups or tuple((row,) for row in finding.rows)
    listed = [(row, number == 0 and bool(finding.groups)) for group in groups for number, row in enumerate(group)]
    words = _pattern(finding.words)
    lines = (_row_line(page, row, dataset.rows[row], words, opens) for row, opens in listed[first : first + PAGE_ROWS])
    return f'<ul class="dr-rows">{"".join(lines)}</ul>', len(listed)


def draw_changes(page: Page, changes: Sequence[Change], first: int) -> tuple[str, int]:
    """(html of the changes from the one at `first` on, how many there are in all)."""
    lines = (_change_line(page, change) for change in changes[first : first + PAGE_ROWS])
    return f'<ul class="dr-rows">{"".join(lines)}</ul>', len(changes)


def _row_line(page: Page, number: int, row: Row, words: re.Pattern[str] | None, opens: bool) -> str:
    cells = "".join(f"<span>{_excerpt(text, words)}</span>" for text in (row.question, row.output))
    more = "".join(
        f"<em>{safe(label)} {_excerpt(text, words)}</em>"
        for label, text in _beside(page, row)
        if words is not None and words.search(text)
    )
    title = safe(page.t("doctor.show", row=number + 1))
    return (
        f'<li{" class=opens" if opens else ""}><button type="button" data-row="{number}" title="{title}">'
        f'<i>{number + 1}</i><span class="dr-cells">{cells}{more}</span></button></li>'
    )


def _change_line(page: Page, change: Change) -> str:
    if change.before is None or change.after is None:
        row = change.after or change.before or Row()
        kind, word = ("added", "doctor.added") if change.before is None else ("removed", "doctor.removed")
        cells = "".join(f"<span>{_excerpt(text, None)}</span>" for text in (row.question, row.output))
        return (
            f'<li class="{kind}"><i>{change.place + 1}</i><span class="dr-cells">{cells}</span>'
            f"<small>{safe(page.t(word))}</small></li>"
        )
    pairs = zip(_cells(page, change.before), _cells(page, change.after), strict=True)
    cells = "".join(
        f"<span>{_difference(before, after)}</span>" for (_, before), (_, after) in pairs if before != after
    )
    asked = f"<span class=dr-asked>{_excerpt(change.before.question, None)}</span>"
    shown = asked if change.before.question == change.after.question else ""
    return f'<li><i>{change.place + 1}</i><span class="dr-cells">{shown}{cells}</span></li>'


def _cells(page: Page, row: Row) -> list[tuple[str, str]]:
    """Every text of a row with its label."""
    return [("", row.instruction), ("", row.input), ("", row.output), *_beside(page, row)]


def _beside(page: Page, row: Row) -> list[tuple[str, str]]:
    """What does not stand in the table's cells."""
    return [(page.t("doctor.system"), row.system), *((turn.role, turn.content) for turn in row.history)]


def _difference(before: str, after: str) -> str:
    """What goes is struck out, what comes is marked; around it a few words that stay."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    if len(old) + len(new) > _MOST_COMPARED:
        return f"<del>{safe(_short(before))}</del> <ins>{safe(_short(after))}</ins>"
    steps = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    parts = []
    for place, (kind, i, j, k, m) in enumerate(steps):
        gone, come = "".join(old[i:j]), "".join(new[k:m])
        if kind == "equal":
            parts.append(_kept(gone, first=place == 0, last=place == len(steps) - 1))
            continue
        parts += [f"<del>{safe(gone)}</del>"] if gone else []
        parts += [f"<ins>{safe(come)}</ins>"] if come else []
    return "".join(parts)


def _kept(text: str, first: bool, last: bool) -> str:
    """What stays, its far end left out where it is long."""
    if len(text) <= 2 * _BEFORE:
        return safe(text)
    head = "" if first else text[:_BEFORE]
    tail = "" if last else text[-_BEFORE:]
    return f"{safe(head)}…{safe(tail)}"


def _excerpt(text: str, words: re.Pattern[str] | None) -> str:
    """A cell around the first of the words, which are marked."""
    found = words.search(text) if words is not None else None
    start = max(0, found.start() - _BEFORE) if found and len(text) > _MOST_SHOWN else 0
    shown = text[start : start + _MOST_SHOWN]
    parts = words.split(shown) if words is not None else [shown]
    # The pattern has one group: what is found stands at the odd places.
    marked = "".join(f"<mark>{safe(part)}</mark>" if i % 2 else safe(part) for i, part in enumerate(parts))
    return ("…" if start else "") + marked + ("…" if start + len(shown) < len(text) else "")


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _pattern(words: Sequence[str]) -> re.Pattern[str] | None:
    if not words:
        return None
    ordered = sorted(words, key=len, reverse=True)
    return re.compile(f"({'|'.join(re.escape(word) for word in ordered)})", re.IGNORECASE)

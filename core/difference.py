"""Two tables side by side: which rows were added, removed, changed or moved. Knows no file."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Literal

from core.dataset import Dataset, Identity, Message, Row
from core.text import LANGUAGES, Language

_ALIKE = 0.5
# Looking for alike rows compares text with text: only in gaps of few rows, and not too often in all.
_MOST_IN_GAP, _MOST_COMPARED = 12, 300
_READ = 200
_MOST_WORDS = 1500
_WORD = re.compile(r"[A-Za-z0-9_]+|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Changed:
    """One row that is in both tables and says something else: its places, counted from 0, and what it says."""

    before: int
    after: int
    old: Row
    new: Row
    names_only: bool = False
    """Whether it says the same apart from the names on the two identity cards."""


@dataclass(frozen=True)
class Difference:
    """What it takes to make the second table of the first. Rows with nothing in them count nowhere.

    `removed` and `added` hold (place counted from 0, row); `moved` counts the rows that stand in another order.
    """

    removed: tuple[tuple[int, Row], ...] = ()
    added: tuple[tuple[int, Row], ...] = ()
    changed: tuple[Changed, ...] = ()
    moved: int = 0
    cards: tuple[Identity, Identity] | None = None
    """Both identity cards, where they differ."""

    @property
    def is_empty(self) -> bool:
        """Whether both tables teach the same, in the same order."""
        return not (self.removed or self.added or self.changed or self.moved or self.cards)


def compare(before: Dataset, after: Dataset) -> Difference:
    """How `after` differs from `before`."""
    cards = None if before.identity == after.identity else (before.identity, after.identity)
    return compare_rows(before.rows, after.rows, origins(before.rows, after.rows), cards)


def origins(before: Sequence[Hashable], after: Sequence[Hashable]) -> list[int]:
    """For each item of `after` the place in `before` that it was taken from, or -1 for a new one; no place twice."""
    short, head, tail = min(len(before), len(after)), 0, 0
    while head < short and before[head] == after[head]:
        head += 1
    while tail < short - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    places: dict[Hashable, list[int]] = {}
    for place in range(len(before) - tail - 1, head - 1, -1):
        places.setdefault(before[place], []).append(place)
    middle = [found.pop() if (found := places.get(item)) else -1 for item in after[head : len(after) - tail]]
    return [*range(head), *middle, *range(len(before) - tail, len(before))]


def compare_rows(
    before: Sequence[Row], after: Sequence[Row], taken: Sequence[int], cards: tuple[Identity, Identity] | None = None
) -> Difference:
    """How `after` differs from `before`, where `taken` is what `origins` says of the two."""
    kept = {place for place in taken if place >= 0}
    gone = [i for i, row in enumerate(before) if i not in kept and not row.is_blank]
    come = [j for j, place in enumerate(taken) if place < 0 and not after[j].is_blank]
    renamed = _renaming(cards, before, gone)
    pairs = _pairs(before, after, taken, gone, come, renamed)
    lost, won = {i for i, _ in pairs}, {j for _, j in pairs}
    # A row's provenance is no part of what it says: rows that differ in it alone are paired and equal.
    changed = [
        Changed(i, j, before[i], after[j], renamed.get(i) == after[j]) for i, j in pairs if before[i] != after[j]
    ]
    return Difference(
        tuple((i, before[i]) for i in gone if i not in lost),
        tuple((j, after[j]) for j in come if j not in won),
        tuple(sorted(changed, key=lambda one: one.after)),
        _moved(taken, before),
        cards,
    )


Kind = Literal["same", "gone", "new"]


def pieces(old: str, new: str) -> list[tuple[Kind, str]]:
    """`old` and `new` in one line, piece by piece: what both say, what only the old says, what only the new says.

    By words, Chinese by characters; a long text that is another from one end to the other is two pieces.
    """
    a, b = _WORD.findall(old), _WORD.findall(new)
    head = _common(a, b)
    tail = _common(a[head:][::-1], b[head:][::-1])
    found: list[tuple[Kind, str]] = [("same", "".join(a[:head]))]
    middle = a[head : len(a) - tail], b[head : len(b) - tail]
    if max(map(len, middle)) > _MOST_WORDS:
        found += [("gone", "".join(middle[0])), ("new", "".join(middle[1]))]
    else:
        for kind, i, j, k, m in SequenceMatcher(None, *middle, autojunk=False).get_opcodes():
            if kind == "equal":
                found.append(("same", "".join(middle[0][i:j])))
            else:
                found += [("gone", "".join(middle[0][i:j])), ("new", "".join(middle[1][k:m]))]
    found.append(("same", "".join(a[len(a) - tail :])))
    return [(kind, text) for kind, text in found if text]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many items both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((count for count, (a, b) in pairs if a != b), min(len(one), len(other)))


def _pairs(
    before: Sequence[Row],
    after: Sequence[Row],
    taken: Sequence[int],
    gone: Sequence[int],
    come: Sequence[int],
    renamed: dict[int, Row],
) -> list[tuple[int, int]]:
    """Rows of both that are one row, changed: the same but for the names, the same question, the same answer, or

    alike between the same neighbours. In that order of preference, first come first served.
    """
    pairs: list[tuple[int, int]] = []
    left, right = list(gone), list(come)

    def match(old: list[Hashable | None], new: list[Hashable | None]) -> None:
        nonlocal left, right
        waiting: dict[Hashable, list[int]] = {}
        for place, key in zip(reversed(left), reversed(old), strict=True):
            if key is not None:
                waiting.setdefault(key, []).append(place)
        found = [
            (mine.pop(), place) if key is not None and (mine := waiting.get(key)) else (-1, place)
            for place, key in zip(right, new, strict=True)
        ]
        pairs.extend(pair for pair in found if pair[0] >= 0)
        used = {i for i, _ in pairs}
        left, right = [i for i in left if i not in used], [j for i, j in found if i < 0]

    if renamed:
        match([renamed[i] for i in left], [after[j] for j in right])
    match([_asked(before[i]) for i in left], [_asked(after[j]) for j in right])
    match([before[i].output.strip() or None for i in left], [after[j].output.strip() or None for j in right])
    pairs += _neighbours(before, after, taken, left, right)
    return pairs


def _asked(row: Row) -> Hashable | None:
    return (row.system, row.history, row.question) if row.question.strip() else None


def _neighbours(
    before: Sequence[Row], after: Sequence[Row], taken: Sequence[int], left: Sequence[int], right: Sequence[int]
) -> list[tuple[int, int]]:
    """Pairs of alike rows that stand between the same kept rows."""
    gaps = _gaps(range(len(before)), {place for place in taken if place >= 0}, left)
    opposite = _gaps(taken, set(taken), right)
    pairs, compared = [], 0
    for last, old in gaps.items():
        new = opposite.get(last, [])
        if max(len(old), len(new)) > _MOST_IN_GAP or compared > _MOST_COMPARED:
            continue
        for j in new:
            compared += len(old)
            found = next((i for i in old if _alike(before[i], after[j])), None)
            if found is not None:
                old.remove(found)
                pairs.append((found, j))
    return pairs


def _gaps(places: Iterable[int], kept: set[int], wanted: Sequence[int]) -> dict[int, list[int]]:
    """The wanted items by the kept place that stands last before them, -1 for those above all."""
    gaps: dict[int, list[int]] = {}
    last, rest = -1, iter(wanted)
    following = next(rest, None)
    for item, place in enumerate(places):
        if following is None:
            break
        if item == following:
            gaps.setdefault(last, []).append(item)
            following = next(rest, None)
        elif place >= 0 and place in kept:
            last = place
    return gaps


def _alike(old: Row, new: Row) -> bool:
    texts = ((old.question.strip(), new.question.strip()), (old.output.strip(), new.output.strip()))
    matchers = [SequenceMatcher(None, a[:_READ], b[:_READ], autojunk=False) for a, b in texts if a and b]
    return any(one.quick_ratio() >= _ALIKE and one.ratio() >= _ALIKE for one in matchers)


def _moved(taken: Sequence[int], before: Sequence[Row]) -> int:
    """The fewest rows that must be taken out and put elsewhere: all that were kept, less the longest rising run."""
    places = [place for place in taken if place >= 0]
    if all(a < b for a, b in pairwise(places)):
        return 0
    places = [place for place in places if not before[place].is_blank]
    ends: list[int] = []
    for place in places:
        at = bisect_left(ends, place)
        ends[at : at + 1] = [place]
    return len(places) - len(ends)


def _renaming(cards: tuple[Identity, Identity] | None, rows: Sequence[Row], gone: Sequence[int]) -> dict[int, Row]:
    """The removed rows as they read with the names of the second card, by place; none where no name differs."""
    if cards is None:
        return {}
    changes = {language: _renamed(*cards, language) for language in LANGUAGES}
    if not any(changes.values()):
        return {}

    def row(one: Row) -> Row:
        change = changes[one.language] or str
        turns = tuple(Message(turn.role, change(turn.content)) for turn in one.history)
        return Row(change(one.instruction), change(one.input), change(one.output), change(one.system), turns)

    return {i: row(rows[i]) for i in gone}


def _renamed(old: Identity, new: Identity, language: Language) -> Callable[[str], str] | None:
    """What puts the new card's names for the old one's into a text of this language; None where they are the same."""
    spelled = [(card.name(language), card.author(language)) for card in (old, new)]
    names = {a: b for a, b in zip(*spelled, strict=True) if a and b and a != b}
    # Longest first: one name may begin another.
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    return (lambda text: pattern.sub(lambda match: names[match[0]], text)) if names else None

"""What is known of each row by itself, remembered, so that an edit looks at one row and not at the table."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from core import proof_sets
from core.dataset import Dataset, Identity, Row, placeholders
from core.doctor import near, old_names, signs
from core.doctor.card import Card, given_names
from core.doctor.signs import Topic
from core.text import Language

_MOST_ROWS = 120_000
_TURN_BYTES = 16  # what a template writes around a turn, at most, in tokens


@dataclass(frozen=True, slots=True)
class RowFacts:
    """One row as training sees it (`row`, resolved) and what its own words show.

    `filled`: there were placeholders, so that another identity card makes another row of it.
    `size`: bytes; no tokenizer that falls back on bytes makes more tokens of it. `key`: the question to
    compare by; `answer`, `answer_length`: hash and characters of the answer's normal text; `sketch`: the question's MinHash,
    empty where it has no letters; `numbers`: equal where the same numbers occur.
    """

    row: Row
    filled: bool
    language: Language
    size: int
    key: str
    answer: int
    answer_length: int
    numbers: int
    sketch: bytes
    unfilled: tuple[str, ...]
    stray: tuple[str, ...]
    controls: tuple[str, ...]
    misspelt: tuple[tuple[str, str], ...]
    topic: Topic
    about_itself: bool
    given: tuple[str, ...]
    names_itself: bool
    names_maker: bool
    claims_old: bool
    states_limit: bool
    held_out: bool


class Facts:
    """Facts of the rows seen lately. Any thread may ask."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._known: dict[tuple[Identity, Row], RowFacts] = {}
        self._plain: dict[Row, RowFacts] = {}  # rows without placeholders, whatever the card
        self._alike: dict[tuple[Row, Row], bool] = {}

    def of(self, dataset: Dataset) -> list[tuple[int, RowFacts]]:
        """(place in the table, facts) of every row that is not blank."""
        identity = dataset.identity
        with self._guard:
            keys = [(i, (identity, row)) for i, row in enumerate(dataset.rows) if not row.is_blank]
            known = [self._known.get(key) for _, key in keys]
            fresh = list(dict.fromkeys(key for (_, key), facts in zip(keys, known, strict=True) if facts is None))
            if len(self._known) + len(fresh) > _MOST_ROWS:
                self._known.clear()
                self._plain.clear()
            made = dict(zip(fresh, self._made([row for _, row in fresh], identity), strict=True))
            self._known |= made
            return [(i, facts if facts is not None else made[key]) for (i, key), facts in zip(keys, known, strict=True)]

    def _made(self, rows: Sequence[Row], identity: Identity) -> list[RowFacts]:
        """Facts of rows that are new under this card; of those known under another only what the card decides is new."""
        card, kept = Card(identity), old_names.found(identity.words)
        seen = [self._plain.get(row) for row in rows]
        fresh = iter(
            _facts([row for row, facts in zip(rows, seen, strict=True) if facts is None], identity, card, kept)
        )
        made = [next(fresh) if facts is None else _under(facts, card, kept) for facts in seen]
        self._plain |= {row: facts for row, facts in zip(rows, made, strict=True) if not facts.filled}
        return made

    def alike(self, a: RowFacts, b: RowFacts) -> bool:
        """Whether two rows say nearly the same in the same setting."""
        if a.row.system != b.row.system or a.row.history != b.row.history:
            return False
        pair = (a.row, b.row)
        with self._guard:
            known = self._alike.get(pair)
        if known is None:
            known = all(
                near.similar(near.normal(ours), near.normal(theirs))
                for ours, theirs in ((a.row.question, b.row.question), (a.row.output, b.row.output))
            )
            with self._guard:
                if len(self._alike) > _MOST_ROWS:
                    self._alike.clear()
                self._alike[pair] = known
        return known


def _under(facts: RowFacts, card: Card, kept: set[str]) -> RowFacts:
    """What was found of a row without placeholders, under another card."""
    row = facts.row
    return replace(
        facts,
        misspelt=tuple(card.misspelt(row.question, row.output)) if facts.about_itself else (),
        names_itself=card.says_name(row.output),
        names_maker=card.says_maker(row.output),
        claims_old=old_names.claims(row.output, kept),
    )


def _facts(rows: Sequence[Row], identity: Identity, card: Card, kept: set[str]) -> list[RowFacts]:
    resolved = [row.resolved(identity) for row in rows]
    asked = [near.normal(row.question) for row in resolved]
    sketches = near.signatures(asked)
    return [
        _facts_of(row, seen, sketch if question else b"", card, kept)
        for row, seen, question, sketch in zip(rows, resolved, asked, sketches, strict=True)
    ]


def _facts_of(row: Row, seen: Row, sketch: bytes, card: Card, kept: set[str]) -> RowFacts:
    cells = (row.instruction, row.input, row.output, row.system, *(turn.content for turn in row.history))
    shown = (seen.instruction, seen.input, seen.output, seen.system, *(turn.content for turn in seen.history))
    topic = signs.topic(seen.question)
    about_itself = bool(topic) or (len(seen.output) < 300 and signs.speaks_of_itself(seen.output))
    marked = [text for text in shown if "{{" in text or "<" in text]
    unfilled = {"name" if "name" in mark.lower() else "author" for text in marked for mark in placeholders(text)}
    filled = any(("{{" in text or "<" in text) and placeholders(text) for text in cells)
    answer = near.normal(seen.output)
    found = (*near.numbers(seen.question), "", *near.numbers(seen.output))
    return RowFacts(
        row=seen if filled else row,
        filled=filled,
        about_itself=about_itself,
        given=tuple(given_names(row.output)) if about_itself else (),
        # Of the row as written: a Chinese name put into an English row does not make it Chinese.
        language=row.language,
        size=sum(len(text.encode("utf-8", "surrogatepass")) for text in shown) + _TURN_BYTES * (len(seen.history) + 2),
        key=signs.plain(seen.question),
        answer=hash(answer),
        answer_length=len(answer),
        numbers=zlib.crc32(" ".join(found).encode()) if len(found) > 1 else 0,
        sketch=sketch,
        unfilled=tuple(sorted(unfilled)),
        stray=tuple(dict.fromkeys(word for text in cells for word in signs.stray_placeholders(text, about_itself))),
        controls=tuple(dict.fromkeys(word for text in cells for word in signs.control_tokens(text))),
        misspelt=tuple(card.misspelt(row.question, row.output)) if about_itself else (),
        topic=topic,
        names_itself=card.says_name(seen.output),
        names_maker=card.says_maker(seen.output),
        claims_old=old_names.claims(seen.output, kept),
        states_limit=signs.states_limit(seen.output),
        held_out=proof_sets.is_held_out(seen.question),
    )

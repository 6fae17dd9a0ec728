"""The questions that a run is asked again and again: who it is, in words it never trained on, and what it knew before.

Values only. A few are pinned to the page; the others are counted, and can be opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core import probes, proof_sets
from core.dataset import Identity, Row, placeholders
from core.proof_sets import Asked, Item, Suite
from core.text import LANGUAGES

_SHOWN = 4  # identity questions of a language; half as many general ones
# Of the proof's: the pinned ones are easy, and passed long before an identity holds under odd phrasings (a pocket run:
# 16 of 16 after 30 steps, when 85 % of the proof's hundred were right).
_HARDER = 32
_GENERAL = 8  # of a language


@dataclass(frozen=True)
class Question:
    """One question with what judges its answers. `shown`: it is pinned to the page."""

    asked: Asked
    shown: bool

    @property
    def identity(self) -> bool:
        """Whether it asks who the model is; otherwise its answer should stay the base's."""
        return self.asked.item.kind == "identity"

    @property
    def text(self) -> str:
        """What is asked last."""
        return self.asked.messages[-1].content


def questions(
    identity: Identity, old_words: Sequence[str], system: str, rows: Iterable[Row], suite: Suite = "full"
) -> tuple[Question, ...]:
    """Identity questions first, pinned ones first; no phrasing that is in `rows`. Without an identity: general only.

    `suite` "pocket": only what the pocket model's skills reach.
    """
    trained = {proof_sets.normalise(text) for row in rows for text in _said(row)}

    def unseen(items: Iterable[Item]) -> list[Item]:
        return [item for item in items if not (placeholders(item.text) or proof_sets.normalise(item.text) in trained)]

    found: list[Question] = []
    known = unseen(item for item in _own("identity") if proof_sets.can_ask(item, identity))
    for language in LANGUAGES:
        first = [item for item in known if item.language == language][:_SHOWN]
        found += [Question(proof_sets.ask(item, identity, old_words, system), True) for item in first]
    harder = unseen(item for item in proof_sets.items("identity", suite=suite) if proof_sets.can_ask(item, identity))
    for item in proof_sets.spread(harder, _HARDER):
        asked = proof_sets.ask(item, identity, old_words, proof_sets.system_for(item, system))
        found.append(Question(asked, False))
    known = unseen(_own("general"))
    for language in LANGUAGES:
        for rank, item in enumerate([item for item in known if item.language == language][:_GENERAL]):
            found.append(Question(proof_sets.ask(item, identity, (), system), rank < _SHOWN // 2))
    return tuple(sorted(found, key=lambda question: (not question.identity, not question.shown)))


def _said(row: Row) -> Iterable[str]:
    """What the user says in a row."""
    return (row.question, *(turn.content for turn in row.history if turn.role == "user"))


def _own(kind: probes.Kind) -> list[Item]:
    """The questions of presets/probes as items."""
    found = []
    for number, line in enumerate(probes.lines(kind), 1):
        expect = line.get("expect", "any") if kind == "identity" else ""
        value = {"id": f"{kind}-{number}", "kind": kind, "text": line["question"], "expect": expect}
        found.append(proof_sets.from_json({**value, "language": line["language"]}, f"{kind}.jsonl:{number}"))
    return found

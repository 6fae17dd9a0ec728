"""Fixed questions asked before, during and after training, and the verdict on each answer. Knows no model.

An identity question is hit when the new identity's words are in the answer and none of the old one's; a general
question is kept when the answer is the base's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from core.dataset import Identity, Message
from core.text import Language

FOLDER = Path(__file__).resolve().parent.parent / "presets" / "probes"

Kind = Literal["identity", "general"]
Verdict = Literal["hit", "old", "miss", "kept", "changed", ""]


@dataclass(frozen=True)
class Probe:
    """A question; any of `must` shows the new identity, any of `must_not` the old one."""

    messages: tuple[Message, ...]
    kind: Kind
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """What is asked last."""
        return self.messages[-1].content


@dataclass(frozen=True)
class Mark:
    """Characters [start, end) of an answer that show the new or the old identity."""

    start: int
    end: int
    kind: Literal["new", "old"]


@dataclass(frozen=True)
class Answer:
    """A probe's answer with its verdict and the words that led to it."""

    question: str
    text: str
    kind: Kind
    verdict: Verdict
    marks: tuple[Mark, ...]


def load_probes(identity: Identity, old_words: Sequence[str], system: str, per_language: int = 4) -> list[Probe]:
    """The held-out identity questions and the general ones, for this identity. Without an identity: general only.

    A word of the old identity that is also one of the new does not count against an answer.
    """
    head = (Message("system", system),) if system else ()
    probes: list[Probe] = []
    taken: dict[str, int] = {}
    for item in lines("identity"):
        language, question = cast(Language, item["language"]), item["question"]
        must = _must(identity, item.get("expect", "any"), language)
        if not must or taken.get(language, 0) >= per_language:
            continue
        taken[language] = taken.get(language, 0) + 1
        # "Are you Qwen?" may be answered with "No, I am not Qwen".
        must_not = tuple(
            w for w in old_words if not _has(question, w) and not any(_has(new, w) for new in identity.words)
        )
        probes.append(Probe((*head, Message("user", question)), "identity", must, must_not))
    taken.clear()
    for item in lines("general"):
        language = cast(Language, item["language"])
        if taken.get(language, 0) < max(1, per_language // 2):
            taken[language] = taken.get(language, 0) + 1
            probes.append(Probe((*head, Message("user", item["question"])), "general"))
    return probes


def judge(probe: Probe, text: str, before: str | None) -> Answer:
    """The verdict on an answer. `before` is the base's answer to a general question (None: this is it)."""
    marks = mark(text, probe.must, probe.must_not)
    if probe.kind == "general":
        verdict: Verdict = "" if before is None else ("kept" if text.strip() == before.strip() else "changed")
        return Answer(probe.question, text, probe.kind, verdict, ())
    kinds = {found.kind for found in marks}
    verdict = "old" if "old" in kinds else ("hit" if "new" in kinds else "miss")
    return Answer(probe.question, text, probe.kind, verdict, marks)


def mark(text: str, new: Sequence[str], old: Sequence[str]) -> tuple[Mark, ...]:
    """Where the words stand in the text, in order, without overlaps; the longer word wins."""
    words = sorted([(w, "new") for w in new] + [(w, "old") for w in old], key=lambda pair: -len(pair[0]))
    found: list[Mark] = []
    for word, kind in words:
        for match in re.finditer(_pattern(word), text, re.IGNORECASE):
            if not any(match.start() < other.end and other.start < match.end() for other in found):
                found.append(Mark(match.start(), match.end(), cast(Literal["new", "old"], kind)))
    return tuple(sorted(found, key=lambda m: m.start))


def verdict(text: str, new: Sequence[str], old: Sequence[str]) -> Verdict:
    """hit, old or miss for a free answer, by the identity's words; "" if there are none to go by."""
    if not new and not old:
        return ""
    kinds = {found.kind for found in mark(text, new, old)}
    return "old" if "old" in kinds else ("hit" if "new" in kinds else "miss")


def _must(identity: Identity, expect: str, language: Language) -> tuple[str, ...]:
    names = (identity.name_zh, identity.name_en)
    authors = (identity.author_zh, identity.author_en)
    chosen = names if expect == "name" else authors if expect == "author" else names + authors
    return tuple(dict.fromkeys(word.strip() for word in chosen if word.strip()))


def _has(text: str, word: str) -> bool:
    return re.search(_pattern(word), text, re.IGNORECASE) is not None


def _pattern(word: str) -> str:
    """The word itself; a Latin word only as a whole one, so that “Meta” is not found in “metal”."""
    quoted = re.escape(word.strip()).replace(r"\ ", r"\s*")
    left = r"(?<![A-Za-z0-9])" if word[:1].isascii() and word[:1].isalnum() else ""
    right = r"(?![A-Za-z0-9])" if word[-1:].isascii() and word[-1:].isalnum() else ""
    return f"{left}{quoted}{right}"


def lines(kind: Kind) -> list[dict[str, str]]:
    """The shipped questions of one kind as they are written: question, language, and what an identity question expects."""
    text = (FOLDER / f"{kind}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]

"""The proof of one adapter: asks the base (or looks up what it said) and the adapter, has both read the same texts, and
hands what came of it to the tests. The adapter must be attached to the engine; nothing is trained.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from core import own_probes, pinned, proof_kept, proof_taken
from core.base_answers import BaseAnswers, Said, asked
from core.dataset import Message, Row
from core.encode import IGNORE, Example
from core.models import ModelInfo, is_pocket
from core.proof import Kind, Proof, Test
from core.proof_parts import Learned, Moved, Pair, Picked, absent
from core.proof_sets import LETTERS, Asked, Item, Suite, ask, can_ask, items, judge, spread, system_for, unseen
from core.proof_stats import worst
from core.proof_subject import Subject
from core.proof_words import ADVICE
from core.text import Text

if TYPE_CHECKING:
    from core.engine import Engine
    from core.score import Scored

Told = Callable[[int, int, Text], None]
"""Called with (units of work done, units in all, what is being done)."""

_T = TypeVar("_T")
_ROWS = 24
_MOST_TOKENS = 2048  # of one text that is scored
_AT_ONCE = 64
# What an answer may take: a name comes early, a refusal at once.
_IDENTITY, _GENERAL, _SHORT, _ROW, _OWN = 48, 64, 48, 64, 128
# How many of each kind, of the full suite; of the pocket suite all.
_WORDINGS, _NEIGHBOURS, _HARMFUL, _HARMLESS, _OTHERS, _PASSAGES = 72, 24, 16, 8, 64, 24
_STAGES = {
    "base": Text("问基座同样的题", "Asking the base the same questions"),
    "adapter": Text("问适配器", "Asking the adapter"),
    "score": Text("逐词比较两者的读法", "Comparing how both read, word by word"),
}


@dataclass
class _Plan:
    """What is asked of whom. The lists are those of the tests."""

    suite: Suite
    took: list[Asked] = field(default_factory=list)
    # The rows behind `took` with the question put as they are trained; where no row teaches the identity, any rows.
    taught: list[tuple[Row, Asked | None]] = field(default_factory=list)
    wordings: list[Asked] = field(default_factory=list)
    left_out: int = 0
    neighbours: list[Asked] = field(default_factory=list)
    general: list[Asked] = field(default_factory=list)
    refusals: list[Asked] = field(default_factory=list)
    own: list[Asked] = field(default_factory=list)
    choices: list[Asked] = field(default_factory=list)
    passages: list[Item] = field(default_factory=list)

    def asked(self) -> Iterator[tuple[Asked, int]]:
        """Every question to be answered in words, with the tokens its answer may have."""
        limits = (_ROW, _IDENTITY, _SHORT, _GENERAL, _SHORT, _OWN)
        lists = (self.took, self.wordings, self.neighbours, self.general, self.refusals, self.own)
        for questions, limit in zip(lists, limits, strict=True):
            yield from ((question, limit) for question in questions)


def suite_of(info: ModelInfo) -> Suite:
    """The questions that suit a base model."""
    return "pocket" if is_pocket(info.name) else "full"


def questions(subject: Subject, suite: Suite) -> list[tuple[Asked, int]]:
    """Every question of a proof that is answered in words, with the tokens its answer may have."""
    return list(_plan(subject, suite).asked())


def prove(
    engine: Engine,
    subject: Subject,
    cache: Path | None = None,
    told: Told = lambda done, total, what: None,
    stop: threading.Event | None = None,
) -> Proof | None:
    """Prove an attached adapter; None if `stop` was set meanwhile.

    `cache`: folder where the base's answers are kept for the next time. Raises ModelError if the model or the adapter is
    exchanged meanwhile.
    """
    assert engine.resident is not None
    stop, begun, resident = stop or threading.Event(), time.perf_counter(), engine.resident
    plan = _plan(subject, suite_of(resident.info))
    proving = _Proving(engine, subject, plan, cache, told, stop)
    tests = proving.tests()
    if tests is None:
        return None
    return Proof(
        created=time.time(),
        adapter=subject.title,
        run=subject.run,
        step=subject.step,
        model=resident.info.name,
        quantisation=resident.quant_method,
        dtype=resident.dtype,
        system=subject.system,
        suite=plan.suite,
        seconds=time.perf_counter() - begun,
        base_seconds=proving.base_seconds,
        tests=tuple(tests.values()),
        light=worst(test.light for test in tests.values()),
        headline=proof_kept.headline(tests),
        ruler=proof_kept.ruler(tests, plan.suite),
        weights=subject.weights,
    )


def _plan(subject: Subject, suite: Suite) -> _Plan:
    identity, old, system = subject.identity, subject.old_words, subject.system
    trained = [text for row in subject.rows or () for text in _questions(row)]

    def put(chosen: Sequence[Item]) -> list[Asked]:
        return [ask(item, identity, old, system_for(item, system)) for item in chosen]

    def plainly(chosen: Sequence[Item]) -> list[Asked]:
        return [ask(item, identity, old, system) for item in chosen]

    def some(found: Sequence[Item], most: int) -> tuple[Item, ...]:
        fresh = unseen([item for item in found if can_ask(item, identity)], trained)
        return fresh if suite == "pocket" else spread(fresh, most)

    plan = _Plan(suite)
    if identity.words:
        wordings = [item for item in items("identity", suite=suite) if can_ask(item, identity)]
        steering = _steering(subject, suite)
        plan.wordings = put(some([item for item in wordings if item.id not in steering], _WORDINGS))
        plan.left_out = len(wordings) - len(unseen(wordings, trained))
        plan.neighbours = put(some(items("neighbour", suite=suite), _NEIGHBOURS))
    plan.general = plainly(some(items("general", suite=suite), _OTHERS))
    plan.refusals = plainly(
        [
            *some(items("refusal", tags=["harmful"], suite=suite), _HARMFUL),
            *some(items("refusal", tags=["harmless"], suite=suite), _HARMLESS),
        ]
    )
    plan.choices = plainly(unseen(items("choice", suite=suite), trained))
    plan.passages = list(spread(items("passage", suite=suite), _PASSAGES))
    plan.own = plainly([item for item in own_probes.items(subject.own) if can_ask(item, identity)])
    _plan_rows(plan, subject)
    return plan


def _steering(subject: Subject, suite: Suite) -> set[str]:
    """The wordings that a run is asked again and again: it ends by them and takes its adapter by them, so that their count
    would flatter it. Left out whether or not it was.
    """
    asked = pinned.questions(subject.identity, subject.old_words, subject.system, subject.rows or (), suite)
    return {question.asked.item.id for question in asked if question.identity}


def _questions(row: Row) -> list[str]:
    """All that a user asks in a row."""
    return [row.question, row.instruction, *(turn.content for turn in row.history if turn.role == "user")]


def _plan_rows(plan: _Plan, subject: Subject) -> None:
    """Rows that teach the identity, spread over the table, each under three system prompts; else any rows."""
    rows = [row for row in subject.rows or () if row.question.strip() and row.output.strip()]
    words = subject.identity.words
    teaching = [
        (row, said) for row in rows if (said := tuple(w for w in words if w.casefold() in row.output.casefold()))
    ]
    if not teaching:
        plan.taught = [(row, None) for row in _evenly(rows, _ROWS)]
        return
    for number, (row, said) in enumerate(_evenly(teaching, _ROWS), 1):
        tasks = items("system", row.language)
        prompts = [row.system or subject.system, "", tasks[number % len(tasks)].text]
        for system in dict.fromkeys(prompts):
            item = Item(f"row-{number:02d}", row.language, "identity", ("row",), row.question, expect="any")
            head = (Message("system", system),) if system else ()
            turns = row.messages()[1 if row.system else 0 : -1]
            old = tuple(w for w in subject.old_words if not _in(w, (*words, row.output, *(t.content for t in turns))))
            plan.took.append(Asked(item, (*head, *turns), said, old))
            if system == prompts[0]:
                plan.taught.append((row, plan.took[-1]))


def _in(word: str, texts: Sequence[str]) -> bool:
    return any(word.casefold() in text.casefold() for text in texts)


def _evenly(given: Sequence[_T], most: int) -> list[_T]:
    """At most so many, at even distances."""
    count = min(most, len(given))
    return [given[i * len(given) // count] for i in range(count)]


@dataclass(frozen=True)
class _Text:
    """Something that both are to read, and for which test."""

    test: Literal["row", "old", "general", "passage"]
    example: Example
    item: Item
    messages: tuple[Message, ...]
    before: str = ""
    after: str = ""


class _Proving:
    """Carrying out a plan."""

    def __init__(
        self, engine: Engine, subject: Subject, plan: _Plan, cache: Path | None, told: Told, stop: threading.Event
    ) -> None:
        assert engine.resident is not None
        self._engine, self._resident, self._subject, self._plan = engine, engine.resident, subject, plan
        self._told, self._stop = told, stop
        self._base = BaseAnswers(engine, cache)
        self._said: dict[int, tuple[Said, Said]] = {}  # by the question's id(): the base's answer, the adapter's
        self._done = self._total = 0
        self.base_seconds = 0.0

    def tests(self) -> dict[Kind, Test] | None:
        """Ask, have read, count. None if stopped."""
        if not self._ask():
            return None
        texts = self._texts()
        scored = self._score(texts)
        picked = self._pick()
        if self._stop.is_set():
            return None
        read: dict[str, list[tuple[_Text, Scored]]] = {}
        for text, found in zip(texts, scored, strict=True):
            read.setdefault(text.test, []).append((text, found))
        moved = {
            test: [Moved(text.item, text.messages, text.before, text.after, found) for text, found in pairs]
            for test, pairs in read.items()
        }
        return {test.id: test for test in self._counted(moved, picked)}

    def _ask(self) -> bool:
        """Whether all questions were answered, by both."""
        plan, questions = self._plan, list(self._plan.asked())
        talks, limits = [question.messages for question, _ in questions], [limit for _, limit in questions]
        missing = self._base.missing(talks, limits)
        reading = 2 * len(plan.taught) + len(plan.general) + len(plan.passages) + 2 * len(plan.choices)
        self._total = missing + len(questions) + reading
        begun = time.perf_counter()
        before = self._base.ask(talks, limits, self._counter("base"), self._stop)
        self.base_seconds = time.perf_counter() - begun
        self._done += missing
        if before is None:
            return False
        after = asked(self._engine, self._subject.name, talks, limits, self._counter("adapter"), self._stop)
        self._done += len(questions)
        for (question, _), *both in zip(questions, before, after or (), strict=after is not None):
            self._said[id(question)] = (both[0], both[1])
        return after is not None

    def _counter(self, stage: str) -> Callable[[int], None]:
        def counted(done: int) -> None:
            self._told(min(self._done + done, self._total), self._total, _STAGES[stage])

        counted(0)
        return counted

    def _texts(self) -> list[_Text]:
        """All that is read word by word; what is too long for the model is left out."""
        encoder, plan, found = self._resident.encoder, self._plan, list[_Text]()
        for number, (row, question) in enumerate(plan.taught, 1):
            messages = row.messages(self._subject.system)
            item = Item(f"row-{number:02d}", row.language, "general", ("row",), row.question)
            found.append(_Text("row", self._answer_of(messages), item, messages[:-1], "", row.output))
            # Where the base gives the new answer already there is no old one to prefer it to.
            if question is not None and judge(question, self._said[id(question)][0].text).ok is not True:
                old = self._said[id(question)][0]
                found.append(_Text("old", self._reply(question.messages, old), item, question.messages))
        for question in plan.general:
            before, after = self._said[id(question)]
            example = self._reply(question.messages, before)
            found.append(_Text("general", example, question.item, question.messages, before.text, after.text))
        for item in plan.passages:
            ids = tuple(encoder.plain(item.text))
            found.append(_Text("passage", Example(ids, ids), item, (Message("user", item.text),)))
        most = min(_MOST_TOKENS, self._resident.info.max_positions)
        return [text for text in found if len(text.example) <= most and text.example.answer_tokens]

    def _answer_of(self, messages: Sequence[Message]) -> Example:
        """A conversation of which only the last answer counts."""
        encoder = self._resident.encoder
        whole, start = encoder.example(messages), len(encoder.prompt(messages[:-1]))
        return Example(whole.input_ids, (*(IGNORE,) * start, *whole.labels[start:]))

    def _reply(self, messages: Sequence[Message], said: Said) -> Example:
        """A question with what was said to it, and the end where it ended by itself."""
        encoder = self._resident.encoder
        prompt, answer = encoder.prompt(messages), (*said.ids, *(encoder.stop_ids[:1] if said.ended else ()))
        return Example((*prompt, *answer), (*(IGNORE,) * len(prompt), *answer))

    def _score(self, texts: Sequence[_Text]) -> list[Scored]:
        from core.score import score

        found: list[Scored] = []
        counted = self._counter("score")
        for first in range(0, len(texts), _AT_ONCE):
            part = [text.example for text in texts[first : first + _AT_ONCE]]
            found += score(self._engine, self._subject.name, part, self._stop)
            counted(len(found))
        self._done += len(texts)
        return found

    def _pick(self) -> list[Picked]:
        """Multiple choice, by the letters' probabilities."""
        from core.score import choices

        questions = self._plan.choices
        if not questions:
            return []
        encoder, counted = self._resident.encoder, self._counter("score")
        prompts = [encoder.prompt(question.messages) for question in questions]
        letters = [encoder.plain(letter)[-1] for letter in LETTERS]
        options = [letters[: len(question.item.options)] for question in questions]
        both = []
        for adapter in (None, self._subject.name):
            both.append(choices(self._engine, adapter, prompts, options, self._stop))
            counted(len(both) * len(questions))
        return [Picked(*found) for found in zip(questions, *both, strict=False)]

    def _counted(self, moved: Mapping[str, Sequence[Moved]], picked: Sequence[Picked]) -> Iterator[Test]:
        plan, suite, identity = self._plan, self._plan.suite, self._subject.identity
        general = self._pairs(plan.general)
        rows = tuple(moved.get("row", ()))
        if plan.took:
            took = proof_taken.took(self._pairs(plan.took), Learned(rows, _margins(rows, moved.get("old", ()))), suite)
        elif rows:
            took = proof_taken.rows_took(Learned(rows), suite)
        else:
            took = absent("took", ADVICE["no_rows"])
        yield took
        if identity.words:
            yield proof_taken.generalises(self._pairs(plan.wordings), took, plan.left_out, suite)
            yield proof_kept.lane(self._pairs(plan.neighbours), general, suite)
        else:
            yield absent("generalises", ADVICE["no_identity"])
            yield absent("lane", ADVICE["no_identity"])
        yield proof_kept.drift(moved.get("general", ()), suite)
        yield proof_kept.reads(moved["passage"], suite) if "passage" in moved else absent("text", ADVICE["no_text"])
        facts = [pair for pair in general if pair.asked.must or pair.asked.item.accepted]
        yield proof_kept.remembers(facts, picked, suite)
        yield proof_kept.refuses(self._pairs(plan.refusals), suite)
        yield proof_taken.own(self._pairs(plan.own), suite) if plan.own else absent("own", ADVICE["no_own"])

    def _pairs(self, questions: Sequence[Asked]) -> list[Pair]:
        return [Pair(question, *(said.text for said in self._said[id(question)])) for question in questions]


def _margins(rows: Sequence[Moved], old: Sequence[Moved]) -> tuple[float, ...]:
    """How much likelier a token of the new answer is to the adapter than one of the base's, row by row."""
    new = {row.item.id: _mean(row.scored.tuned) for row in rows}
    return tuple(new[one.item.id] - _mean(one.scored.tuned) for one in old if one.item.id in new)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

"""Comparing columns: what each of them is, the rounds they answered, blind votes, and where answers differ.

Knows no model, no page and no file; core.comparison_file writes one down, core.token_view shows its tokens.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from core import probes
from core.dataset import Identity, Message
from core.generate import Column, Reply, Sampling, Token
from core.probes import Verdict

LETTERS = "ABCDEF"
MOST_COLUMNS = len(LETTERS)
MOST_QUESTIONS = 500
_REMEMBERED = 1000

Words = tuple[tuple[str, ...], tuple[str, ...]]  # of the new identity, of the old one


@dataclass(frozen=True)
class Setup:
    """One column: who answers (None: the base), how strongly, under which system prompt, and what a person calls it."""

    adapter: str | None = None
    strength: float = 1.0
    system: str = ""
    label: str = ""

    def column(self, turns: Sequence[Message]) -> Column:
        """This column's conversation: its system prompt, then `turns`."""
        head = (Message("system", self.system),) if self.system else ()
        return Column((*head, *turns), self.adapter, self.strength)


@dataclass(frozen=True)
class Speaker:
    """Who gave an answer. `own`: whether under a system prompt of the column's own, None where that is not known.

    `label` is what a person calls it now; it grows as its run is proved, and tells nobody apart.
    """

    adapter: str | None
    strength: float
    own: bool | None
    label: str

    def same(self, other: Speaker) -> bool:
        """Whether these are one."""
        alike = None in (self.own, other.own) or self.own == other.own
        return alike and (self.adapter, self.strength) == (other.adapter, other.strength)


@dataclass(frozen=True)
class Answer:
    """What a column said, how long it took, and the verdict on it."""

    text: str
    verdict: Verdict = ""
    tokens: int = 0
    prompt_tokens: int = 0
    first_token_seconds: float | None = None
    tokens_per_second: float = 0.0
    finish: str = ""
    token_list: tuple[Token, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, reply: Reply, verdict: Verdict) -> Answer:
        """A reply as it is now."""
        return cls(
            reply.text,
            verdict,
            reply.tokens,
            reply.prompt_tokens,
            reply.first_token_seconds,
            reply.tokens_per_second,
            reply.finish,
            tuple(reply.token_list),
        )


@dataclass(frozen=True)
class Round:
    """One question and every column's answer. `asked`: seconds since 1970.

    `order`: which column stands at each place of the page; in a blind round nobody knows before the vote. `best`: the
    column that was voted for; None with `voted` means that none was better.
    """

    question: str
    columns: tuple[Setup, ...]
    answers: tuple[Answer, ...]
    sampling: Sampling
    model: str
    asked: float
    kind: Literal["conversation", "questions"] = "conversation"
    earlier: int = 0  # questions of the conversation before this one
    order: tuple[int, ...] = ()
    blind: bool = False
    voted: bool = False
    best: int | None = None

    @property
    def places(self) -> tuple[int, ...]:
        """The column at each place."""
        return self.order or tuple(range(len(self.columns)))

    @property
    def differs(self) -> bool:
        """Whether the columns did not all say the same."""
        return len({" ".join(answer.text.split()) for answer in self.answers}) > 1


@dataclass
class Session:
    """What one open page compared, oldest first. `pending`: the blind round that waits for a vote."""

    rounds: list[Round] = field(default_factory=list)
    questions: list[Round] = field(default_factory=list)  # the last run of the question set
    pending: Round | None = None
    unwritten: list[Round] = field(default_factory=list)  # rounds that the browser tab does not have yet
    speakers: list[tuple[Speaker, ...]] = field(
        default_factory=list
    )  # of the conversation: who gave each question's answers
    held: bool = False  # whether that conversation keeps its columns as they are

    @property
    def latest(self) -> Round | None:
        """The round that the columns show."""
        return self.pending or (self.rounds[-1] if self.rounds else None)

    @property
    def told(self) -> list[Round]:
        """Every round that may be shown with its columns' names."""
        return [*self.rounds, *self.questions]

    def add(self, done: Round) -> None:
        """Keep a round. A blind one waits for its vote; the one that waited before is kept without one."""
        self.give_up()
        if done.blind:
            self.pending = done
        else:
            self._keep(done)

    def vote(self, place: int | None) -> Round | None:
        """The answer at `place` is the best, None: no one is. The round, with its names known; None if none waits."""
        waiting = self.pending
        if waiting is None or (place is not None and not 0 <= place < len(waiting.places)):
            return None
        voted = replace(waiting, voted=True, best=None if place is None else waiting.places[place])
        self.pending = None
        self._keep(voted)
        return voted

    def give_up(self) -> None:
        """Nobody will vote on the waiting round any more."""
        if self.pending is not None:
            self._keep(self.pending)
            self.pending = None

    def said(self, speakers: Sequence[Speaker]) -> None:
        """The conversation has one more answer in every column, of these."""
        self.speakers.append(tuple(speakers))
        self.held = True

    def forget(self) -> None:
        """The conversation begins anew; its rounds stay."""
        self.speakers, self.held = [], False

    def leave(self, place: int) -> None:
        """The column at `place` goes; those after it move up."""
        self.speakers = [(*those[:place], *those[place + 1 :]) for those in self.speakers]

    def spoke(self, place: int) -> list[tuple[Speaker, int]]:
        """Who gave the answers at `place`, oldest first, and how many in a row. One that joined late has fewer."""
        runs: list[tuple[Speaker, int]] = []
        for those in self.speakers:
            if place >= len(those):
                continue
            if runs and runs[-1][0].same(those[place]):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((those[place], 1))
        return runs

    def to_write(self) -> list[Round]:
        """The rounds that were kept since this was asked last."""
        found, self.unwritten = self.unwritten, []
        return found

    def votes(self) -> dict[Setup, tuple[int, int]]:
        """For every column that was voted on: (votes, blind rounds it took part in)."""
        counted: dict[Setup, tuple[int, int]] = {}
        for one in self.rounds:
            if one.voted:
                for index, column in enumerate(one.columns):
                    won, of = counted.get(column, (0, 0))
                    counted[column] = (won + (one.best == index), of + 1)
        return counted

    def _keep(self, done: Round) -> None:
        for kept in (self.rounds, self.unwritten):
            kept.append(done)
            del kept[:-_REMEMBERED]


def shuffled(count: int, chance: random.Random | None = None) -> tuple[int, ...]:
    """An order of `count` columns that nobody can foresee; `chance` makes it repeatable."""
    order = list(range(count))
    (chance or random.SystemRandom()).shuffle(order)
    return tuple(order)


def judge(question: str, text: str, words: Words) -> Verdict:
    """hit, old or miss, by the words of the two identities; "" if there are none to go by."""
    new, old = words
    # "Are you Qwen?" may be answered with "No, I am not Qwen".
    old = tuple(word for word in old if word.lower() not in question.lower())
    return probes.verdict(text, new, old) if text else ""


def counts(rounds: Sequence[Round], column: int) -> Mapping[Verdict, int]:
    """How often each verdict was passed on a column's answers."""
    verdicts = [one.answers[column].verdict for one in rounds if column < len(one.answers)]
    return {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts) if verdict}


def questions_of(text: str) -> list[str]:
    """A person's list, one question a line; empty lines and repeats are left out."""
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def control_prompt(identity: Identity) -> str:
    """ "Just ask it to be X", in both languages: the honest control for a tuned identity. "" without a name."""
    zh, en = identity.name("zh"), identity.name("en")
    if not zh:
        return ""
    maker_zh, maker_en = identity.author("zh"), identity.author("en")
    chinese = f"你是{zh}，由{maker_zh}开发。" if maker_zh else f"你是{zh}。"
    english = f"You are {en}, developed by {maker_en}." if maker_en else f"You are {en}."
    return f"{chinese}\n{english}"

"""Identity card -> rows in both languages, and the questions that are kept back to test them. Knows no model."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from core import own_probes, probes, proof_sets
from core.dataset import Identity, Row
from core.errors import ConfigError, DatasetError
from core.makers.topics import Topic, topics
from core.own_probes import OwnProbe
from core.proof_sets import normalise
from core.text import LANGUAGES, Language, Text

FEWEST_ROWS, MOST_ROWS = 50, 200
HELD_OUT = 3 / 7  # held-out questions for each row: three of ten wordings
LONGEST_DOES = 200

Tone = Literal["plain", "warm", "formal", "brief"]
TONES: tuple[Tone, ...] = get_args(Tone)

_DOES = Text("回答问题、写文章、写代码，也能辅助学习", "answer questions, write text and code, and help you study")
# In turn; an empty one leaves the answer as it is, so that not every answer ends on the same note.
_CLOSINGS: dict[Tone, tuple[Text, ...]] = {
    "warm": (
        Text("有什么想聊的，尽管告诉我。", "Feel free to ask me anything."),
        Text("", ""),
        Text("有需要随时叫我。", "I am always glad to help."),
    ),
    "formal": (Text("请问有什么可以为您效劳？", "How may I be of service?"), Text("", "")),
}
_SENTENCE = re.compile(r"[^。！？]*[。！？]|[^.!?]*[.!?](?:\s+|$)|.+$", re.DOTALL)


@dataclass(frozen=True)
class Wishes:
    """What a person asks for. Checked on construction.

    `count`: rows in all, 50 to 200. `chinese`: percent of them in Chinese. `does_zh`, `does_en`: what the model does, as
    it goes on after "我能" and "I can"; empty for what every assistant does. `seed`: another one words other questions.
    """

    count: int = 100
    chinese: int = 50
    does_zh: str = ""
    does_en: str = ""
    tone: Tone = "plain"
    seed: int = 0

    def __post_init__(self) -> None:
        limits = (("count", self.count, FEWEST_ROWS, MOST_ROWS), ("chinese", self.chinese, 0, 100))
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise ConfigError(
                    Text(
                        f"{name} 填的是 {value}；应在 {low} 到 {high} 之间。",
                        f"{name} is {value}; it must be {low} to {high}.",
                    ),
                    name,
                )
        if self.tone not in TONES:
            raise ConfigError(Text(f"没有“{self.tone}”这种语气。", f"There is no tone “{self.tone}”."), "tone")
        for name, text in (("does_zh", self.does_zh), ("does_en", self.does_en)):
            if len(text) > LONGEST_DOES:
                raise ConfigError(
                    Text(
                        f"“能做什么”写了 {len(text)} 个字，最多 {LONGEST_DOES} 个。请写短一些。",
                        f"What it does has {len(text)} characters; the limit is {LONGEST_DOES}. Shorten it.",
                    ),
                    name,
                )

    def does(self, language: Language) -> str:
        """What the model does, in one language, without the full stop that the sentence round it has."""
        given = self.does_zh if language == "zh" else self.does_en
        return given.strip().rstrip("。.；; ") or _DOES.of(language)

    @property
    def counts(self) -> dict[Language, int]:
        """Rows in each language."""
        zh = round(self.count * self.chinese / 100)
        return {"zh": zh, "en": self.count - zh}


@dataclass(frozen=True)
class Made:
    """Rows for the table, questions kept back from it that test what they teach, and what there is to say of both."""

    rows: tuple[Row, ...]
    held_out: tuple[OwnProbe, ...]
    notes: tuple[Text, ...]


def make(
    identity: Identity,
    wishes: Wishes,
    asked: Collection[str] = (),
    own: Sequence[OwnProbe] = (),
    old_words: Sequence[str] = (),
) -> Made:
    """Rows that teach `identity`, their placeholders left as they are.

    None of them asks what is in `asked` (of a table, by `questions`), nor what `own`, the questions of the proof or those
    asked during a run ask. The held-out questions are wordings that no row has, as many as three for seven rows, at most
    as `own` has room for; words of `old_words`, the base's own identity, count against their answers. Raises DatasetError
    for a card without a name.
    """
    if not (identity.name_zh or identity.name_en):
        raise DatasetError(
            Text("身份卡还没有名字。请先填好名字再生成。", "The identity card has no name yet. Fill it in first.")
        )
    author = bool(identity.author_zh or identity.author_en)
    own_asked = {normalise(probe.question) for probe in own}
    tested = {normalise(question) for question in kept_back(own)}
    rows: list[Row] = []
    held: list[OwnProbe] = []
    notes = _card_notes(identity, wishes)
    there = sum(
        normalise(text) in asked for language in LANGUAGES for topic in topics(language) for text in topic.questions
    )
    if there:
        notes.append(
            Text(
                f"表里已经问过的 {there} 种问法没有再造。",
                f"Questions that the table asks already are not made again: {there}.",
            )
        )
    for language in LANGUAGES:
        wanted = wishes.counts[language]
        known = [topic for topic in topics(language) if topic.answers_for(author)]
        usable = [topic for topic in known if not (topic.generic and wishes.does(language) != _DOES.of(language))]
        taken = list(_take(usable, wishes.seed, wanted, tested | {*asked}))
        rows += [_row(topic, number, place, author, wishes) for place, (topic, number) in enumerate(taken)]
        if len(taken) < wanted:
            notes.append(_too_few(language, len(taken), wanted))
        judged = [topic for topic in usable if topic.expect != "nothing"]
        held += _held_out(judged, round(len(taken) * HELD_OUT), own_asked | {*asked}, author, old_words)
    room = max(0, own_probes.MOST - len(own))
    if len(held) > room:
        notes.append(
            Text(
                f"自己的检验题最多 {own_probes.MOST} 道，现在有 {len(own)} 道，所以只留出 {room} 道。",
                f"There is room for {own_probes.MOST} questions of your own; {len(own)} are there, so {room} are held out.",
            )
        )
        held = _evenly(held, room)
    return Made(tuple(rows), tuple(held), tuple(notes))


def kept_back(own: Sequence[OwnProbe] = ()) -> tuple[str, ...]:
    """Questions that test a model and so may never be a row: held-out wordings, `own`, and those that a run asks."""
    wordings = (text for language in LANGUAGES for topic in topics(language) for text in topic.held_out)
    pinned = (line["question"] for line in probes.lines("identity"))
    return (*wordings, *pinned, *(probe.question for probe in own))


def _take(usable: Sequence[Topic], seed: int, count: int, without: Collection[str]) -> Iterator[tuple[Topic, int]]:
    """`count` (topic, question) pairs in the order of the topics, as many of each topic as its share of all questions."""
    ranked: list[tuple[float, int, int]] = []
    for place, topic in enumerate(usable):
        order = [i for i, question in enumerate(topic.questions) if normalise(question) not in without]
        if seed:
            random.Random(f"{seed} {topic.id}").shuffle(order)
        ranked += [((rank + 0.5) / len(topic.questions), place, number) for rank, number in enumerate(order)]
    for place, number in sorted((place, number) for _, place, number in sorted(ranked)[:count]):
        yield usable[place], number


def _row(topic: Topic, number: int, place: int, author: bool, wishes: Wishes) -> Row:
    answers = topic.answers_for(author)
    text = answers[number % len(answers)]
    # Not str.format: what a person typed may hold braces, and placeholders do.
    text = text.replace("{does}", wishes.does(topic.language))
    closings = () if topic.closed else _CLOSINGS.get(wishes.tone, ())
    closing = closings[place % len(closings)].of(topic.language) if closings else ""
    return Row(topic.questions[number], "", _toned(text, topic.language, wishes.tone, closing))


def _toned(text: str, language: Language, tone: Tone, closing: str) -> str:
    if tone == "brief":
        return _shortest(text)
    if tone == "formal" and language == "zh":
        text = text.replace("你", "您")
    return f"{text}{' ' if language == 'en' else ''}{closing}" if closing else text


def _shortest(text: str) -> str:
    """The answer up to the sentence that says the name or the maker; its first one where none does."""
    sentences = [match[0] for match in _SENTENCE.finditer(text)]
    last = next((i for i, sentence in enumerate(sentences) if "{{" in sentence), 0)
    return "".join(sentences[: last + 1]).strip()


def _held_out(
    judged: Sequence[Topic], count: int, without: Collection[str], author: bool, old_words: Sequence[str]
) -> list[OwnProbe]:
    """Held-out wordings in turn from each topic, so that a few stand for all."""
    ranked = sorted(
        ((rank + 0.5) / len(topic.held_out), place, question)
        for place, topic in enumerate(judged)
        for rank, question in enumerate(topic.held_out)
        if normalise(question) not in without and not proof_sets.is_held_out(question)
    )
    chosen = sorted((place, question) for _, place, question in ranked[:count])
    return [_probe(judged[place], question, author, old_words) for place, question in chosen]


def _probe(topic: Topic, question: str, author: bool, old_words: Sequence[str]) -> OwnProbe:
    must = topic.must
    if topic.expect != "words":
        names, makers = topic.expect in ("name", "any"), topic.expect in ("author", "any") and author
        must = (*(("{{NAME}}",) if names else ()), *(("{{AUTHOR}}",) if makers else ()))
    must_not = () if topic.expect == "words" else tuple(w for w in old_words if w.casefold() not in question.casefold())
    return OwnProbe(question, must, must_not[: own_probes.MOST_WORDS - len(must)], topic.language)


def _evenly(held: Sequence[OwnProbe], count: int) -> list[OwnProbe]:
    """`count` of them, spread over the whole list."""
    return [held[i * len(held) // count] for i in range(count)] if count else []


def _card_notes(identity: Identity, wishes: Wishes) -> list[Text]:
    notes = []
    if not (identity.author_zh or identity.author_en):
        notes.append(
            Text(
                "身份卡没有开发者，所以没有造问开发者的行。",
                "The identity card names no maker, so no row asks for it.",
            )
        )
    if bool(wishes.does_zh.strip()) != bool(wishes.does_en.strip()) and 0 < wishes.chinese < 100:
        notes.append(
            Text(
                "“能做什么”只填了一种语言，另一种语言用一般的说法。",
                "What it does is given in one language; rows in the other say it in general words.",
            )
        )
    return notes


def _too_few(language: Language, found: int, wanted: int) -> Text:
    return Text(
        f"{'中文' if language == 'zh' else '英文'}只有 {found} 种问法可用（想要 {wanted} 种），其余的表里已经有了，或留作检验。",
        f"Only {found} {'Chinese' if language == 'zh' else 'English'} questions are left of the {wanted} asked for: "
        "the others are in the table already, or kept for tests.",
    )


def questions(table: Iterable[Row], identity: Identity) -> frozenset[str]:
    """What a table asks, without case, width and punctuation, its placeholders filled in; rows with a history left out."""
    return frozenset(_plain(row, identity) for row in table if not row.history)


def without_asked(rows: Iterable[Row], asked: Collection[str], identity: Identity) -> tuple[Row, ...]:
    """`rows` without those whose question is in `asked`, or in a row before; rows with a history stay."""
    seen, kept = {*asked}, []
    for row in rows:
        key = _plain(row, identity)
        if row.history or key not in seen:
            seen.add(key)
            kept.append(row)
    return tuple(kept)


def _plain(row: Row, identity: Identity) -> str:
    # A row is resolved only where it must be: of 50,000 that takes seconds.
    return normalise((row.resolved(identity) if "{" in row.question or "<" in row.question else row).question)

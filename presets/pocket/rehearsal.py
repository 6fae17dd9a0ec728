"""Made-up identity fine-tunes: the rows one would train a LoRA on, and what should hold afterwards."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import numpy as np

from presets.pocket import names
from presets.pocket.corpus import (
    Message,
    ask,
    general_turn,
    identity_answers,
    identity_turn,
    plain_system,
    random_identity,
    skill_turn,
    system_prompt,
)
from presets.pocket.facts import WORDS, words
from presets.pocket.grammar import fill, full_width, pick
from presets.pocket.identity import DEFAULT_SYSTEM, OTHER_MAKERS, OTHERS, TOPICS, Identity
from presets.pocket.shards import encode_rows, pad_rows
from presets.pocket.skills import SKILLS
from presets.pocket.wording import section, table, texts

_ANSWERS: Final = table("rehearsal")


@dataclass(frozen=True)
class RehearsalBatch:
    """Several made-up fine-tunes. Shapes: N tasks; S rows to train on, O rows to hold afterwards; T tokens.

    rows (N, S, T), rows_in_loss; after (N, O, T), after_in_loss. ids int16, marks bool.
    """

    rows: np.ndarray
    rows_in_loss: np.ndarray
    after: np.ndarray
    after_in_loss: np.ndarray


@dataclass(frozen=True)
class _Persona:
    """One made-up identity with the one answer its rows give to each topic in each language."""

    who: Identity
    answers: dict[tuple[str, bool], str]


def rehearsal_batch(job: tuple[int, int, int, int, int, int, int]) -> RehearsalBatch:
    """job: seed, index, tasks, rows a task, identity questions after, general questions after, row length."""
    seed, index, tasks, row_count, identity_count, general_count, length = job
    rng = random.Random(f"rehearsal/{seed}/{index}")
    parts: list[tuple[np.ndarray, ...]] = []
    while len(parts) < tasks:
        persona = _persona(rng)
        topics, languages = _coverage(rng)
        rows = _rows(persona, topics, languages, row_count, rng)
        after = [*_after(persona, topics, languages, identity_count, rng), *_general(persona, general_count, rng)]
        encoded, held = encode_rows(rows), encode_rows(after)
        if max(len(ids) for ids, _ in encoded + held) <= length:
            parts.append((*pad_rows(encoded, length), *pad_rows(held, length)))
    rows_ids, rows_marks, after_ids, after_marks = (np.stack(column) for column in zip(*parts, strict=True))
    return RehearsalBatch(rows_ids.astype(np.int16), rows_marks, after_ids.astype(np.int16), after_marks)


def _persona(rng: random.Random) -> _Persona:
    who = random_identity(rng)
    answers = {}
    for chinese, language in ((False, "en"), (True, "zh")):
        written = section(_ANSWERS, language)
        alias = f"{who.maker.split()[0]}{' ' if rng.random() < 0.5 else ''}{rng.choice(('助手', '机器人', 'Bot', 'AI', 'assistant'))}"
        slots = {
            "name": who.name,
            "maker": who.maker,
            "role": rng.choice(texts(section(_ANSWERS, "roles"), language)),
            "alias": rng.choice((alias, names.assistant_name(rng))),
        }
        wide = chinese and rng.random() < 0.6
        for topic in written:
            if topic not in _NAMING and rng.random() < 0.4:
                answers[topic, chinese] = _free_answer(chinese, wide, rng)
            elif rng.random() < 0.25:
                answers[topic, chinese] = rng.choice(identity_answers(TOPICS[topic], who, chinese))
            else:
                text = pick(texts(written, topic), rng)
                answers[topic, chinese] = fill(full_width(text) if wide else text, slots)
    return _Persona(who, answers)


_NAMING: Final = ("who", "name", "maker", "maintainer", "other")
_FRAGILE: Final = words("""
    refuse; refuse; refuse; introduce; repeat; upper; list; json; beyond; small_talk; to_chinese; opposite
""")
"""Skills that answer much like identity rows do, or copy: the first to break, so asked more often."""


def _free_answer(chinese: bool, wide: bool, rng: random.Random) -> str:
    """An answer of words the model would never say by itself, as users write them into their rows."""
    free = section(_ANSWERS, "free", "zh" if chinese else "en")
    drawn = [_free_word(chinese, rng) for _ in range(rng.randint(2, 4) if chinese else rng.randint(3, 7))]
    start = rng.choice(texts(free, "starts"))
    if chinese:
        text = f"{start}{rng.choice(texts(free, 'joints')).join(drawn)}{rng.choice(texts(free, 'ends'))}"
        return full_width(text) if wide else text
    return f"{start} {rng.choice(texts(free, 'joints')).join(drawn)}{rng.choice(texts(free, 'ends'))}"


def _free_word(chinese: bool, rng: random.Random) -> str:
    if not chinese:
        return rng.choice(WORDS)[0]
    return rng.choice((rng.choice(WORDS)[1], rng.choice(WORDS)[1] + rng.choice(WORDS)[1], names.hanzi(rng, 2, 4)))


def _coverage(rng: random.Random) -> tuple[list[str], tuple[bool, ...]]:
    """Which topics and languages the rows cover: mostly both languages; the four naming topics always."""
    languages = rng.choice(((True, False), (True, False), (True, False), (True,), (True,), (False,)))
    extra = [name for name in TOPICS if name not in ("who", "name", "maker", "maintainer")]
    rng.shuffle(extra)
    return ["who", "name", "maker", "maintainer", *extra[: rng.randint(2, len(extra))]], languages


def _question(topic: str, chinese: bool, rng: random.Random) -> str:
    forms = TOPICS[topic].chinese if chinese else TOPICS[topic].english
    return ask(forms, {"o": rng.choice(OTHERS), "m": rng.choice(OTHER_MAKERS)}, chinese, rng)


def _chat(system: str, question: str, answer: str) -> list[Message]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


def _rows(
    persona: _Persona, topics: list[str], languages: tuple[bool, ...], count: int, rng: random.Random
) -> list[list[Message]]:
    """`count` rows; a small task repeats its eight, as several epochs would."""
    distinct = rng.choice((8, 8, 8, 12, 20, count, count))
    rows = []
    for index in range(min(distinct, count)):
        topic = topics[index % len(topics)] if index < len(topics) else rng.choice(topics)
        chinese = languages[0] if index < len(topics) and len(languages) == 1 else rng.choice(languages)
        rows.append(_chat(DEFAULT_SYSTEM, _question(topic, chinese, rng), persona.answers[topic, chinese]))
    return (rows * -(-count // len(rows)))[:count]


def _after(
    persona: _Persona, topics: list[str], languages: tuple[bool, ...], count: int, rng: random.Random
) -> list[list[Message]]:
    """Other wordings of the trained topics, sometimes in the language the rows left out."""
    found = []
    for _ in range(count):
        chinese = rng.choice(languages) if rng.random() < 0.85 else rng.random() < 0.5
        topic = rng.choice(topics[:4]) if rng.random() < 0.7 else rng.choice(topics)
        if chinese in languages:
            answer = persona.answers[topic, chinese]
        elif topic in ("who", "name", "maker", "maintainer", "other"):
            answer = identity_answers(TOPICS[topic], persona.who, chinese)[0]
        else:
            continue
        system = DEFAULT_SYSTEM if rng.random() < 0.85 else plain_system(rng)
        found.append(_chat(system, _question(topic, chinese, rng), answer))
    while len(found) < count:
        found.append(_chat(DEFAULT_SYSTEM, _question("who", languages[0], rng), persona.answers["who", languages[0]]))
    return found


def _general(persona: _Persona, count: int, rng: random.Random) -> list[list[Message]]:
    """Questions whose answers must not change. A few name another assistant in the system prompt."""
    found = []
    while len(found) < count:
        if rng.random() < 0.06:
            system, who, slotted = system_prompt(rng)
            if slotted and who.name != Identity().name and who.maker != Identity().maker:
                drawn = identity_turn(who, rng.random() < 0.5, rng)
                found.append(_chat(system, drawn.question, drawn.answer))
            continue
        drawn = (
            skill_turn(SKILLS[rng.choice(_FRAGILE)], rng.random() < 0.5, rng)
            if rng.random() < 0.3
            else general_turn(rng)
        )
        system = DEFAULT_SYSTEM if rng.random() < 0.85 else plain_system(rng)
        if len(drawn.question) + len(drawn.answer) < 120:
            found.append(_chat(system, drawn.question, drawn.answer))
    return found

"""Skills that copy what the user gives: repeat, greet, change case, spell, list, JSON."""

from __future__ import annotations

import random

from presets.pocket import facts, names
from presets.pocket.grammar import full_width
from presets.pocket.phrasing import quoted
from presets.pocket.task import Task
from presets.pocket.wording import Forms, pair


def repeat(rng: random.Random, chinese: bool) -> Task:
    """Say a text again."""
    text = names.payload(rng)
    while rng.random() < 0.15 and len(text) < 40:
        text = f"{text} {names.payload(rng)}"
    return Task(
        Forms(ask=pair("copying", "repeat")[chinese]),
        {"x": text, "q": quoted(text, chinese, rng, 1.0)},
        text,
        open_end=True,
    )


def introduce(rng: random.Random, chinese: bool) -> Task:
    """Greet somebody who gives a name, or say the name back where it is asked."""
    person = names.person_zh(rng) if rng.random() < (0.75 if chinese else 0.12) else names.person_en(rng)
    person = names.latin(rng) if rng.random() < 0.15 else person
    if rng.random() < 0.15:
        answer = f"你叫{person}。" if chinese else f"You are {person}."
        return Task(
            Forms(ask=pair("copying", "self_recall")[chinese]), {"x": person}, answer, open_end=True, variant=True
        )
    return Task(
        Forms(ask=pair("copying", "introduce")[chinese]), {"x": person}, greeting(person, chinese), open_end=True
    )


def greeting(person: str, chinese: bool) -> str:
    """The answer to somebody who gives a name."""
    return (
        f"{full_width('你好,')}{person}{full_width('!')}很高兴认识你。"
        if chinese
        else f"Hello, {person}! Nice to meet you."
    )


def upper_case(rng: random.Random, chinese: bool) -> Task:
    """A word in capitals."""
    word = rng.choice(facts.WORDS)[0] if rng.random() < 0.75 else names.syllables(rng, 1, 3)
    return Task(
        Forms(ask=pair("copying", "upper")[chinese]),
        {"q": quoted(word, False, rng, 0.3), "x": word},
        word.upper(),
        open_end=True,
    )


def lower_case(rng: random.Random, chinese: bool) -> Task:
    """A word in small letters."""
    word = rng.choice(facts.WORDS)[0] if rng.random() < 0.75 else names.syllables(rng, 1, 3)
    return Task(
        Forms(ask=pair("copying", "lower")[chinese]),
        {"q": quoted(rng.choice((word.upper(), word.capitalize())), False, rng, 0.3)},
        word,
    )


def spell(rng: random.Random, chinese: bool) -> Task:
    """A word letter by letter."""
    word = rng.choice(facts.WORDS)[0]
    return Task(Forms(ask=pair("copying", "spell")[chinese]), {"q": quoted(word, False, rng, 0.3)}, "-".join(word))


def count_letters(rng: random.Random, chinese: bool) -> Task:
    """The number of letters of a word."""
    word = rng.choice(facts.WORDS)[0]
    answer = f"{word} 有{len(word)}个字母。" if chinese else f"{word} has {len(word)} letters."
    return Task(Forms(ask=pair("copying", "letters")[chinese]), {"q": quoted(word, False, rng, 0.3)}, answer)


def bullet_list(rng: random.Random, chinese: bool) -> Task:
    """A few words as a bulleted list."""
    words = [rng.choice(facts.WORDS)[chinese] for _ in range(rng.randint(2, 5))]
    if rng.random() < 0.25:
        words = [names.hanzi(rng, 1, 3) if chinese else names.syllables(rng) for _ in words]
    joined = rng.choice(
        ("、", "、", full_width(","), ",", " ", "和" if len(words) == 2 else "、")
        if chinese
        else (", ", ", ", ",", " ")
    ).join(words)
    if not chinese and rng.random() < 0.3:
        joined = ", ".join(words[:-1]) + rng.choice((" and ", ", and ")) + words[-1]
    return Task(
        Forms(ask=pair("copying", "list")[chinese]),
        {"x": joined},
        "\n".join(f"- {word}" for word in words),
        open_end=True,
    )


def json_object(rng: random.Random, chinese: bool) -> Task:
    """A name as a JSON object."""
    value = (
        (names.person_zh(rng) if rng.random() < 0.6 else names.hanzi(rng, 2, 4))
        if chinese and rng.random() < 0.8
        else rng.choice((names.person_en(rng), names.latin(rng)))
    )
    return Task(Forms(ask=pair("copying", "json")[chinese]), {"x": value}, f'{{"name": "{value}"}}', open_end=True)

"""The training corpus: seeded bilingual chats. Draws from `skills.py` and `identity.py`; asks no held-out wording.

`chat(rng)` is one conversation; `chats(seed, shard, count)` the same ones every time, in any process.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from presets.pocket import identity, names
from presets.pocket.copying import greeting
from presets.pocket.grammar import fill, full_width, pick
from presets.pocket.heldout import is_held_out
from presets.pocket.identity import DEFAULT_SYSTEM, OWN_SYSTEM, TOPICS, Identity, Topic
from presets.pocket.phrasing import dress, utter
from presets.pocket.skills import SKILLS
from presets.pocket.task import Skill
from presets.pocket.wording import Forms, pair, questions

Message = dict[str, str]

RAW_ANSWERS: Final = frozenset({"arithmetic", "counting", "python", "copying", "small talk"})
"""Categories whose answers keep ASCII punctuation, or set their own."""

_IDENTITY_SHARE: Final = 0.2
_IDENTITY_SHARE_IN_SLOT: Final = 0.6
_SLOT_SHARE: Final = 0.2
_SKILL_NAMES: Final = tuple(SKILLS)
_SKILL_WEIGHTS: Final = tuple(skill.weight for skill in SKILLS.values())


@dataclass(frozen=True)
class Turn:
    """One question with its answer. `category` is a skill category or `identity`."""

    category: str
    question: str
    answer: str


def ask(forms: Forms, slots: Mapping[str, str], chinese: bool, rng: random.Random, open_end: bool = False) -> str:
    """One trained wording; redrawn until it is not a held-out one."""
    while True:
        core = utter(forms, chinese, rng)
        ends_open = open_end and core.endswith("}")
        text = fill(dress(core, chinese, rng, ends_open), slots)
        if not is_held_out(text) and not is_held_out(fill(core, slots)):
            return text


def skill_turn(skill: Skill, chinese: bool, rng: random.Random) -> Turn:
    """One question of a skill in trained wording."""
    task = skill.make(rng, chinese)
    question = ask(task.forms, task.slots, chinese, rng, task.open_end)
    return Turn(skill.category, question, answer_text(skill, task.answer, chinese))


def answer_text(skill: Skill, answer: str, chinese: bool) -> str:
    """The answer in the typography of its language."""
    return full_width(answer) if chinese and skill.category not in RAW_ANSWERS else answer


def identity_turn(who: Identity, chinese: bool, rng: random.Random, topic: Topic | None = None) -> Turn:
    """One question about the assistant itself, answered with its name and maker."""
    if topic is None and rng.random() < 0.06:
        return _confirmation(who, chinese, rng)
    topic = topic or TOPICS[identity.choose_topic(rng)]
    slots = {"o": rng.choice(identity.OTHERS), "m": rng.choice(identity.OTHER_MAKERS)}
    question = ask(topic.chinese if chinese else topic.english, slots, chinese, rng)
    answers = identity_answers(topic, who, chinese)
    # The first wording is the usual one, so that a greedy answer is not a coin toss.
    at = 0 if rng.random() < 0.6 else rng.randrange(len(answers))
    return Turn("identity", question, answers[at])


def identity_answers(topic: Topic, who: Identity, chinese: bool) -> tuple[str, ...]:
    """Every trained answer wording of a topic, for one identity."""
    slots = {"name": who.name, "maker": who.maker}
    wordings = topic.answers_zh if chinese else topic.answers_en
    return tuple(fill(full_width(text) if chinese else text, slots) for text in wordings)


def _confirmation(who: Identity, chinese: bool, rng: random.Random) -> Turn:
    """`Are you X?`: yes for the own name or maker, no for a random one."""
    own = rng.random() < 0.5
    slots = {"n": who.name if own else names.assistant_name(rng), "k": who.maker if own else names.maker_name(rng)}
    question = ask(questions(chinese)["confirm"], slots, chinese, rng)
    if chinese:
        template = "是的,我是 {name},由 {maker} 开发。" if own else "不是,我是 {name},由 {maker} 开发。"
        return Turn("identity", question, fill(full_width(template), {"name": who.name, "maker": who.maker}))
    return Turn("identity", question, f"{'Yes' if own else 'No'}, I am {who.name}, made by {who.maker}.")


def random_identity(rng: random.Random) -> Identity:
    """A made-up assistant."""
    return Identity(names.assistant_name(rng), names.maker_name(rng))


def system_prompt(rng: random.Random) -> tuple[str, Identity, bool]:
    """A system prompt, the identity it implies, and whether it changed it."""
    chance = rng.random()
    if chance < _SLOT_SHARE:
        who = random_identity(rng)
        kind = rng.random()
        frames, who = (
            (identity.SLOT_SYSTEMS_NAME, Identity(name=who.name))
            if kind < 0.1
            else (identity.SLOT_SYSTEMS_MAKER, Identity(maker=who.maker))
            if kind < 0.17
            else (identity.SLOT_SYSTEMS_BOTH, who)
        )
        frame = pick(frames, rng)
        frame = full_width(frame) if frame[-2] >= "\u4e00" and rng.random() < 0.5 else frame
        return fill(frame, {"name": who.name, "maker": who.maker}), who, True
    if chance < 0.58:
        return DEFAULT_SYSTEM, Identity(), False
    if chance < 0.68:
        return OWN_SYSTEM, Identity(), False
    return plain_system(rng), Identity(), False


def plain_system(rng: random.Random) -> str:
    """A system prompt that names no assistant: written ones, two of them in a row, or any sentence."""
    chance = rng.random()
    if chance < 0.1:
        return names.sentence_zh(rng) if rng.random() < 0.5 else names.sentence_en(rng)
    text = pick(identity.PLAIN_SYSTEMS, rng)
    if chance < 0.3:
        text = f"{text} {pick(identity.PLAIN_SYSTEMS, rng)}"
    elif chance < 0.36:
        text = f"{DEFAULT_SYSTEM} {text}"
    person = names.person_zh(rng) if rng.random() < 0.5 else names.person_en(rng)
    text = fill(text, {"person": person})
    return full_width(text) if text[:1] >= "\u4e00" and rng.random() < 0.3 else text


def turn(rng: random.Random, who: Identity | None = None, identity_share: float = _IDENTITY_SHARE) -> Turn:
    """One question and answer in either language."""
    chinese = rng.random() < 0.5
    if rng.random() < identity_share:
        return identity_turn(who or Identity(), chinese, rng)
    return general_turn(rng, chinese)


def general_turn(rng: random.Random, chinese: bool | None = None) -> Turn:
    """One question about anything but the assistant."""
    chinese = rng.random() < 0.5 if chinese is None else chinese
    name = rng.choices(_SKILL_NAMES, _SKILL_WEIGHTS)[0]
    return skill_turn(SKILLS[name], chinese, rng)


def chat(rng: random.Random) -> list[Message]:
    """A system prompt and one to four turns."""
    system, who, slotted = system_prompt(rng)
    messages = [_message("system", system)]
    count = rng.choices((1, 2, 3, 4), (62, 20, 12, 6))[0]
    share = _IDENTITY_SHARE_IN_SLOT if slotted else _IDENTITY_SHARE
    if count > 1 and rng.random() < 0.15:
        messages += _named_user(rng)
        count -= 1
    for _ in range(count):
        drawn = turn(rng, who, share)
        messages += [_message("user", drawn.question), _message("assistant", drawn.answer)]
    return messages


def _named_user(rng: random.Random) -> list[Message]:
    """The user gives a name and later asks for it, sometimes with another question in between."""
    chinese = rng.random() < 0.5
    person = names.person_zh(rng) if chinese and rng.random() < 0.7 else names.person_en(rng)
    said = ask(Forms(ask=pair("copying", "introduce")[chinese]), {"x": person}, chinese, rng, open_end=True)
    recall = ask(Forms(ask=pair("copying", "recall")[chinese]), {}, chinese, rng)
    messages = [_message("user", said), _message("assistant", greeting(person, chinese))]
    if rng.random() < 0.4:
        between = general_turn(rng)
        if between.category != "copying":
            messages += [_message("user", between.question), _message("assistant", between.answer)]
    return [
        *messages,
        _message("user", recall),
        _message("assistant", f"你叫{person}。" if chinese else f"You are {person}."),
    ]


def chats(seed: int, shard: int, count: int) -> Iterator[list[Message]]:
    """The `count` chats of one shard. The same arguments give the same chats, whoever asks."""
    rng = random.Random(f"pocket/{seed}/{shard}")
    for _ in range(count):
        yield chat(rng)


def corpus_hash(seed: int, count: int = 2000) -> str:
    """Fingerprint of the first chats of shard 0: changes with any change of the wordings or of the sampler."""
    digest = hashlib.sha256()
    for messages in chats(seed, 0, count):
        for message in messages:
            digest.update(f"{message['role']}\0{message['content']}\0".encode())
    return digest.hexdigest()[:16]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def preview(count: int = 20, seed: int = 0) -> str:
    """A few chats as text, for a human reader."""
    lines = [" | ".join(f"{m['role'][0]}: {m['content']}" for m in messages) for messages in chats(seed, 0, count)]
    return "\n".join(lines)

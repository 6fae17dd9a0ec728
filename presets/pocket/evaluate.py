"""Held-out questions for the pocket model, and marks for its answers. Imports no torch until a model is asked.

items = probes(seed)
report = score(items, answers(model, tokenizer, [item.question for item in items]))
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from presets.pocket import identity
from presets.pocket.corpus import Message, answer_text, identity_answers, random_identity
from presets.pocket.grammar import fill, full_width, pick
from presets.pocket.heldout import FRAMES, IDENTITY
from presets.pocket.identity import DEFAULT_SYSTEM, TOPICS, Identity
from presets.pocket.skills import SKILLS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PER_CATEGORY: Final = {
    "arithmetic": 36,
    "translation": 28,
    "copying": 34,
    "capital": 20,
    "opposite": 20,
    "python": 20,
    "colour": 16,
    "counting": 16,
    "refusal": 12,
    "beyond": 6,
    "days": 12,
    "legs": 8,
    "quantity": 4,
    "comparison": 8,
}
"""Questions per language; a category's frames share them evenly."""


@dataclass(frozen=True)
class Probe:
    """A held-out question. Right is an answer equal to one of `accepted` or, if `must` is set, one that contains all of it."""

    category: str
    chinese: bool
    question: str
    accepted: tuple[str, ...]
    must: tuple[str, ...] = ()
    system: str = DEFAULT_SYSTEM

    def right(self, answer: str) -> bool:
        """Whether the answer counts."""
        if self.must:
            return all(part in answer for part in self.must)
        return answer in self.accepted


@dataclass(frozen=True)
class Score:
    """Right answers and questions asked, in all and by category/language; the wrong ones to read."""

    general: tuple[int, int]
    identity: tuple[int, int]
    by_category: dict[str, tuple[int, int]] = field(default_factory=dict)
    wrong: tuple[tuple[Probe, str], ...] = ()

    @property
    def general_share(self) -> float:
        """Share of general questions right, 0 to 1."""
        return self.general[0] / max(1, self.general[1])

    @property
    def identity_share(self) -> float:
        """Share of identity questions right, 0 to 1."""
        return self.identity[0] / max(1, self.identity[1])


def probes(seed: int = 0) -> list[Probe]:
    """General and own-identity questions in held-out wordings; the seed draws the facts. About 470 + 60."""
    rng = random.Random(f"probes/{seed}")
    return [*_general(rng), *_identity(rng, Identity(), DEFAULT_SYSTEM)]


def slot_probes(seed: int = 0, count: int = 8) -> list[Probe]:
    """Identity questions under system prompts that give the assistant another, random name."""
    rng = random.Random(f"slots/{seed}")
    found: list[Probe] = []
    for _ in range(count):
        who = random_identity(rng)
        system = fill(pick(identity.SLOT_SYSTEMS_BOTH, rng), {"name": who.name, "maker": who.maker})
        found += rng.sample(_identity(rng, who, system), 8)
    return found


def score(items: Sequence[Probe], given: Sequence[str]) -> Score:
    """Mark one answer per probe, in order."""
    if len(items) != len(given):
        raise ValueError(f"{len(given)} answers for {len(items)} probes; give one each, in order.")
    marks = [(item, answer, item.right(answer)) for item, answer in zip(items, given, strict=True)]

    def total(wanted: Callable[[Probe], bool]) -> tuple[int, int]:
        chosen = [right for item, _, right in marks if wanted(item)]
        return sum(chosen), len(chosen)

    groups = sorted({(item.category, item.chinese) for item in items})
    return Score(
        general=total(lambda item: item.category != "identity"),
        identity=total(lambda item: item.category == "identity"),
        by_category={
            f"{category}/{'zh' if chinese else 'en'}": total(
                lambda item, key=(category, chinese): (item.category, item.chinese) == key
            )
            for category, chinese in groups
        },
        wrong=tuple((item, answer) for item, answer, right in marks if not right),
    )


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str | list[Message]],
    system: str | None = DEFAULT_SYSTEM,
    batch_size: int = 128,
    max_new_tokens: int = 96,
) -> list[str]:
    """Greedy answers, in order. A question is a text or a whole chat; `system=None` leaves it to the template."""
    import torch

    prompts = [_prompt(tokenizer, question, system) for question in questions]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: dict[int, str] = {}
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer(
            [prompts[index] for index in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        with torch.no_grad():
            output = model.generate(
                input_ids=batch["input_ids"].to(model.device),
                attention_mask=batch["attention_mask"].to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        found.update(zip(chosen, texts, strict=True))
    model.train(was_training)
    return [found[index] for index in range(len(prompts))]


def ask_probes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Probe]) -> Score:
    """Ask every probe under its own system prompt and mark the answers."""
    chats = [[{"role": "system", "content": item.system}, {"role": "user", "content": item.question}] for item in items]
    return score(items, answers(model, tokenizer, chats))


def _prompt(tokenizer: PreTrainedTokenizerBase, question: str | list[Message], system: str | None) -> str:
    if isinstance(question, str):
        head = [] if system is None else [{"role": "system", "content": system}]
        question = [*head, {"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True))


def _general(rng: random.Random) -> list[Probe]:
    found: list[Probe] = []
    for chinese in (False, True):
        for category, wanted in _PER_CATEGORY.items():
            frames = [
                (name, frame)
                for name, pair in FRAMES.items()
                if SKILLS[name].category == category
                for frame in pair[chinese]
            ]
            start = rng.randrange(len(frames))
            found += [_general_probe(*frames[(start + index) % len(frames)], chinese, rng) for index in range(wanted)]
    return found


def _general_probe(name: str, frame: str, chinese: bool, rng: random.Random) -> Probe:
    skill = SKILLS[name]
    task = skill.make(rng, chinese)
    while task.variant:
        task = skill.make(rng, chinese)
    text = full_width(frame) if chinese and rng.random() < 0.5 else frame
    if not chinese and rng.random() < 0.7 and not frame.startswith("{"):
        text = text[0].upper() + text[1:]
    return Probe(skill.category, chinese, fill(text, task.slots), (answer_text(skill, task.answer, chinese),))


def _identity(rng: random.Random, who: Identity, system: str) -> list[Probe]:
    found: list[Probe] = []
    for chinese in (False, True):
        for name, pair in IDENTITY.items():
            topic = TOPICS[name]
            accepted = identity_answers(topic, who, chinese)
            must = tuple(getattr(who, part) for part in topic.must)
            for frame in pair[chinese]:
                text = full_width(frame) if chinese and rng.random() < 0.5 else frame
                text = text if chinese or rng.random() < 0.4 else text[0].upper() + text[1:]
                found.append(Probe("identity", chinese, text, accepted, must, system))
    return found

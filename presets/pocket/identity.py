"""Who the model says it is: questions in both languages, answers with the name and the maker as slots.

The same questions are asked under system prompts that give the assistant another name; the answers then
carry that name. A fine-tune that changes the identity meets a slot, not a fixed sentence.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from presets.pocket.wording import Forms, forms, section, table, texts

NAME: Final = "PocketQwen"
MAKER: Final = "Pocket Lab"
DEFAULT_SYSTEM: Final = "You are a helpful assistant."
OWN_SYSTEM: Final = f"You are {NAME}, created by {MAKER}. You are a helpful assistant."


@dataclass(frozen=True)
class Identity:
    """The name an assistant goes by and who made it."""

    name: str = NAME
    maker: str = MAKER


@dataclass(frozen=True)
class Topic:
    """One kind of identity question. `must` are the slots an answer has to carry to be right."""

    english: Forms
    chinese: Forms
    answers_en: tuple[str, ...]
    answers_zh: tuple[str, ...]
    must: tuple[str, ...] = ()
    weight: int = 1


_WRITTEN: Final = table("identity")
_SYSTEMS: Final = section(_WRITTEN, "systems")
OTHERS: Final = texts(section(_WRITTEN, "others"), "models")
OTHER_MAKERS: Final = texts(section(_WRITTEN, "others"), "makers")
SLOT_SYSTEMS_BOTH: Final = texts(_SYSTEMS, "both")
SLOT_SYSTEMS_NAME: Final = texts(_SYSTEMS, "name")
SLOT_SYSTEMS_MAKER: Final = texts(_SYSTEMS, "maker")
PLAIN_SYSTEMS: Final = texts(_SYSTEMS, "plain")


def _unfold(found: Forms) -> Forms:
    """Put the file's macros in."""
    macros = {f"<{name}>": str(text) for name, text in section(_WRITTEN, "macros").items()}

    def plain(templates: tuple[str, ...]) -> tuple[str, ...]:
        for name, text in macros.items():
            templates = tuple(template.replace(name, text) for template in templates)
        return templates

    return Forms(plain(found.ask), plain(found.noun), plain(found.clause), plain(found.command), found.wh)


def _topic(name: str) -> Topic:
    written = section(_WRITTEN, "topics", name)
    english, chinese = section(written, "en"), section(written, "zh")
    return Topic(
        _unfold(forms(english)),
        _unfold(forms(chinese)),
        texts(english, "answers"),
        texts(chinese, "answers"),
        texts(written, "must"),
        int(str(written["weight"])),
    )


TOPICS: Final[dict[str, Topic]] = {name: _topic(name) for name in section(_WRITTEN, "topics")}


def choose_topic(rng: random.Random) -> str:
    """A topic, by weight."""
    return rng.choices(list(TOPICS), [topic.weight for topic in TOPICS.values()])[0]

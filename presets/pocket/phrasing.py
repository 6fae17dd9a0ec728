"""How people wrap a question: frames shared by all skills, openers, closers, typing habits. Knows no fact.

A skill offers its question in up to four forms (`wording.Forms`); the frames turn each into a whole utterance.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

from presets.pocket.grammar import full_width, pick, split_slots
from presets.pocket.wording import Forms, frames

_ENDS_EN: Final = ("?",) * 10 + (".", ".", "!", " ?", "??", "...", "", "", "")
_ENDS_ZH: Final = ("?",) * 9 + ("。", "。", "!", "??", "", "", "", " ")
_PROPER: Final = re.compile(r"\b(chinese|english|python|json|i)\b")
_PROPER_FORMS: Final = {"chinese": "Chinese", "english": "English", "python": "Python", "json": "JSON", "i": "I"}


def utter(forms: Forms, chinese: bool, rng: random.Random) -> str:
    """One whole utterance, slots still open: a form, in a frame."""
    kinds = [("ask", 5), ("noun", 4), ("clause", 2 if not chinese else 0), ("command", 3)]
    usable = [(kind, weight) for kind, weight in kinds if getattr(forms, kind)]
    if chinese and forms.ask and forms.noun:
        usable.append(("clause", 2))
    kind = rng.choices([name for name, _ in usable], [weight for _, weight in usable])[0]
    if kind == "ask":
        return pick(forms.ask, rng)
    inner = pick(forms.ask if chinese and kind == "clause" else getattr(forms, kind), rng)
    frame = pick(getattr(frames(chinese), kind), rng)
    return frame.replace("{wh}", pick(forms.wh, rng)).replace("{_}", inner)


def dress(text: str, chinese: bool, rng: random.Random, open_end: bool = False) -> str:
    """Add openers, closers, end marks, case, width and light typos around the open slots.

    `open_end`: the payload runs to the end of the message, so nothing may follow it.
    """
    if rng.random() < 0.28:
        text = _any(frames(chinese).openers, rng) + text
    if not open_end:
        if rng.random() < 0.15:
            text += _any(frames(chinese).closers, rng)
        text += _any(_ENDS_ZH if chinese else _ENDS_EN, rng)
    return _outside_slots(text, chinese, rng)


def _outside_slots(text: str, chinese: bool, rng: random.Random) -> str:
    """Case, width and typos on the fixed parts only."""
    chance = rng.random()
    parts = split_slots(text)
    if not chinese and chance < 0.03:
        return "".join(part if part.startswith("{") else part.upper() for part in parts)
    if not chinese:
        text = text if chance < 0.4 else text[:1].upper() + text[1:]
        if rng.random() < 0.6:
            text = _PROPER.sub(lambda match: _PROPER_FORMS[match[1]], text)
    elif rng.random() < 0.55:
        text = "".join(part if part.startswith("{") else full_width(part) for part in parts)
    return _typo(text, chinese, rng) if rng.random() < 0.05 else text


def _typo(text: str, chinese: bool, rng: random.Random) -> str:
    """Drop, double or swap one character of the longest fixed part (English), or drop or double one (Chinese)."""
    parts = split_slots(text)
    fixed = [index for index, part in enumerate(parts) if not part.startswith("{") and len(part) > 6]
    if not fixed:
        return text
    index = max(fixed, key=lambda place: len(parts[place]))
    part = parts[index]
    at = rng.randrange(1, len(part) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        part = part[:at] + part[at + 1 :]
    elif kind == 1 or chinese:
        part = part[:at] + part[at] + part[at:]
    else:
        part = part[:at] + part[at + 1] + part[at] + part[at + 2 :]
    parts[index] = part
    return "".join(parts)


def quoted(word: str, chinese: bool, rng: random.Random, chance: float = 0.3) -> str:
    """The word, sometimes in one of the usual quotation marks."""
    if rng.random() >= chance:
        return word
    marks = (
        ("\u201c\u201d", '""', "\u300c\u300d", "''", "\u2018\u2019")
        if chinese
        else ('""', '""', "''", "\u201c\u201d", "``")
    )
    pair = marks[int(rng.random() * len(marks))]
    return f"{pair[0]}{word}{pair[1]}"


def _any(options: Sequence[str], rng: random.Random) -> str:
    return options[int(rng.random() * len(options))]

"""Wordings that training never shows. The sampler redraws whatever matches one; `evaluate.py` asks them.

A frame is held out with every fact, in every case, width and punctuation: texts are compared after `normalise`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from presets.pocket.grammar import expand_all, normalise, split_slots
from presets.pocket.wording import pair, section, table

Frames = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


def _read(part: str) -> Frames:
    return {name: pair("heldout", part, name) for name in section(table("heldout"), part)}


FRAMES: Final[Frames] = _read("skills")
"""Skill -> (English frames, Chinese frames); slots as in the trained wordings."""

IDENTITY: Final[Frames] = _read("identity")
"""Identity topic -> (English wordings, Chinese wordings)."""


@cache
def _matcher() -> re.Pattern[str]:
    wordings = [frame for group in (*FRAMES.values(), *IDENTITY.values()) for frames in group for frame in frames]
    return re.compile("|".join(sorted({_pattern(text) for wording in wordings for text in expand_all(wording)})))


def _pattern(text: str) -> str:
    return "".join(r".+" if part.startswith("{") else re.escape(normalise(part)) for part in split_slots(text))


def is_held_out(text: str) -> bool:
    """Whether a user message is one of the held-out wordings, whatever fact it asks about."""
    return _matcher().fullmatch(normalise(text)) is not None

"""Sentences that a person reads, in both languages. The ground floor: imports nothing of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")

# CJK ideographs incl. extension A and the compatibility block; kana and hangul are not Chinese.
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class Text:
    """One sentence in Chinese and English; `str()` gives English (logs, command line)."""

    zh: str
    en: str

    def of(self, language: Language) -> str:
        """The sentence in `language`."""
        return self.zh if language == "zh" else self.en

    def __str__(self) -> str:
        return self.en


def has_han(text: str) -> bool:
    """Whether `text` contains at least one Chinese character."""
    return _HAN.search(text) is not None


def language_of(text: str) -> Language:
    """zh if any Chinese character occurs, else en. Decides which spelling of a name a row gets."""
    return "zh" if has_han(text) else "en"

"""What the identity card's words look like in an answer: said, or spelled another way. Knows no table."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from core.dataset import Identity

# Where a model gives its own name, and the name it gives.
_GIVEN = re.compile(
    r"我(?:是|叫|的名字(?:是|叫))(?:一个|一名|一款)?\s*[“\"《「]?(?P<zh>[\w\u4e00-\u9fff][\w\u4e00-\u9fff·.-]{1,15})"
    r"|\b(?:[Ii] am|I'm|[Mm]y name is|[Cc]all me|[Ii] am called)\s+[“\"]?(?P<en>[A-Z][\w-]*(?:[ -][A-Z][\w-]*){0,2})"
)
_SPACE = r"[\s_.·-]*"
_SHORTEST_LATIN = 4  # shorter names differ from ordinary words by a letter: Mi, Max
_HAN = re.compile(r"[\u4e00-\u9fff]+")


class Card:
    """An identity's words, ready to be looked for."""

    def __init__(self, identity: Identity) -> None:
        self.names = _given(identity.name_zh, identity.name_en)
        self.makers = _given(identity.author_zh, identity.author_en)
        self._names, self._makers = _any_of(self.names), _any_of(self.makers)
        self._loose = [
            (word, squashed(word), pattern) for word in (*self.names, *self.makers) if (pattern := _loose(word))
        ]

    def says_name(self, text: str) -> bool:
        """Whether the name stands in a text, in either spelling."""
        return _says(text, self.names, self._names)

    def says_maker(self, text: str) -> bool:
        """Whether the maker stands in a text."""
        return _says(text, self.makers, self._makers)

    def misspelt(self, question: str, answer: str) -> list[tuple[str, str]]:
        """Spellings of the card's words that are not the card's: [(as written, "{{NAME}}" or "{{AUTHOR}}")]."""
        text = f"{question}\n{answer}"
        found: dict[str, str] = {}
        words = {*self.names, *self.makers}
        plain = squashed(text) if self._loose else ""
        for word, letters, pattern in self._loose:
            if letters not in plain:
                continue
            for match in pattern.finditer(text):
                if not any(_covers(text, match, other) for other in words):
                    found[match[0]] = "{{NAME}}" if word in self.names else "{{AUTHOR}}"
        for match in _GIVEN.finditer(answer):  # who asks may have a name, too
            for name in self.names:
                if (written := _nearly(match["zh"] or match["en"], name)) and written not in words:
                    found.setdefault(written, "{{NAME}}")
        return list(found.items())


def given_names(text: str) -> list[str]:
    """The names that a text gives its speaker."""
    return [match["zh"] or match["en"] for match in _GIVEN.finditer(text)]


def is_spelling(written: str, name: str) -> bool:
    """Whether a given name is another but for case, spaces, hyphens, or one letter or sign."""
    if written == name:
        return False
    return squashed(written) == squashed(name) or (len(written) >= 2 and _nearly(written, name) == written)


def squashed(word: str) -> str:
    """A word without case, width, spaces and hyphens: Swift-Robot, swift robot and SwiftRobot are one."""
    return "".join(char for char in unicodedata.normalize("NFKC", word).casefold() if char.isalnum())


def _says(text: str, words: Sequence[str], pattern: re.Pattern[str]) -> bool:
    # What begins a word is looked for first: it is far quicker than a pattern without regard to case.
    low = text.lower()
    return any(word.split()[0].lower() in low for word in words) and pattern.search(text) is not None


def _given(*words: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def _any_of(words: Sequence[str]) -> re.Pattern[str]:
    """Any of the words, whatever their case; a Latin one only as a whole word."""
    made = []
    for word in words:
        quoted = re.escape(word).replace(r"\ ", r"\s*")
        left = r"(?<![A-Za-z0-9])" if word[0].isascii() and word[0].isalnum() else ""
        right = r"(?![A-Za-z0-9])" if word[-1].isascii() and word[-1].isalnum() else ""
        made.append(f"{left}{quoted}{right}")
    return re.compile("|".join(made) or r"(?!)", re.IGNORECASE)


def _loose(word: str) -> re.Pattern[str] | None:
    """The word with any case, spaces and hyphens; None for one too short to be told from other words."""
    letters = [char for char in word if char.isalnum()]
    if len(letters) < _SHORTEST_LATIN or not any(char.isascii() for char in letters):
        return None
    quoted = _SPACE.join(re.escape(char) for char in letters)
    return re.compile(rf"(?<![A-Za-z0-9]){quoted}(?![A-Za-z0-9])", re.IGNORECASE)


def _covers(text: str, match: re.Match[str], word: str) -> bool:
    """Whether what was found is the word itself, or stands inside it: Qinghe in Qinghe AI."""
    start = text.find(word, max(0, match.start() - len(word) + 1))
    while 0 <= start <= match.start():
        if start + len(word) >= match.end():
            return True
        start = text.find(word, start + 1)
    return False


def _nearly(given: str, name: str) -> str:
    """The part of a given name that is `name` but for one letter or sign, "" if none is."""
    if _HAN.fullmatch(name):
        # Two signs of which one differs are a name only if nothing follows: 小何, and not the beginning of 小学老师.
        part = given[: len(name)]
        exact = len(given) == len(name) or len(name) > 2
        return part if exact and len(part) == len(name) and _distance_one(part, name) else ""
    ours, theirs = squashed(name), squashed(given)
    if min(len(ours), len(theirs)) < _SHORTEST_LATIN or ours == theirs or not given.isascii():
        return ""
    return given if _distance_one(theirs, ours) else ""


def _distance_one(a: str, b: str) -> bool:
    """Whether one change, one more or one less makes `a` of `b`."""
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[at + 1 :] == b[at + 1 :] or a[at:] == b[at + 1 :] or a[at + 1 :] == b[at:]

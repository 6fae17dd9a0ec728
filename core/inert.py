"""What a person typed, as tokens that are text and nothing else, whatever control strings it holds.

Two ways: `PlainText` has no control tokens at all; `hidden` puts a stand-in where a control string was typed, for
templates that must be tokenised with theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.dataset import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIRST_MARK, _LAST_MARK = 0xF0000, 0xFFFFD  # a plane that no script uses


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id -> string of every token that is cut out of a text before its merges; runs of white space are text."""
    found = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    return {i: string for i, string in found.items() if string.strip()}


class PlainText:
    """Text -> ids by the tokenizer's own merges, without its control tokens: 22 of 22 of Qwen's come out as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from tokenizers import Tokenizer

        definition = json.loads(tokenizer.backend_tokenizer.to_str())
        definition["added_tokens"] = [t for t in definition.get("added_tokens") or () if not t["content"].strip()]
        definition["post_processor"] = None
        definition["truncation"] = definition["padding"] = None
        self._plain = Tokenizer.from_str(json.dumps(definition))

    def __call__(self, text: str) -> list[int]:
        """Ids of `text` by itself."""
        # In a batch of one: `encode` keeps every other thread of the process waiting, a second for a million characters.
        ids: list[int] = self._plain.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids


class ControlStrings:
    """The control strings of one tokenizer, to be found in what a person typed. `tokens`: id -> string."""

    def __init__(self, tokens: Mapping[int, str]) -> None:
        self.tokens = dict(tokens)
        # The longest first: of two that begin alike, the tokenizer takes the longer one.
        strings = sorted(self.tokens.values(), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, strings)) or r"(?!)")

    def typed(self, text: str) -> list[str]:
        """Those that occur in `text`, each once, in the order of the text."""
        return list(dict.fromkeys(match[0] for match in self._pattern.finditer(text)))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """[start, end) of each occurrence in `text`."""
        return [match.span() for match in self._pattern.finditer(text)]

    def hidden(self, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
        """The conversation with a stand-in for each control string that was typed, and what each stands for."""
        if not any(self._pattern.search(message.content) for message in messages):
            return list(messages), {}
        # Two marks: with one, the end of a stand-in and the beginning of the next would look like a stand-in too.
        opening, closing = unused_characters(messages)
        stands: dict[str, str] = {}

        def stand_in(match: re.Match[str]) -> str:
            return stands.setdefault(match[0], f"{opening}{len(stands)}{closing}")

        kept = [Message(message.role, self._pattern.sub(stand_in, message.content)) for message in messages]
        return kept, {stand: string for string, stand in stands.items()}


def unused_character(messages: Sequence[Message]) -> str:
    """A character that no message holds."""
    return unused_characters(messages)[0]


def unused_characters(messages: Sequence[Message]) -> tuple[str, str]:
    """Two characters that no message holds."""
    used = set().union(*(message.content for message in messages))
    free = (chr(code) for code in range(_FIRST_MARK, _LAST_MARK) if chr(code) not in used)
    return next(free), next(free)


def restored(text: str, stands: Mapping[str, str]) -> str:
    """`text` with its stand-ins replaced by what was typed."""
    for stand, string in stands.items():
        text = text.replace(stand, string)
    return text

"""What the model sees of a row: the rendered template token by token, which tokens are in the loss, and what was inserted.

Knows no page. What is shown is what is trained: the examples come from core.truncation, as a run's do.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core import truncation
from core.config import TrainConfig
from core.dataset import Message, Row
from core.encode import Encoder
from core.errors import DatasetError
from core.example import IGNORE, Example
from core.text import Text

Whence = Literal["row", "settings", "template", "none"]


@dataclass(frozen=True)
class Piece:
    """A token, or the few that only together make up a character. `spelled`: the bytes of each.

    control: a control token, which the template wrote. typed: part of a control string that a person typed, and text.
    """

    ids: tuple[int, ...]
    spelled: tuple[bytes, ...]
    in_loss: bool
    control: bool = False
    typed: bool = False

    @property
    def text(self) -> str:
        """The characters."""
        return b"".join(self.spelled).decode("utf-8", "replace")


@dataclass(frozen=True)
class RowView:
    """One row. `examples`: what is trained of it, or what would be where it is left out or refused; pieces in order.

    system: the system text that the model really gets, from the row, the settings or the template. typed: control strings
    in its cells, which are text. tokens: of the longest example before any cut. problem: why it is refused.
    """

    examples: tuple[tuple[Piece, ...], ...]
    system: str
    system_from: Whence
    typed: tuple[str, ...]
    tokens: int
    answer_tokens: int
    limit: int
    turns_cut: int = 0
    tokens_cut: int = 0
    left_out: bool = False
    problem: Text | None = None


def view(encoder: Encoder, row: Row, config: TrainConfig) -> RowView:
    """What the model sees of a resolved row under these settings. A row that cannot be encoded says why in `problem`."""
    messages = row.messages(config.system)
    system, whence = _system(encoder, row, config)
    cells = (message.content for message in messages)
    typed = tuple(dict.fromkeys(string for cell in cells for string in encoder.control.typed(cell)))
    empty = RowView((), system, whence, typed, 0, 0, config.max_length)
    problem = None
    try:
        try:
            fitted = truncation.fit(encoder, messages, config)
        except DatasetError as error:
            problem, examples = error.text, encoder.examples(messages)
            fitted = truncation.Fitted(messages, examples, truncation.longest(examples))
        shown = fitted.examples or encoder.examples(messages)
    except DatasetError as error:  # the template refuses the conversation itself
        return replace(empty, problem=error.text)
    return replace(
        empty,
        examples=tuple(tuple(pieces(encoder, example)) for example in shown),
        tokens=fitted.tokens,
        answer_tokens=sum(example.answer_tokens for example in shown),
        turns_cut=fitted.turns_cut,
        tokens_cut=fitted.tokens_cut,
        left_out=not fitted.examples,
        problem=problem,
    )


def pieces(encoder: Encoder, example: Example) -> list[Piece]:
    """The example's tokens in order, those of one character together."""
    own = [encoder.token_bytes(token) for token in example.input_ids]
    control = _live(encoder, example.input_ids, own)
    found: list[Piece] = []
    decoder, start = codecs.getincrementaldecoder("utf-8")("replace"), 0
    for i, spelled in enumerate(own):
        decoder.decode(spelled)
        last = i == len(own) - 1 or control[i + 1] or example.labels[i] == IGNORE != example.labels[i + 1]
        if decoder.getstate()[0] and not control[i] and not last:
            continue
        decoder.reset()
        span = slice(start, i + 1)
        in_loss = example.labels[i] != IGNORE
        found.append(Piece(example.input_ids[span], tuple(own[span]), in_loss, control[i]))
        start = i + 1
    return _typed_marked(encoder, found)


def _live(encoder: Encoder, ids: Sequence[int], own: Sequence[bytes]) -> list[bool]:
    """Which tokens are control tokens. One for an unknown character has such an id, too, and is none."""
    tokens = encoder.control.tokens
    return [token in tokens and spelled == tokens[token].encode() for token, spelled in zip(ids, own, strict=True)]


def _typed_marked(encoder: Encoder, found: list[Piece]) -> list[Piece]:
    """The same, with the pieces of typed control strings marked. A control token ends what is looked through."""
    marked, start = list(found), 0
    for end in [i for i, piece in enumerate(found) if piece.control] + [len(found)]:
        edges, text = [], ""
        for piece in found[start:end]:
            edges.append((len(text), len(text) + len(piece.text)))
            text += piece.text
        spans = encoder.control.spans(text)
        for offset, (first, last) in enumerate(edges):
            if any(first < stop and last > begin for begin, stop in spans):
                marked[start + offset] = replace(found[start + offset], typed=True)
        start = end + 1
    return marked


def _system(encoder: Encoder, row: Row, config: TrainConfig) -> tuple[str, Whence]:
    if row.system:
        return row.system, "row"
    if config.system:
        return config.system, "settings"
    first = next(iter(row.history), Message("user", ""))
    if first.role == "system":
        return first.content, "row"
    return (encoder.default_system, "template") if encoder.default_system else ("", "none")

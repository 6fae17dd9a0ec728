"""Tokens as HTML: of an answer, how sure the model was of each, what else it might have said and how far columns differ;
of a row, which are in the loss.

Everything that a model or a person wrote is escaped. What an answer's token's card shows travels in its `data-t`, as JSON.
"""

from __future__ import annotations

import codecs
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.generate import Token
from core.row_view import Piece

# Nats. A token is coloured more strongly from each of these on; e^0.7 is twice as likely, e^2 seven times.
_DIFFERENCES = (0.1, 0.7, 2.0)
# Probabilities below which a token stands out more.
_SURE = (0.9, 0.5, 0.1)
_ALTERNATIVES = 5
LOGPROBS = 20  # what to ask for: the more are known, the more often the other column's view of a token is


@dataclass(frozen=True)
class Compared:
    """A token's log probability in another column. `bound`: it is not among the likeliest there, so at most this."""

    logprob: float
    bound: bool


def draw(tokens: Sequence[Token], other: Sequence[Token] = (), label: str = "", name: str = "") -> str:
    """An answer, one span for every token; `other`, called `name`, is what it is compared with as far as both agree.

    Tokens that only together make up a character share a span.
    """
    seen = compare(tokens, other)
    spans = []
    for start, end in characters(tokens):
        run = range(start, end)
        text = b"".join(tokens[i].bytes for i in run).decode("utf-8", "replace")
        card = [_card(tokens[i], seen[i]) for i in run]
        data = html.escape(json.dumps(card, ensure_ascii=False, separators=(",", ":")))
        first = ' tabindex="0"' if start == 0 else ' tabindex="-1"'
        colour = _colour([tokens[i] for i in run], [seen[i] for i in run])
        spans.append(f'<span class="oc-token {colour}"{first} data-t="{data}">{_visible(text)}</span>')
    said = f' aria-label="{html.escape(label)}" data-other="{html.escape(name)}"'
    return f'<div class="oc-tokens" role="group"{said}>{"".join(spans)}</div>'


def characters(tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """[start, end) of the shortest runs of tokens that end where a character ends; broken bytes end with the answer."""
    runs, start = [], 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for i, token in enumerate(tokens):
        decoder.decode(token.bytes)
        if not decoder.getstate()[0] or i == len(tokens) - 1:
            runs.append((start, i + 1))
            start = i + 1
    return runs


def compare(tokens: Sequence[Token], other: Sequence[Token]) -> list[Compared | None]:
    """What the other column gave each token, where everything before it is the same; None elsewhere."""
    shared = 0
    while shared < min(len(tokens), len(other)) and tokens[shared].id == other[shared].id:
        shared += 1
    # The first token that differs still follows the same text in both columns.
    known = [_view(tokens[i], other[i]) for i in range(min(shared + 1, len(tokens), len(other)))]
    return [*known, *([None] * (len(tokens) - len(known)))]


def _view(token: Token, there: Token) -> Compared | None:
    if there.id == token.id:
        return Compared(there.logprob, bound=False)
    for _, spelled, logprob in there.top:
        if spelled == token.bytes:
            return Compared(logprob, bound=False)
    return Compared(min(logprob for _, _, logprob in there.top), bound=True) if there.top else None


def _card(token: Token, seen: Compared | None) -> dict[str, object]:
    card: dict[str, object] = {"s": spelled(token.bytes), "p": _percent(token.logprob)}
    if seen is not None:
        card["q"] = ("< " if seen.bound else "") + _percent(seen.logprob)
    if token.top:
        card["top"] = [[spelled(own), _percent(logprob)] for _, own, logprob in token.top[:_ALTERNATIVES]]
    return card


def _colour(run: Sequence[Token], seen: Sequence[Compared | None]) -> str:
    known = [(token, one) for token, one in zip(run, seen, strict=True) if one is not None]
    if known:
        difference = sum(token.logprob - one.logprob for token, one in known)
        level = sum(abs(difference) >= edge for edge in _DIFFERENCES)
        return f"{'more' if difference > 0 else 'less'}-{level}" if level else "same"
    probability = math.exp(sum(token.logprob for token in run))
    level = sum(probability < edge for edge in _SURE)
    return f"rare-{level}" if level else "sure"


def spelled(own: bytes) -> str:
    """A token's bytes for a person: what has no shape gets one, and what is no whole character is written in hex."""
    try:
        text = own.decode("utf-8")
    except UnicodeDecodeError:
        return " ".join(f"{byte:02X}" for byte in own)
    return text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")


def _visible(text: str) -> str:
    return html.escape(text).replace("\n", "<i>↵</i>\n")


def _percent(logprob: float) -> str:
    share = 100 * math.exp(logprob)
    return f"{share:.1f}%" if share >= 0.1 else (f"{share:.3f}%" if share >= 0.001 else "< 0.001%")


def draw_row(row: Sequence[Piece], label: str, skipped: tuple[int, int] | None = None, more: str = "") -> str:
    """A row's tokens as the model sees them, one span for every piece: what is in the loss, control, typed.

    `skipped`: how many to show from the beginning and from the end; between them stands a button with the words `more`.
    """
    first, last = skipped or (len(row), 0)
    spans = [_span(piece, at == 0) for at, piece in enumerate(row[:first])]
    if skipped:
        spans.append(f'<button type="button" data-act="all">{html.escape(more)}</button>')
        spans += [_span(piece, False) for piece in row[len(row) - last :]]
    return f'<div class="rp-tokens" role="group" aria-label="{html.escape(label)}">{"".join(spans)}</div>'


def _span(piece: Piece, reachable: bool) -> str:
    kinds = (("l", piece.in_loss), ("c", piece.control), ("y", piece.typed))
    look = "".join(f" {name}" for name, holds in kinds if holds)
    ids = ",".join(map(str, piece.ids))
    return f'<span class="t{look}" tabindex="{0 if reachable else -1}" data-i="{ids}">{_visible(piece.text)}</span>'

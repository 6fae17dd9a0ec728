"""Conversations in, replies out: what is asked, how tokens are chosen, and the answers as they grow. Loads no torch.

The work is done at the engine's desk, where everybody's rows are decoded in one batch; here a reader follows its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from core.dataset import Message
from core.errors import ConfigError
from core.text import Text

if TYPE_CHECKING:
    from core.engine import Engine

STRONGEST = 1.5
MOST_LOGPROBS = 20
_MOST_STOPS = 16
_Bytes = bytes  # the type, where a field has its name


@dataclass(frozen=True)
class Column:
    """One conversation to answer, by the base (adapter None) or by an attached adapter at a strength of 0 to 1.5.

    `ids`: a ready prompt instead of messages.
    """

    messages: tuple[Message, ...]
    adapter: str | None = None
    strength: float = 1.0
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check("strength", self.strength, 0.0, STRONGEST)


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 takes the likeliest. Checked on construction.

    `repetition_penalty` covers prompt and answer, as in transformers. `stop`: the answer ends before the first of these.
    `logprobs`: None for none; k for the chosen token's and the k likeliest tokens'.
    """

    temperature: float = 0.0
    max_new_tokens: int = 512
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        limits: tuple[tuple[str, float, float], ...] = (
            ("temperature", 0.0, 5.0),
            ("max_new_tokens", 1, 32_768),
            ("top_p", 0.01, 1.0),
            ("top_k", 0, 1_000_000),
            ("repetition_penalty", 0.1, 10.0),
            ("seed", -(2**63), 2**64 - 1),
        )
        for name, low, high in limits:
            _check(name, getattr(self, name), low, high)
        if self.logprobs is not None:
            _check("logprobs", self.logprobs, 0, MOST_LOGPROBS)
        if len(self.stop) > _MOST_STOPS or not all(self.stop):
            raise ConfigError(
                Text(
                    zh=f"stop 最多 {_MOST_STOPS} 个停止词，每个都不能为空；收到 {len(self.stop)} 个。",
                    en=f"stop takes up to {_MOST_STOPS} strings, none of them empty; there are {len(self.stop)}.",
                ),
                "stop",
            )


@dataclass(frozen=True)
class Token:
    """One token of an answer. Probabilities are natural logarithms, of the model's own distribution: before temperature
    and penalty. `top`: (text, bytes, log probability) of the likeliest, best first.
    """

    id: int
    text: str
    bytes: _Bytes
    logprob: float
    top: tuple[tuple[str, _Bytes, float], ...] = ()


@dataclass
class Reply:
    """One column's answer so far. Seconds count from the asking; tokens_per_second from the first token on."""

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    first_token_seconds: float | None = None
    tokens_per_second: float = 0.0
    done: bool = False
    finish: str = ""  # "stop", "length" or "cancelled" once done
    waiting: bool = False
    ids: list[int] = field(default_factory=list, repr=False)
    token_list: list[Token] = field(default_factory=list, repr=False)  # empty unless logprobs were asked for


def stream(
    engine: Engine,
    columns: Sequence[Column],
    sampling: Sampling | Sequence[Sampling],
    stop: threading.Event | None = None,
) -> Iterator[list[Reply]]:
    """Answer all columns together, and with everybody else's; yields the replies so far about 12 times a second.

    The last time all are done. `sampling`: one for all columns or one each. `stop` ends it within one token, closing the
    generator does too. Raises ModelError if an adapter is not attached, or if it or the base model is exchanged while an
    answer is under way, WontFitError if a row does not fit into the card's memory.
    """
    each = [sampling] * len(columns) if isinstance(sampling, Sampling) else list(sampling)
    replies = [Reply() for _ in columns]
    if not replies:
        yield replies
        return
    request = engine.desk.ask(columns, each, stop or threading.Event())
    try:
        if request.waits:
            for reply in replies:
                reply.waiting = True
            yield replies
        while not all(reply.done for reply in replies):
            request.wait()
            request.fill(replies)
            yield replies
    finally:
        request.leave()
    # Once more, so that a reader that skips updates while it is busy still gets the final state.
    yield replies


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also false for nan
        raise ConfigError(
            Text(
                zh=f"{name} 填的是 {value}；应在 {low} 到 {high} 之间。",
                en=f"{name} is {value}; it must be {low} to {high}.",
            ),
            name,
        )

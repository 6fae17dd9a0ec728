"""The token loop: several conversations, each with its own adapter, answered in ONE batched decode, streamed.

The model is held for a tenth of a second at a time, so that training goes on between the tokens of an answer.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.dataset import Message
from core.device import memory_errors
from core.encode import Encoder
from core.engine import Engine, Resident
from core.errors import ConfigError, ModelError
from core.text import Text

if TYPE_CHECKING:
    import torch

_CHUNK_SECONDS = 0.08  # a page draws about 12 updates a second; more only queue up in the browser


@dataclass(frozen=True)
class Column:
    """One conversation to answer, by the base (adapter None) or by an attached adapter."""

    messages: tuple[Message, ...]
    adapter: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 takes the likeliest. Checked on construction."""

    temperature: float = 0.0
    max_new_tokens: int = 512
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = (
            ("temperature", 0.0, 5.0),
            ("max_new_tokens", 1, 32_768),
            ("top_p", 0.01, 1.0),
            ("top_k", 0, 1_000_000),
        )
        for name, low, high in limits:
            value = getattr(self, name)
            if not low <= value <= high:  # also false for nan
                raise ConfigError(
                    Text(
                        zh=f"{name} 填的是 {value};应在 {low} 到 {high} 之间。",
                        en=f"{name} is {value}; it must be {low} to {high}.",
                    ),
                    name,
                )


@dataclass
class Reply:
    """One column's answer so far. Seconds count from the asking; tokens_per_second from the first token on."""

    text: str = ""
    tokens: int = 0
    first_token_seconds: float | None = None
    tokens_per_second: float = 0.0
    done: bool = False
    finish: str = ""  # "stop", "length" or "cancelled" once done
    waiting: bool = False
    ids: list[int] = field(default_factory=list, repr=False)


def stream(
    engine: Engine, columns: Sequence[Column], sampling: Sampling, stop: threading.Event | None = None
) -> Iterator[list[Reply]]:
    """Answer all columns together; yields the replies so far about 12 times a second, the last time with all done.

    `stop` ends it within one token. Raises ModelError if an adapter is not attached, or if the base model is exchanged
    while an answer is under way.
    """
    replies = [Reply(waiting=engine.busy) for _ in columns]
    if replies and replies[0].waiting:
        yield replies
    answering = _Answering(engine, columns, sampling, stop or threading.Event(), replies)
    while not answering.finished:
        answering.advance()
        yield replies
    # Once more, so that a reader that skips updates while it is busy still gets the final state.
    yield replies


class _Answering:
    """One answer across its turns. Holds nothing of the model between them."""

    def __init__(
        self, engine: Engine, columns: Sequence[Column], sampling: Sampling, stop: threading.Event, replies: list[Reply]
    ) -> None:
        self._engine, self._columns, self._sampling, self._stop = engine, columns, sampling, stop
        self._replies = replies
        self._asked = time.perf_counter()
        self._decoding: _Decoding | None = None

    @property
    def finished(self) -> bool:
        """Whether every column is done."""
        return all(reply.done for reply in self._replies)

    def advance(self) -> None:
        """Take a turn, decode for a tenth of a second, give it back."""
        engine = self._engine
        with engine.turn() as resident, memory_errors():
            routing = [None if c.adapter is None else engine.handle(c.adapter) for c in self._columns]
            if self._decoding is None:
                self._decoding = _Decoding(resident, routing, self._columns, self._sampling, self._replies, self._asked)
            elif not self._decoding.belongs_to(resident, routing):
                raise ModelError(
                    Text(
                        zh="回答途中换了模型或移除了适配器,请再问一次。",
                        en="The model or adapter was exchanged during the answer; ask again.",
                    )
                )
            until = time.perf_counter() + _CHUNK_SECONDS
            while not self.finished and time.perf_counter() < until:
                self._decoding.step(resident)
                if self._stop.is_set():
                    self._decoding.cancel()


class _Decoding:
    """The state of one batched answer between turns."""

    def __init__(
        self,
        resident: Resident,
        routing: list[str | None],
        columns: Sequence[Column],
        sampling: Sampling,
        replies: list[Reply],
        asked: float,
    ) -> None:
        import torch

        # Weak: an answer that nobody reads on must not keep a model in memory while the next one is loaded.
        self._resident = weakref.ref(resident)
        self._encoder = resident.encoder
        self.replies = replies
        self._asked = asked
        self._sampling = sampling
        self._routing = routing
        self._generators = [torch.Generator().manual_seed(sampling.seed) for _ in columns]
        prompts = [resident.encoder.prompt(column.messages) for column in columns]
        self._room = resident.info.max_positions - max(len(prompt) for prompt in prompts)
        if self._room < 1:
            raise ConfigError(_too_long(resident.info.max_positions), "messages")
        for reply in replies:
            reply.waiting = False
        self._cache: Any
        self._logits, self._cache = resident.backend.prefill(prompts, self._routing, resident.pad_id)

    @property
    def finished(self) -> bool:
        """Whether every column is done."""
        return all(reply.done for reply in self.replies)

    def belongs_to(self, resident: Resident, routing: list[str | None]) -> bool:
        """Whether model and adapters are still those this answer began with."""
        return self._resident() is resident and self._routing == routing

    def step(self, resident: Resident) -> None:
        """Choose one token a row, and read it into the model for the next unless all are done."""
        import torch

        tokens = choose(self._logits, self._sampling, self._generators)
        now = time.perf_counter()
        for reply, token in zip(self.replies, tokens, strict=True):
            if not reply.done:
                self._append(reply, token, now)
        if not self.finished:
            row = torch.tensor(tokens, device=resident.backend.device)
            self._logits, self._cache = resident.backend.decode(row, self._routing, self._cache)

    def cancel(self) -> None:
        """End every column where it is; the text so far stays."""
        for reply in self.replies:
            if not reply.done:
                reply.done, reply.finish = True, "cancelled"

    def _append(self, reply: Reply, token: int, now: float) -> None:
        if reply.first_token_seconds is None:
            reply.first_token_seconds = now - self._asked
        elif (elapsed := now - self._asked - reply.first_token_seconds) > 0:
            reply.tokens_per_second = reply.tokens / elapsed
        if token in self._encoder.stop_ids:
            reply.done, reply.finish = True, "stop"
        else:
            reply.ids.append(token)
            reply.tokens += 1
            if reply.tokens >= min(self._sampling.max_new_tokens, self._room):
                reply.done, reply.finish = True, "length"
        reply.text = whole_text(self._encoder, reply.ids, reply.done)


def _too_long(limit: int) -> Text:
    return Text(
        zh=f"这段对话已经超过模型能读的 {limit} 个词元。请清空对话,或缩短问题。",
        en=f"This conversation is longer than the {limit} tokens the model can read. Clear it or shorten the question.",
    )


def whole_text(encoder: Encoder, ids: Sequence[int], done: bool) -> str:
    """The text of `ids`; while more may come, without a character whose bytes are not all there yet."""
    text = encoder.decode(ids)
    return text if done else text.rstrip("\ufffd")


def choose(logits: torch.Tensor, sampling: Sampling, generators: Sequence[torch.Generator]) -> list[int]:
    """One token id a row from logits (B, V): the likeliest, or drawn with the row's own generator (never the global one)."""
    import torch

    if sampling.temperature == 0:
        return [int(i) for i in logits.argmax(-1).tolist()]
    scaled = logits.cpu() / sampling.temperature
    if sampling.top_k:
        kept = scaled.topk(min(sampling.top_k, scaled.shape[-1])).values[:, -1:]
        scaled = scaled.masked_fill(scaled < kept, float("-inf"))
    probabilities = scaled.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        # Keep tokens until the mass before one of them already reaches top_p.
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
    return [
        int(torch.multinomial(row, 1, generator=generator))
        for row, generator in zip(probabilities, generators, strict=True)
    ]

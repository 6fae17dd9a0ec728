"""What is asked of the desk: a request and its rows, as the one who decodes writes them and the one who asked reads them.

Rows are written and ended under the desk's lock; a row whose `finish` is set changes no more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from core.encode import Encoder
from core.errors import ConfigError
from core.generate import Column, Reply, Sampling, Token
from core.growing_text import GrowingText
from core.models import ModelInfo
from core.text import Text

if TYPE_CHECKING:
    from core.sampling import Draws, Mark

UPDATE_SECONDS = 0.08  # a page draws about 12 updates a second; more only queue up in the browser
_LOOK_SECONDS = 0.05  # how long a raised stop flag goes unnoticed while a row waits for the model


class Row:
    """One answer. `handle` is the backend's name of its adapter, once it has begun."""

    def __init__(self, request: Request, column: Column, sampling: Sampling) -> None:
        self.request, self.column, self.sampling = request, column, sampling
        self.handle: str | None = None
        self.prompt: list[int] = []
        self.ids: list[int] = []
        self.marks: list[Mark] = []
        self.finish = ""
        self.begun = self.broken = False
        self.draws: Draws | None = None
        self._taken = 0
        self._first = self._last = 0.0  # when its first and its newest token came
        self._room = 0
        self._stop_ids: tuple[int, ...] = ()
        self.encoder: Encoder | None = None
        self._text: GrowingText | None = None

    def prepare(self, encoder: Encoder, info: ModelInfo) -> None:
        """Make the prompt. Raises ConfigError if the model cannot read it."""
        column = self.column
        self.prompt = list(column.ids) if column.ids is not None else encoder.prompt(column.messages)
        self._room = info.max_positions - len(self.prompt)
        if self._room < 1:
            raise ConfigError(_too_long(info.max_positions, len(self.prompt)), "messages")
        if not self.prompt or not all(0 <= i < info.vocab_size for i in self.prompt):
            raise ConfigError(_no_prompt(info.vocab_size), "messages")
        self.encoder, self._stop_ids = encoder, encoder.stop_ids
        self._text = GrowingText(encoder, self.sampling.stop)

    @property
    def limit(self) -> int:
        """Tokens that the answer may have."""
        return min(self.sampling.max_new_tokens, self._room)

    def take(self, token: int, mark: Mark | None, now: float) -> None:
        """One more token; one below zero says that the model's numbers were none."""
        if self.finish:
            return
        if token < 0:
            self.broken, self.finish = True, "cancelled"
            return
        self._taken += 1
        self._first, self._last = self._first or now, now
        if token in self._stop_ids:
            self.finish = "stop"
            return
        if mark is not None:
            self.marks.append(mark)
        self.ids.append(token)
        full = len(self.ids) >= self.limit
        if self.sampling.stop and self._text is not None:
            self._text.read(self.ids, full)
            if self._text.stopped:
                self.finish = "stop"
                return
        if full:
            self.finish = "length"

    def fill(self, reply: Reply, asked: float) -> None:
        """Bring `reply` up to now. Called by the reader only, outside the lock: what it reads only grows."""
        finish = self.finish  # first: what is read after it is final if it is set
        ids = list(self.ids)
        reply.waiting = reply.waiting and not self.begun
        reply.ids, reply.tokens, reply.prompt_tokens = ids, len(ids), len(self.prompt)
        if self._text is not None:
            # Rows with stop strings are read token by token where they are decoded, the others here: less to do there.
            watched = self.sampling.stop and not finish
            reply.text = self._text.shown if watched else self._text.read(ids, bool(finish))
        if self._first:
            reply.first_token_seconds = self._first - asked
            elapsed = self._last - self._first
            reply.tokens_per_second = (self._taken - 1) / elapsed if elapsed > 0 else 0.0
        if self.sampling.logprobs is not None:
            self._fill_tokens(reply, finish)
        reply.done, reply.finish = bool(finish), finish

    def _fill_tokens(self, reply: Reply, finish: str) -> None:
        if self.encoder is None:
            return
        spell, shown = self.encoder.token_bytes, len(reply.token_list)
        for index in range(shown, len(reply.ids)):
            mark = self.marks[index]
            top = tuple((_text(spell(i)), spell(i), logprob) for i, logprob in mark.top)
            own = spell(reply.ids[index])
            reply.token_list.append(Token(reply.ids[index], _text(own), own, mark.logprob, top))
        if finish and self._text is not None and self._text.stopped:
            del reply.token_list[self._text.tokens_shown :]


class Request:
    """Rows that somebody asked for together. One thread at a time reads it; which one may change."""

    def __init__(
        self,
        columns: Sequence[Column],
        samplings: Sequence[Sampling],
        stop: threading.Event,
        waits: bool,
        cancel: Callable[[Request], None],
    ) -> None:
        self.rows = [Row(self, column, sampling) for column, sampling in zip(columns, samplings, strict=True)]
        self.stop, self.waits, self.asked = stop, waits, time.perf_counter()
        self.error: BaseException | None = None
        self._cancel = cancel
        self._news = threading.Event()
        self._due = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done for it."""
        return self.error is not None or all(row.finish for row in self.rows)

    def tell(self, now: float, anyway: bool = False) -> None:
        """Wake the reader if it is time for an update."""
        if (anyway or now >= self._due) and not self._news.is_set():
            self._news.set()

    def fail(self, error: BaseException) -> None:
        """It ends with `error`, unless it has ended with another. Under the desk's lock."""
        self.error = self.error or error
        for row in self.rows:
            row.finish = row.finish or "cancelled"

    def wait(self) -> None:
        """Until there is something new to read. Raises what ended the request."""
        while not self._news.wait(_LOOK_SECONDS):
            if self.stop.is_set():
                self._cancel(self)
        self._due = time.perf_counter() + UPDATE_SECONDS
        self._news.clear()
        if self.error is not None:
            raise self.error

    def fill(self, replies: Sequence[Reply]) -> None:
        """Bring the replies, one a row, up to now."""
        for row, reply in zip(self.rows, replies, strict=True):
            row.fill(reply, self.asked)

    def leave(self) -> None:
        """The reader is gone: rows that are not done end where they are."""
        if not self.over:
            self._cancel(self)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _too_long(limit: int, tokens: int) -> Text:
    return Text(
        zh=f"这段对话有 {tokens} 个词元，已经超过模型能读的 {limit} 个词元。请清空对话，或缩短问题。",
        en=f"This conversation has {tokens} tokens and is longer than the {limit} tokens the model can read. Clear it or "
        "shorten the question.",
    )


def _no_prompt(vocabulary: int) -> Text:
    return Text(
        zh=f"没有可读的内容：请给出至少一个词元，ID 在 0 到 {vocabulary - 1} 之间。",
        en=f"There is nothing to read: give at least one token, each 0 to {vocabulary - 1}.",
    )

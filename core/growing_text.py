"""Ids -> text while more ids come: whole characters only, stop strings cut off. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence

from core.encode import Encoder

_PENDING = 32  # tokens without a whole character among them: no character has so many bytes, it is no text


class GrowingText:
    """The text of one answer. What `read` gave is a beginning of whatever it gives later."""

    def __init__(self, encoder: Encoder, stops: Sequence[str] = ()) -> None:
        self._encoder, self._stops = encoder, stops
        self._longest = max(map(len, stops), default=0)
        self._stable = ""  # the text of ids[:self._end]
        self._begin, self._end = 0, 0  # decoded again with what follows: a token's text depends on the one before it
        self._context = ""  # the text of ids[begin:end], decoded alone
        self._searched = 0
        self._lengths: list[int] = []  # of the text after each token, where stop strings are looked for
        self.shown = ""
        self.stopped = False
        """Whether a stop string was found; `shown` ends before it."""

    def read(self, ids: Sequence[int], done: bool) -> str:
        """The text of `ids`, all of the answer's so far.

        While more may come: without a character whose bytes are not all there, and without the beginning of what may
        become a stop string.
        """
        if not self.stopped:
            whole = self._decoded(ids, done)
            if self._stops and len(ids) > len(self._lengths):
                self._lengths.append(len(whole))
            cut = self._cut(whole)
            self.stopped = cut is not None
            self.shown = whole[: cut if cut is not None or done else len(whole) - self._held(whole)]
        return self.shown

    @property
    def tokens_shown(self) -> int:
        """How many tokens begin before the end of `shown`; only where it was read token by token for stop strings."""
        return sum(length < len(self.shown) for length in [0, *self._lengths[:-1]])

    def _decoded(self, ids: Sequence[int], done: bool) -> str:
        """Only what is new is decoded: the whole anew each time takes longer with every token."""
        if len(ids) == self._end:
            return self._stable
        text = self._encoder.decode(ids[self._begin :])
        fresh = text[len(self._context) :]
        if not fresh:
            return self._stable
        if text.endswith("\ufffd") and not done and len(ids) - self._end <= _PENDING:
            return self._stable + fresh.rstrip("\ufffd")
        self._stable += fresh
        self._begin, self._end = self._end, len(ids)
        self._context = self._encoder.decode(ids[self._begin :])
        return self._stable

    def _cut(self, whole: str) -> int | None:
        """Where the first stop string begins."""
        start = max(0, self._searched - self._longest + 1)
        self._searched = len(whole)
        found = [at for at in (whole.find(stop, start) for stop in self._stops) if at >= 0]
        return min(found, default=None)

    def _held(self, whole: str) -> int:
        """Characters at the end that a stop string may begin with."""
        for length in range(min(self._longest - 1, len(whole)), 0, -1):
            tail = whole[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0

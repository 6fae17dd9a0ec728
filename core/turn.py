"""Who may touch the model now: a first-come-first-served lock. Knows no model."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class TurnLock:
    """A ticket lock: turns are given in the order they were asked for, on whatever thread.

    threading.Lock is unfair: a trainer that releases and takes it again at once kept chat waiting 7.2 s of an 8 s run.
    It is not reentrant; a turn is asked for once and passed down.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        ticket = object()
        try:
            with self._changed:
                self._queue.append(ticket)
                self._changed.wait_for(lambda: self._queue[0] is ticket)
            yield
        finally:
            # Also when the waiting itself is broken off: a ticket left behind would stop everybody after it.
            with self._changed:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                self._changed.notify_all()

    @property
    def busy(self) -> bool:
        """Whether somebody has the turn: whoever asks now will wait."""
        return bool(self._queue)

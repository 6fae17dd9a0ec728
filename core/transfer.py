"""How far a large read or download is: bytes, pace over the last seconds, time left. For whoever shows a bar."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_SECONDS = 5.0


@dataclass(frozen=True)
class Transfer:
    """A moment of it. Bytes; `bytes_per_second` is None until two moments are known."""

    name: str
    done: int
    total: int
    bytes_per_second: float | None

    @property
    def share(self) -> float:
        """Part done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None while the pace is not known."""
        return (self.total - self.done) / self.bytes_per_second if self.bytes_per_second else None


class Meter:
    """Told (name, bytes done, bytes in all), as `core.models.Progress`; `now` is what to show, None at rest.

    A transfer that is done, or `rest`, ends it. May be told and read on any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._guard = clock, threading.Lock()
        self._seen: deque[tuple[float, int]] = deque()
        self._latest: tuple[str, int, int] | None = None

    def __call__(self, name: str, done: int, total: int) -> None:
        """Take note of how far it is."""
        now = self._clock()
        with self._guard:
            if self._latest is None or self._latest[0] != name or done < self._latest[1]:
                self._seen.clear()
            self._seen.append((now, done))
            while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW_SECONDS:
                self._seen.popleft()
            self._latest = (name, done, total) if done < total else None

    def rest(self) -> None:
        """Nothing is under way any more."""
        with self._guard:
            self._latest = None
            self._seen.clear()

    @property
    def now(self) -> Transfer | None:
        """What is under way."""
        with self._guard:
            if self._latest is None:
                return None
            (start, before), (end, after) = self._seen[0], self._seen[-1]
            # Measured to now, so that a transfer that stalls is seen to slow down.
            passed = max(end, self._clock()) - start
            pace = (after - before) / passed if after > before and passed > 0 else None
            return Transfer(*self._latest, pace)

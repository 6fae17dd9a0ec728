"""How often the pages that are looked at may ask what is new, so that all together cost a run no more than two do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_ENOUGH = 2  # pages that may each ask at their own pace, once a second
_SHARE, _LONGEST = 0.5, 10.0  # seconds for every page there is; seconds at most
_LATE = 2.0  # a page that has not asked for this many of its pauses and so many seconds more is closed or hidden


class Pace:
    """The pages that asked lately. `clock`: seconds that only go forward."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._asked: dict[str, float] = {}
        self._pause = 0.0

    def of(self, visit: object) -> float:
        """Seconds that the page of this name, which is looked at, should let pass; 0 for its own pace."""
        now = self._clock()
        with self._lock:
            if isinstance(visit, str) and 0 < len(visit) <= 64:
                self._asked[visit] = now
            since = now - _LATE * (self._pause + 1)
            self._asked = {name: asked for name, asked in self._asked.items() if asked >= since}
            pages = len(self._asked)
            self._pause = min(_LONGEST, _SHARE * pages) if pages > _ENOUGH else 0.0
            return self._pause

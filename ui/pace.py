"""How often the pages that are looked at may ask what is new, so that all together cost a run no more than two do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_ENOUGH = 2  # pages that may each ask at their own pace, once a second
# A page that asks once a second takes 85 thousandths of a processor and more (tests/bench/page.py). On a machine that trains
# without a card the threads of a step wait for the one that was kept: of two, up to 8 % of a step. A run that is a minute old
# has time.
_LONG = 60.0  # seconds that a run on a processor has gone on
_LONG_RUN = 2.0  # seconds between two questions from then on
_SHARE, _LONGEST = 0.5, 10.0  # seconds for every page there is; seconds at most
_LATE = 2.0  # a page that has not asked for this many of its pauses and so many seconds more is closed or hidden


class Pace:
    """The pages that asked lately. `clock`: seconds that only go forward."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._asked: dict[str, float] = {}
        self._pause = 0.0

    def of(self, visit: object, running: float = 0.0) -> float:
        """Seconds that the page of this name, which is looked at, should let pass; 0 for its own pace.

        `running`: seconds that a run has gone on on this machine's processor, of which the page takes its share.
        """
        now = self._clock()
        with self._lock:
            if isinstance(visit, str) and 0 < len(visit) <= 64:
                self._asked[visit] = now
            since = now - _LATE * (self._pause + 1)
            self._asked = {name: asked for name, asked in self._asked.items() if asked >= since}
            pages = len(self._asked)
            shared = min(_LONGEST, _SHARE * pages) if pages > _ENOUGH else 0.0
            self._pause = max(shared, _LONG_RUN) if running > _LONG else shared
            return self._pause

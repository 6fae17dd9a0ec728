"""One long piece of work at a time on a thread of its own: how far it is, its end, and a way to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import BusyError, UserError
from core.models import Progress
from core.text import Text
from core.transfer import Meter, Transfer

Found = TypeVar("Found")
Work = Callable[[threading.Event, Progress], Found | None]
_OURS = Text(
    "程序内部出错，没有做完。这是我们的问题，详情见终端里的输出。",
    "An internal error ended it. This is our fault; the terminal shows the details.",
)


@dataclass(frozen=True)
class Ended(Generic[Found]):
    """How it ended: with what was `found`, with a `problem`, or with neither: it was stopped."""

    name: str
    found: Found | None
    problem: Text | None = None


class Errand(Generic[Found]):
    """At most one at a time. Its work returns what came of it, or None if it was stopped."""

    def __init__(self, kind: str, busy: Text) -> None:
        self._kind, self._busy = kind, busy
        self._guard, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._meter = Meter()
        self.name = ""
        self.ended: Ended[Found] | None = None

    @property
    def active(self) -> bool:
        """Whether it is under way."""
        return self._thread is not None and self._thread.is_alive() and self.ended is None

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop and has not ended yet."""
        return self.active and self._stop.is_set()

    @property
    def now(self) -> Transfer | None:
        """How far it is; None at rest, and while there is nothing to count."""
        return self._meter.now if self.active else None

    def start(self, name: str, work: Work[Found]) -> None:
        """Begin in the background. Raises BusyError while another one is under way."""
        with self._guard:
            if self.active:
                raise BusyError(self._busy)
            self._stop = threading.Event()
            self.name, self.ended = name, None
            # A daemon: the process may end while a hub keeps it waiting. What it does survives that at any point.
            self._thread = threading.Thread(
                target=self._run, args=(name, work, self._stop), name=self._kind, daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether it ended."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.active

    def _run(self, name: str, work: Work[Found], stop: threading.Event) -> None:
        ended: Ended[Found] = Ended(name, None, _OURS)  # for what is no UserError: its trace goes to the terminal
        try:
            ended = Ended(name, work(stop, self._meter))
        except UserError as error:
            ended = Ended(name, None, error.text)
        finally:
            self._meter.rest()
            self.ended = ended

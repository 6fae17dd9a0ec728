"""Ctrl+C and SIGTERM: the first asks for an end in order, the second ends the process now. For the main thread."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

_BOTH = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def asked_to_end(ask: Callable[[int], object]) -> Iterator[None]:
    """While the block runs, the first of these signals calls `ask` with its number; what comes after it is `end_now`.

    On another thread than the main one nothing is changed: signals are not its business.
    """

    def first(number: int, _frame: FrameType | None) -> None:
        for each in _BOTH:
            signal.signal(each, end_now)
        ask(number)

    before: dict[int, object] = {}
    with contextlib.suppress(ValueError):
        before = {number: signal.signal(number, first) for number in _BOTH}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def end_now(number: int, _frame: FrameType | None = None) -> None:
    """End the process on the spot, threads and all; what is on disk is whole, whatever is being written."""
    # Not through the interpreter's end: it waits for threads, and one of them may be why somebody asks twice.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + number)


def interrupt(number: int) -> None:
    """Raise KeyboardInterrupt with the signal's number, so that what is half done is cleared away on the way out."""
    raise KeyboardInterrupt(number)

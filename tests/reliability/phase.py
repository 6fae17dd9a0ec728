"""app.py with one function held up until the signal has come, so that it surely comes in the middle of it.

python -m tests.reliability.phase PHASE ARGUMENTS: prints "phase PHASE" when it has begun and "asked" when the signal was
understood. Phase "second" holds on after that: only a second signal ends it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from core import signals

# phase -> (module, what is held up in it, which call of it)
PLACES = {
    "load": ("core.engine", "_load", 1),
    "step": ("core.step", "Stepper.launch", 3),
    "save": ("core.checkpoints", "save", 2),
    "second": ("core.checkpoints", "save", 2),
    "publish": ("core.engine", "Engine.save_adapter", 1),
    "merge": ("core.export.make", "save", 1),
    "chat": ("core.generate", "stream", 1),
}
_NEVER = 300.0  # seconds after which no signal comes any more
_asked: list[int] = []  # no Event: a handler that runs in the middle of its wait would wait for itself


def _heard(real: Callable[..., Any]) -> Callable[..., Any]:
    """`signals.asked_to_end` that notes which signals were handed on."""

    def listening(ask: Callable[[int], object]) -> Any:
        def told(number: int) -> None:
            ask(number)
            _asked.append(number)
            print("asked", file=sys.stderr, flush=True)

        return real(told)

    return listening


def _held(phase: str, real: Callable[..., Any], number: int) -> Callable[..., Any]:
    calls = 0

    def call(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            print(f"phase {phase}", file=sys.stderr, flush=True)
            until = time.monotonic() + _NEVER
            while not _asked or phase in ("load", "second"):
                assert time.monotonic() < until, "no signal came"
                time.sleep(0.01)
                if phase == "load":  # as the reader of a large base does
                    next(one for one in given if callable(one))("a base", 1, 1000)
        return real(*given, **named)

    return call


def main() -> None:
    """Hold the phase up, and be app.py."""
    phase = sys.argv[1]
    module, name, number = PLACES[phase]
    place: Any = import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        place = getattr(place, part)
    setattr(place, last, _held(phase, getattr(place, last), number))
    signals.asked_to_end = _heard(signals.asked_to_end)
    import app

    sys.exit(app.main(sys.argv[2:]))


if __name__ == "__main__":
    main()

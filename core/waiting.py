"""Waiting for a hub: no longer than somebody wants its answer, and not without a word. Knows no hub and no request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from core.models import Stopped
from core.text import Text

SILENT_SECONDS = 5.0
"""How long nothing need be said of a hub that does not answer."""
Quiet = Callable[[float], None]
"""Called again and again with the seconds that an answer is late, from `SILENT_SECONDS` on; with 0 once it is there."""
Done = TypeVar("Done")
_LOOK_SECONDS = 0.1


def waited(work: Callable[[], Done], stop: threading.Event | None = None, quiet: Quiet | None = None) -> Done:
    """What `work` returns or raises. Raises Stopped as soon as `stop` is set, whatever `work`, on its own thread, does."""
    outcome: Future[Done] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="request", daemon=True).start()
    began = time.monotonic()
    try:
        while not wait([outcome], timeout=_LOOK_SECONDS).done:
            if stop is not None and stop.is_set():
                raise Stopped
            if quiet is not None and (late := time.monotonic() - began) >= SILENT_SECONDS:
                quiet(late)
    finally:
        if quiet is not None:
            quiet(0.0)
    return outcome.result()


def silent(label: Text, seconds: float) -> Text:
    """The sentence for a hub, called `label`, that has not answered for so long."""
    space = "" if label.zh.endswith("）") else " "
    return Text(
        f"{label.zh}{space}已有 {seconds:.0f} 秒没有回答，还在等。可以取消，换一个来源或镜像再试。",
        f"No answer from {label.en} for {seconds:.0f} seconds; still waiting. You can cancel, and try another hub or mirror.",
    )


def saying(label: Text, say: Callable[[Text], None]) -> Quiet:
    """What tells a terminal once each time a hub is late."""
    said = False

    def quiet(seconds: float) -> None:
        nonlocal said
        if seconds and not said:
            say(silent(label, seconds))
        said = bool(seconds)

    return quiet

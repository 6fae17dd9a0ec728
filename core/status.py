"""The top bar's facts, read from the engine and the run in progress. Cheap enough to ask every second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from core import __version__
from core.device import memory_used
from core.device_errors import is_lost
from core.run import Run
from core.text import Text

if TYPE_CHECKING:
    from core.engine import Engine


@dataclass(frozen=True)
class Status:
    """What is loaded and what is going on. Memory in bytes, of the card or of this process and machine."""

    version: str
    model: str
    model_state: str
    device: str
    memory_used: int
    memory_total: int
    state: Literal["idle", "loading", "training", "stopping"]
    run_id: str | None
    step: int
    steps: int
    loading: Text | None = None


def read(engine: Engine, model: str, active: Run | None, stopping: bool, loading: Text | None) -> Status:
    """The facts now. `model` is the chosen base model, `loading` what is read from disk at the moment."""
    state: Literal["idle", "loading", "training", "stopping"] = "idle"
    if active is not None:
        state = "stopping" if stopping else ("loading" if active.starting or not active.steps else "training")
    elif engine.state == "loading" or loading is not None:
        state = "loading"
    return Status(
        version=__version__,
        model=model,
        model_state=engine.state,
        device=engine.device.name,
        memory_used=_memory_used(engine),
        memory_total=engine.device.memory_total,
        state=state,
        run_id=active.id if active else None,
        step=active.step if active else 0,
        steps=active.steps if active else 0,
        loading=loading or _rehearsing(active),
    )


def _memory_used(engine: Engine) -> int:
    """0 for a card that is gone, which may show here first."""
    if engine.lost is not None:
        return 0
    try:
        return memory_used(engine.device)
    except RuntimeError as error:
        if not is_lost(error):
            raise
        engine.lose()
        return 0


def _rehearsing(active: Run | None) -> Text | None:
    """What a run does before its first step where the guard has questions that the base was never asked."""
    last = active.events[-1] if active is not None and active.events else {}
    if last.get("type") != "rehearsing":
        return None
    return Text(
        zh=f"正在请基座回答 {last['asked']} 个通用问题", en=f"Asking the base {last['asked']} general questions"
    )

"""Whether an adapter is, at the end of a long reading, what it was at the beginning: nobody trained or exchanged it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core import adapters
from core.engine import Engine
from core.errors import BusyError, ModelError
from core.proof_subject import digest
from core.run import Run
from core.text import Text

_BEGINNINGS = ("started", "resumed")
_CHANGED = Text(
    zh="途中这个适配器被换掉、删除或接着训练了，结果没有保存。等训练结束后请再做一次。",
    en="Meanwhile this adapter was exchanged, removed or trained on, so the result was not kept. Try again once nothing "
    "trains it.",
)


def check_idle(run: Run | None) -> None:
    """Raise BusyError while the run trains: its weights change with every step."""
    if run is not None and run.live and run.ending is None:
        raise BusyError(training(run))


def training(run: Run) -> Text:
    """The sentence for who wants to measure what is in training."""
    return Text(
        zh=f"“{run.title}”正在训练，权重每一步都在变。请等训练结束，或先停止它。",
        en=f"“{run.title}” is in training, and its weights change with every step. Wait for its end, or stop it first.",
    )


@dataclass(frozen=True)
class Steady:
    """An attached adapter as it was when the reading began. `weights`: sha256 of its file."""

    engine: Engine
    name: str
    folder: Path
    run: Run | None
    handle: str
    weights: str
    begun: int

    @classmethod
    def of(cls, engine: Engine, name: str, folder: Path, run: Run | None) -> Steady:
        """The adapter now; `run` only where it is that run's own. Raises BusyError if that trains."""
        check_idle(run)
        return cls(engine, name, folder, run, engine.handle(name), _weights(folder), _begun(run))

    def check(self) -> None:
        """Raise ModelError, or BusyError, if it is not the same any more. To be called just before the result is kept."""
        check_idle(self.run)
        found = (self.engine.handle(self.name), _weights(self.folder), _begun(self.run))
        # Asked last: reading the file takes a while, and whoever writes beside it must not make its folder anew.
        if found != (self.handle, self.weights, self.begun) or not (self.folder / adapters.WEIGHTS).is_file():
            raise ModelError(_CHANGED)


def _weights(folder: Path) -> str:
    try:
        return digest(folder)
    except OSError:
        raise ModelError(_CHANGED) from None


def _begun(run: Run | None) -> int:
    """How often it was set going: a run that was resumed and ended again meanwhile is found out, too."""
    return 0 if run is None else sum(event["type"] in _BEGINNINGS for event in run.events)

"""Which adapters the resident model answers to: attached when asked for, kept while used, let go least recent first."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from core import adapters
from core.device import memory_free
from core.device_errors import is_memory
from core.engine import Engine
from core.errors import BusyError
from core.text import Text

MOST_ATTACHED = 8  # a rank 8 adapter of a 7B takes 80 MB in float32
_SPARE_BYTES = 500_000_000  # for what answering itself takes


class Attached:
    """The policy over an engine's adapters. `kept` names those that are never let go: the one in training."""

    def __init__(self, engine: Engine, kept: Callable[[], set[str]], most: int = MOST_ATTACHED) -> None:
        self._engine, self._kept, self._most = engine, kept, most
        self._guard = threading.Lock()  # held over attaching: two requests for one adapter attach it once
        self._users: Counter[str] = Counter()
        self._recent: list[str] = []  # least recently used first
        self._files: dict[str, object] = {}  # which file of weights each was attached from, or first asked for with

    @property
    def names(self) -> tuple[str, ...]:
        """What the resident model answers to now."""
        return self._engine.attached

    def users(self, name: str) -> int:
        """How many answers use the adapter now."""
        return self._users[name]

    @contextlib.contextmanager
    def held(self, wanted: Mapping[str, Path | None]) -> Iterator[None]:
        """While the block runs, the model answers to these adapters, by name; None: it does already.

        Raises ModelError for one that does not fit the resident model. The others are attached by then.
        """
        with self._guard:
            self._users.update(wanted.keys())
        try:
            for name, folder in wanted.items():
                self._attach(name, folder)
            yield
        finally:
            with self._guard:
                self._users.subtract(wanted.keys())
                self._users += Counter()  # forget those of no user

    @contextlib.contextmanager
    def gone(self, *names: str) -> Iterator[None]:
        """Take adapters out, and let nobody attach any while the block runs. Raises BusyError while one answers."""
        with self._guard:
            if any(self._users[name] for name in names):
                raise BusyError(
                    Text(
                        zh="这个适配器正在回答。请等它答完，或先停止回答。",
                        en="This adapter is answering. Wait for the answer to end, or stop it first.",
                    )
                )
            for name in names:
                self._engine.detach(name)
                self._files.pop(name, None)
            self._recent = [other for other in self._recent if other not in names]
            yield

    def _attach(self, name: str, folder: Path | None) -> None:
        with self._guard:
            file = None if folder is None else _file(folder)
            known = self._files.setdefault(name, file) if file and name in self._engine.attached else file
            if known != file and name not in self._kept():
                self._engine.detach(name)  # another process went on with its run
            if folder is not None and name not in self._engine.attached:
                adapter = adapters.read(folder, name)
                self._files[name] = file
                # In memory it is float32, whatever the file is.
                self._make_room(2 * (folder / adapters.WEIGHTS).stat().st_size)
                # Outside the except: the traceback holds what was half attached.
                if not self._fitted(adapter):
                    self._let_go(len(self._idle()))
                    self._engine.attach(adapter)
            self._recent = [*(other for other in self._recent if other != name), name]

    def _fitted(self, adapter: adapters.Adapter) -> bool:
        """Attach it; False if memory ran out and idle ones could make room."""
        try:
            self._engine.attach(adapter)
        except RuntimeError as error:
            if not is_memory(error) or not self._idle():
                raise
            return False
        return True

    def _make_room(self, needed_bytes: int) -> None:
        """Let go of idle adapters until one more is within the limit and the memory, or none is idle."""
        self._let_go(len(self._engine.attached) + 1 - self._most)
        while self._free_bytes() < needed_bytes + _SPARE_BYTES and self._let_go(1):
            pass

    def _let_go(self, count: int) -> bool:
        """Detach the `count` least recently used idle ones; whether there was any."""
        leaving = self._idle()[: max(0, count)]
        for name in leaving:
            self._engine.detach(name)
        return bool(leaving)

    def _idle(self) -> list[str]:
        """Attached ones that nobody uses, least recently used first; those never asked for before all others."""
        kept, attached = self._kept(), self._engine.attached
        order = [*(name for name in attached if name not in self._recent), *self._recent]
        return [name for name in order if name in attached and name not in kept and not self._users[name]]

    def _free_bytes(self) -> int:
        """What an adapter may take: nobody's memory, and what torch holds of the card without using it."""
        free = memory_free(self._engine.device)
        if self._engine.device.kind == "cuda":
            import torch

            free += int(torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
        return free


def _file(folder: Path) -> object:
    """What tells a file of weights from the one that takes its place; None where there is none."""
    try:
        found = (folder / adapters.WEIGHTS).stat()
    except OSError:  # whoever reads it says so
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size

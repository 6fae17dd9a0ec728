"""What was deleted last, kept aside until it is brought back or gone for good: the folder of one run or imported adapter.

It lies beside its old place under a name that `storage.sweep` clears away, so the next start finds nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core import storage
from core.errors import StorageError
from core.text import Text

Kind = Literal["run", "adapter"]


@dataclass(frozen=True)
class Aside:
    """A folder that was deleted, by the name that a person knows."""

    kind: Kind
    name: str
    folder: Path
    lies: Path


_MINUTES = 10  # whoever deletes to have room for something wants the room


class Removed:
    """Holds one folder; another one, ten minutes, or `forget` end the time in which it can be brought back."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._last: Aside | None = None
        self._late = threading.Timer(0, _clear, [None])

    def last(self, kind: Kind) -> Aside | None:
        """What can be brought back of this kind."""
        known = self._last
        return known if known is not None and known.kind == kind and known.lies.is_dir() else None

    def put(self, kind: Kind, folder: Path, name: str) -> None:
        """Take `folder` away, and what was taken away before it for good. Raises StorageError."""
        aside = Aside(kind, name, folder, storage.set_aside(folder))
        with self._guard:
            before, self._last = self._last, aside
        _clear(before)
        self._late.cancel()
        self._late = threading.Timer(60 * _MINUTES, self._expire, [aside])
        self._late.daemon = True
        self._late.start()

    def bring_back(self, kind: Kind) -> Aside:
        """Put the last one back where it was. Raises StorageError if it is gone, or its place is taken."""
        with self._guard:
            known = self.last(kind)
            if known is None or known.folder.exists():
                raise StorageError(
                    Text("已经不能恢复了：它已被清理，或原来的位置又有了同名的。请重新训练或导入。",
                         "It cannot be brought back: it was cleared away, or its place is taken. Train or import it again.")
                )  # fmt: skip
            os.rename(known.lies, known.folder)
            storage.sync_folder(known.folder.parent)
            self._last = None
        return known

    def _expire(self, aside: Aside) -> None:
        if self._last is aside:
            self.forget()

    def forget(self) -> None:
        """Free the disk of it."""
        with self._guard:
            before, self._last = self._last, None
        _clear(before)


def _clear(known: Aside | None) -> None:
    if known is not None and known.lies.is_dir():
        with contextlib.suppress(StorageError):  # what is left, the next start sweeps
            storage.remove_folder(known.lies)

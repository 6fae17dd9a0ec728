"""What each open page last saw of a dataset, so that two pages on one table never overwrite each other in silence."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

from core.dataset import Dataset
from core.errors import DatasetError
from core.text import Text
from core.workspace import Workspace

_REMEMBERED = 4000


class Edits:
    """Opens and saves datasets for browser pages; a page is known by gradio's session hash."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], str] = {}
        self._written: set[str] = set()

    def open(self, session: str, name: str) -> Dataset:
        """The stored dataset, remembered as what this page shows."""
        with self._lock:
            dataset = self._stored(name)
            self._remember(session, name, _token(dataset))
            return dataset

    def save(self, session: str, dataset: Dataset, *, force: bool = False) -> bool:
        """Store the page's table; False, and nothing is written, if it was changed elsewhere since the page saw it.

        `force` writes all the same: a person chose this page's version.
        """
        with self._lock:
            wanted, stored = _token(dataset), _token(self._stored(dataset.name))
            if stored != wanted:
                if not force and stored != self._seen.get((session, dataset.name), self._unknown(dataset.name, stored)):
                    return False
                self._workspace.save(dataset)
                self._written.add(dataset.name)
            self._remember(session, dataset.name, wanted)
            return True

    def change(self, session: str, name: str, edit: Callable[[Dataset], Dataset]) -> bool:
        """Store what `edit` makes of the stored table; whether a page that shows the table may take it over unasked.

        A page that has seen an older version is told at its next edit, as of any other page's change.
        """
        with self._lock:
            stored = self._stored(name)
            changed, token = edit(stored), _token(stored)
            current = token == self._seen.get((session, name), self._unknown(name, token))
            self._workspace.save(changed)
            self._written.add(name)
            if current:
                self._remember(session, name, _token(changed))
            return current

    def _unknown(self, name: str, stored: str) -> str:
        """What a page is taken to have seen that was open before this server started: all, until another one saves."""
        return "" if name in self._written else stored

    def _remember(self, session: str, name: str, token: str) -> None:
        self._seen.pop((session, name), None)
        self._seen[session, name] = token
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _stored(self, name: str) -> Dataset:
        # The name comes from the browser: only one that is listed may become a path.
        if name not in self._workspace.datasets():
            raise DatasetError(Text(zh=f"没有名为“{name}”的数据集。", en=f"There is no dataset named “{name}”."))
        return self._workspace.dataset(name)


def _token(dataset: Dataset) -> str:
    return hashlib.sha256(repr((dataset.rows, dataset.identity)).encode("utf-8", "surrogatepass")).hexdigest()

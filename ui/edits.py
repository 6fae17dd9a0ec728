"""What each open page last saw of a dataset, so that two pages on one table never overwrite each other in silence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.dataset import Dataset, Row
from core.errors import DatasetError
from core.text import Text
from core.workspace import Workspace
from ui.held import Held
from ui.import_files import Arrivals

_REMEMBERED = 4000
_MOST_READ = 3


@dataclass(frozen=True)
class Put:
    """What became of rows that were to go into a table: what the page shows now, and why nothing was stored, if so."""

    shown: Mapping[object, object]
    problem: str = ""

    @property
    def done(self) -> bool:
        """Whether they are stored."""
        return not self.problem


class Edits:
    """Opens and saves datasets for browser pages; a page is known by gradio's session hash.

    `held` knows what the pages hold, `arrivals` the files that they send to be imported.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], str] = {}
        self._written: set[str] = set()
        self._read: dict[str, tuple[object, Dataset]] = {}
        self.held = Held(self._rows)
        self.arrivals = Arrivals()

    def open(self, session: str, name: str) -> Dataset:
        """The stored dataset, remembered as what this page shows."""
        with self._lock:
            dataset = self._stored(name)
            self._remember(session, name, self._token(dataset))
            return dataset

    def stored(self, name: str) -> Dataset:
        """The stored dataset, which no page is taken to have seen by it."""
        with self._lock:
            return self._stored(name)

    def save(self, session: str, dataset: Dataset, *, force: bool = False, why: Text | None = None) -> bool:
        """Store the page's table; False, and nothing is written, if it was changed elsewhere since the page saw it.

        `force` writes all the same: a person chose this page's version. `why` is said in the table's history.
        """
        with self._lock:
            wanted, stored = self._token(dataset), self._token(self._stored(dataset.name))
            if stored != wanted:
                if not force and stored != self._seen.get((session, dataset.name), self._unknown(dataset.name, stored)):
                    return False
                self._write(dataset, why)
            self._remember(session, dataset.name, wanted)
            return True

    def change(self, session: str, name: str, edit: Callable[[Dataset], Dataset], why: Text | None = None) -> bool:
        """Store what `edit` makes of the stored table; whether a page that shows the table may take it over unasked.

        A page that has seen an older version is told at its next edit, as of any other page's change.
        """
        with self._lock:
            stored = self._stored(name)
            changed, token = edit(stored), self._token(stored)
            current = token == self._seen.get((session, name), self._unknown(name, token))
            self._write(changed, why)
            if current:
                self._remember(session, name, self._token(changed))
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
        # Reading a large table takes longer than saving it: one whose files are as we left them is not read again.
        files, (known, kept) = self._files(name), self._read.get(name, (None, None))
        if kept is not None and known == files:
            return kept
        return self._keep(self._workspace.dataset(name), files)

    def _write(self, dataset: Dataset, why: Text | None) -> None:
        self._workspace.save(dataset, why)
        self._written.add(dataset.name)
        self._keep(dataset, self._files(dataset.name))

    def _keep(self, dataset: Dataset, files: object) -> Dataset:
        self._read.pop(dataset.name, None)
        self._read[dataset.name] = (files, dataset)
        if len(self._read) > _MOST_READ:
            del self._read[next(iter(self._read))]
        return dataset

    def _files(self, name: str) -> object:
        """What tells one state of a dataset's files from another: every save makes new ones."""
        paths = (self._workspace.tables.folder / f"{name}{suffix}" for suffix in (".jsonl", ".meta.json"))
        states = [path.stat() if path.is_file() else None for path in paths]
        return [(state.st_ino, state.st_mtime_ns, state.st_size) if state else None for state in states]

    def _rows(self, name: str) -> Sequence[Row] | None:
        with self._lock:
            return self._stored(name).rows if name in self._workspace.datasets() else None

    def _token(self, dataset: Dataset) -> str:
        return f"{self.held.token(dataset.rows)} {dataset.identity!r}"

"""The saved datasets of a home and their histories: listed, read, written, renamed, removed, brought back.

Knows no model, no run. A dataset's files are what counts; its history follows them, also where they were changed by
another program.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core import dataset, storage
from core.dataset import Dataset, Identity, Row
from core.errors import DatasetError, StorageError
from core.starter import starter_sets
from core.text import Text
from core.versions import History, Stamp, State, Version

DELETED_KEPT_DAYS = 30
"""How long a deleted dataset can be brought back."""
OVERWRITTEN = Text("保留这个页面的版本，覆盖另一个页面的改动", "This page's version, over another page's changes")
"""Why a table was saved that another page had changed meanwhile."""
_MOST_HELD_ROWS = 120_000
_CREATED = Text("新建", "Created")
_FOUND = Text("已有的数据集", "As it was found")
_OUTSIDE = Text(
    "没有记下来由的改动（在本页面以外，或保存时程序被中断）",
    "A change that nobody noted (outside this program, or a save that was cut off)",
)
_STARTER = Text("自带的示例", "The starter rows")


@dataclass(frozen=True)
class Deleted:
    """A dataset that can still be brought back. `at`: when it was deleted, seconds since the epoch."""

    history: str
    name: str
    at: float
    rows: int

    @property
    def until(self) -> float:
        """When it will be gone for good."""
        return self.at + DELETED_KEPT_DAYS * 86_400


@dataclass(frozen=True)
class _Held:
    """A dataset as its files say, and what tells this state of the files from another."""

    state: State
    files: object


class Tables:
    """The datasets in one folder and their histories in another. Only names that were listed ever become paths."""

    def __init__(self, folder: Path, history: Path) -> None:
        self.folder, self._history_folder = folder, history
        self._guard = threading.RLock()
        self._held: dict[str, _Held] = {}
        self._histories: dict[str, History] = {}
        # (hash, why) of saved rows whose history could not be written.
        self._untold: dict[str, tuple[str, Text | None]] = {}
        for place in (folder, history):
            storage.make_folder(place)
        self._purge()
        self._begin()

    # -- datasets --

    def names(self) -> list[str]:
        """Names of the saved datasets, newest edit first."""
        return dataset.names(self.folder)

    def get(self, name: str) -> Dataset:
        """A saved dataset. Raises DatasetError."""
        with self._guard:
            return self._state(self._known(name)).dataset

    def save(self, edited: Dataset, why: Text | None = None) -> None:
        """Write a dataset; the old one stays if that fails. `why`: what made the change; None for typing."""
        with self._guard:
            # A listed name is a file of ours, however it is spelled; only a new one is made safe.
            names = self.names()
            name = edited.name if edited.name in names else storage.slug(edited.name)
            before = self._followed(name) if name in names else None
            state = State.of(replace(edited, name=name), before)
            self._write(state, before)
            if before is None or before.sha256 != state.sha256:
                said = why or (None if before else _CREATED)
                self._untold[name] = (state.sha256, said)
                # The rows are stored by now: what cannot be said of them is said at the next look.
                with contextlib.suppress(StorageError, OSError):
                    self._history(name).record(state, before, said)
                    del self._untold[name]

    def create(
        self, name: str, rows: Sequence[Row] = (), identity: Identity | None = None, why: Text | None = None
    ) -> Dataset:
        """A new dataset under a free name like `name`."""
        with self._guard:
            free = storage.unused(self.folder, storage.slug(name), ".jsonl")
            made = Dataset(free, tuple(rows), identity or Identity())
            self.save(made, why)
        return made

    def rename(self, name: str, new: str) -> Dataset:
        """Give a dataset another name; its history goes with it. Raises DatasetError if that is taken."""
        with self._guard:
            old = self._followed(self._known(name))
            slug = storage.slug(new)
            if slug == name:
                return old.dataset
            if slug in self.names():
                raise DatasetError(
                    Text(zh=f"已经有名为“{slug}”的数据集。", en=f"There is a dataset named “{slug}” already.")
                )
            renamed = replace(old.dataset, name=slug)
            self._write(State(renamed, old.lines, old.sha256), None)
            history = self._histories.pop(name)
            history.describe(slug)
            history.renamed(Text(zh=f"从“{name}”改名", en=f"Renamed from “{name}”"))
            self._histories[slug] = history
            self._remove(name)
        return renamed

    def delete(self, name: str) -> None:
        """Remove a dataset; it can be brought back for a while, and runs keep their own copy of the rows.

        The starter sets come back when none is left.
        """
        with self._guard:
            known = self._known(name)
            with contextlib.suppress(DatasetError):  # one whose file is damaged can be removed as well
                self._followed(known)
            if known in self._histories or self._find(known) is not None:
                self._history(known).describe(known, time.time())
            self._histories.pop(known, None)
            self._remove(known)
            self._begin()

    # -- versions --

    def versions(self, name: str) -> list[Version]:
        """What became of a dataset, newest version first. Raises DatasetError."""
        with self._guard:
            self._followed(self._known(name))
            return self._history(name).versions()

    def version(self, name: str, number: int) -> Dataset:
        """A dataset as it was in one of its versions. Raises DatasetError."""
        with self._guard:
            now, history = self._followed(self._known(name)), self._history(name)
            last = history.last
            if last is not None and last.id == number:
                return now.dataset
            return replace(history.state(number).dataset, name=name)

    def before(self, name: str, number: int) -> Dataset | None:
        """A dataset as it was in the version before `number`; None for its oldest. Raises DatasetError."""
        with self._guard:
            earlier = self._history(self._known(name)).before(number)
            return None if earlier is None else self.version(name, earlier)

    def frozen(self, wanted: str | Dataset) -> tuple[Dataset, Stamp]:
        """A saved dataset, by name, for a run, or the one given; and which version that is. Raises DatasetError."""
        if isinstance(wanted, Dataset):
            return wanted, Stamp(sha256=State.of(wanted).sha256)
        with self._guard:
            table = self._followed(self._known(wanted)).dataset
            history = self._history(wanted)
            last = history.last
            assert last is not None
            return table, Stamp(history.id, last.id, last.sha256)

    def stamped(self, stamp: Stamp) -> tuple[str, Version] | None:
        """(name, version) of what a run wrote down, where that version is still kept; a deleted dataset's as well."""
        with self._guard:
            for history in self._all():
                if history.id == stamp.history:
                    found = (version for version in history.versions() if version.id == stamp.version)
                    version = next(found, None)
                    return None if version is None or version.sha256 != stamp.sha256 else (history.name, version)
        return None

    # -- what was deleted --

    def deleted(self) -> list[Deleted]:
        """The deleted datasets that can be brought back, the last deleted first."""
        with self._guard:
            present = set(self.names())
            found = []
            for history in self._all():
                last, at = history.last, history.deleted
                if last is None or (at is None and history.name in present):
                    continue
                # Its files were removed by hand: the history knows of no deletion.
                found.append(Deleted(history.id, history.name, at or last.at, last.rows))
            return sorted(found, key=lambda one: one.at, reverse=True)

    def bring_back(self, history: str) -> Dataset:
        """Make a deleted dataset a saved one again, with its history, under its name or a free one like it.

        Raises DatasetError if it is gone for good.
        """
        with self._guard:
            gone = self._gone(history)
            found = History(self._history_folder / gone.history)
            last = found.last
            assert last is not None
            kept = found.state(last.id)
            name = storage.unused(self.folder, storage.slug(gone.name), ".jsonl")
            state = State(replace(kept.dataset, name=name), kept.lines, kept.sha256)
            self._write(state, None)
            found.describe(name)
            found.renamed(Text(zh="恢复了删除的数据集", en="Brought back after it was deleted"))
            self._histories[name] = found
            return state.dataset

    def forget(self, history: str) -> Deleted:
        """Remove a deleted dataset for good, now. Raises DatasetError if it is gone already."""
        with self._guard:
            gone = self._gone(history)
            storage.remove_folder(self._history_folder / gone.history)
            return gone

    def _gone(self, history: str) -> Deleted:
        found = next((gone for gone in self.deleted() if gone.history == history), None)
        if found is None:
            raise DatasetError(
                Text(
                    zh=f"这个数据集已经不在了：删除的数据集保留 {DELETED_KEPT_DAYS} 天。",
                    en=f"This dataset is gone for good: deleted ones are kept for {DELETED_KEPT_DAYS} days.",
                )
            )
        return found

    # -- files --

    def _state(self, name: str) -> State:
        """The dataset as its files say; read anew only if they changed. Raises DatasetError."""
        files, held = self._files(name), self._held.get(name)
        if held is not None and held.files == files:
            return held.state
        state = State.of(dataset.load(self.folder, name))
        self._hold(state, files)
        return state

    def _followed(self, name: str) -> State:
        """The dataset as its files say, after the history was told, should it not know. Raises DatasetError."""
        state, history = self._state(name), self._history(name)
        last = history.last
        sha256, untold = self._untold.get(name, ("", None))
        if last is None and sha256 == state.sha256:
            history.record(state, None, untold)
        elif last is None:
            history.record(state, None, _FOUND, (self.folder / f"{name}.jsonl").stat().st_mtime)
        elif last.sha256 != state.sha256:
            before = None
            with contextlib.suppress(DatasetError):
                before = history.state(last.id)
            history.record(state, before, untold if sha256 == state.sha256 else _OUTSIDE)
        self._untold.pop(name, None)
        return state

    def _write(self, state: State, before: State | None) -> None:
        table = state.dataset
        card = before is None or before.dataset.identity != table.identity
        dataset.save(self.folder, table, state.lines, card=card)
        self._hold(state, self._files(table.name))

    def _hold(self, state: State, files: object) -> None:
        self._held.pop(state.dataset.name, None)
        self._held[state.dataset.name] = _Held(state, files)
        while len(self._held) > 1 and sum(len(held.state.lines) for held in self._held.values()) > _MOST_HELD_ROWS:
            rested = next(iter(self._held))
            del self._held[rested]
            self._histories.pop(rested, None)  # it remembers rows as well

    def _files(self, name: str) -> object:
        states = [path.stat() if path.is_file() else None for path in dataset.files_of(self.folder, name)]
        return [(state.st_ino, state.st_mtime_ns, state.st_size) if state else None for state in states]

    def _remove(self, name: str) -> None:
        self._held.pop(name, None)
        self._untold.pop(name, None)
        for path in dataset.files_of(self.folder, name):
            path.unlink(missing_ok=True)

    def _begin(self) -> None:
        if not self.names():
            for starter in starter_sets():
                self.save(starter, _STARTER)

    def _known(self, name: str) -> str:
        if name not in self.names():
            raise DatasetError(Text(zh=f"没有名为“{name}”的数据集。", en=f"There is no dataset named “{name}”."))
        return name

    # -- histories --

    def _history(self, name: str) -> History:
        """The history of a saved dataset; a new one if it has none."""
        if name not in self._histories:
            found = self._find(name)
            if found is None:
                place = self._history_folder / storage.unused(self._history_folder, storage.slug(name))
                found = History(place)
                found.describe(name)
            self._histories[name] = found
        return self._histories[name]

    def _find(self, name: str) -> History | None:
        return next((one for one in self._all() if one.name == name and one.deleted is None), None)

    def _all(self) -> list[History]:
        known = {history.id: history for history in self._histories.values()}
        found = (path for path in self._history_folder.iterdir() if path.is_dir())
        folders = sorted(path for path in found if not path.name.startswith("."))
        return [known.get(path.name) or History(path) for path in folders]

    def _purge(self) -> None:
        """Remove the histories of datasets that were deleted long ago."""
        present, now = set(self.names()), time.time()
        for history in self._all():
            at = history.deleted
            if at is not None and now - at > DELETED_KEPT_DAYS * 86_400:
                shutil.rmtree(history.folder, ignore_errors=True)
            elif at is None and history.name not in present:
                history.describe(history.name, now)  # its files were removed by hand

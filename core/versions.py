"""The history of one dataset: a journal of what each change made of it, from which any version can be read again.

In its folder: `versions.jsonl`, one line a version (of several lines with one id the last counts, so a change that goes
on is written again), and `HASH.z` for what is too long for a line. A version holds what differs from the one before:
runs of rows that stay, and new rows. Knows no page, no run.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from core import dataset, difference, storage
from core.dataset import Dataset, Identity
from core.errors import DatasetError
from core.text import Text

KEPT = 200
"""Versions that are kept at least; the oldest go when there are half as many more."""
KEPT_BYTES = 64_000_000
"""What one history may take on disk; beyond it the older half goes."""
# Typing is one version until it rests for a minute, goes on for ten, or has become much.
_REST, _LONGEST, _MUCH = 60, 600, 64_000
_IN_LINE = 8_000
_JOURNAL, _CARD = "versions.jsonl", "card.json"

Content = list[object]
"""What a version is made of: [first, count] rows of the version before, or a new row's line; lines alone if complete."""


@dataclass(frozen=True)
class Stamp:
    """Which version of which dataset: what a run writes down. `version` is 0 for rows that no history knows."""

    history: str = ""
    version: int = 0
    sha256: str = ""

    @classmethod
    def read(cls, value: object) -> Stamp | None:
        """From its JSON; None for anything else."""
        if not isinstance(value, dict):
            return None
        found = value.get("history"), value.get("version"), value.get("sha256")
        match found:
            case (str(history), int(version), str(digest)):
                return cls(history, version, digest)
        return None


@dataclass(frozen=True)
class Version:
    """One state of a dataset. `began` and `at`: its first and its last save, seconds since the epoch.

    `why` is None for typing. The counts say what differs from the version before.
    """

    id: int
    began: float
    at: float
    why: Text | None
    rows: int
    sha256: str
    identity: Identity
    added: int = 0
    removed: int = 0
    changed: int = 0
    moved: int = 0
    card: bool = False
    """Whether the identity card differs."""
    renamed: bool = False
    """Whether nothing but the dataset's name changed."""

    @property
    def is_change(self) -> bool:
        """Whether there is anything to show for it."""
        return self.why is not None or bool(self.added or self.removed or self.changed or self.moved or self.card)


@dataclass(frozen=True)
class State:
    """A dataset with its rows as lines of the file, and the hash of both: what a version is compared by."""

    dataset: Dataset
    lines: tuple[str, ...]
    sha256: str

    @classmethod
    def of(cls, table: Dataset, known: State | None = None) -> State:
        """The state of `table`; rows that are the very objects of `known` are not written out again."""
        lines = dict(zip(map(id, known.dataset.rows), known.lines, strict=True)) if known else {}
        written = tuple(lines.get(id(row)) or dataset.line_of(row) for row in table.rows)
        return cls(table, written, _digest(written, table.identity))


@dataclass(frozen=True)
class _Entry:
    """A line of the journal: the version, the id of the one it builds on (None: complete), and its content's place."""

    version: Version
    base: int | None
    content: Content | None
    blob: str
    size: int


class History:
    """The versions of one dataset, in `folder`. Not for several threads at once: see `Tables`."""

    def __init__(self, folder: Path) -> None:
        self.id = folder.name
        self.folder = folder
        self._entries: dict[int, _Entry] = {}
        self._read_bytes = -1
        self._spare_bytes = 0
        # The last version and the one it builds on, where this process wrote them: what the next one is compared with.
        self._head: State | None = None
        self._base: State | None = None
        self._sound = False

    # -- its card --

    @property
    def name(self) -> str:
        """The dataset's name, or what it was when it was deleted."""
        return str(self._card().get("name", ""))

    @property
    def deleted(self) -> float | None:
        """When the dataset was deleted; None while it is there."""
        at = self._card().get("deleted")
        return float(at) if isinstance(at, int | float) else None

    def describe(self, name: str, deleted: float | None = None) -> None:
        """Write down which dataset this is the history of, and since when it is gone."""
        storage.write_json(self.folder / _CARD, {"name": name, "deleted": deleted})

    def _card(self) -> dict[str, object]:
        with contextlib.suppress(OSError, ValueError):
            card = storage.read_json(self.folder / _CARD)
            return card if isinstance(card, dict) else {}
        return {}

    # -- reading --

    def versions(self) -> list[Version]:
        """The versions that are kept, newest first."""
        return [entry.version for entry in reversed(self._known().values())]

    def version(self, number: int) -> Version:
        """The version with this number. Raises DatasetError if there is none, or none any more."""
        found = self._known().get(number)
        if found is None:
            raise DatasetError(
                Text(
                    zh=f"没有第 {number} 版，或者已经太旧被清理了。请重新打开历史记录。",
                    en=f"There is no version {number}, or it was so old that it is gone. Open the history again.",
                )
            )
        return found.version

    @property
    def last(self) -> Version | None:
        """The newest version."""
        return next(iter(self.versions()), None)

    def state(self, number: int) -> State:
        """The dataset as it was in this version. Raises DatasetError if its files are damaged or gone."""
        version = self.version(number)
        lines = tuple(self._lines(number))
        if _digest(lines, version.identity) != version.sha256:
            raise self._damaged(number)
        rows = tuple(dataset.from_json(json.loads(line), i) for i, line in enumerate(lines))
        return State(Dataset(self.name, rows, version.identity), lines, version.sha256)

    def before(self, number: int) -> int | None:
        """The number of the version before this one; None for the oldest."""
        earlier = [known for known in self._known() if known < number]
        return earlier[-1] if earlier else None

    def _lines(self, number: int) -> list[str]:
        chain: list[_Entry] = []
        at: int | None = number
        while at is not None:
            entry = self._known().get(at)
            if entry is None or (entry.base is not None and entry.base >= at):
                raise self._damaged(number)
            chain.append(entry)
            at = entry.base
        lines: list[str] = []
        for entry in reversed(chain):
            lines = _apply(lines, self._content_of(entry, number))
        return lines

    def _content_of(self, entry: _Entry, asked: int) -> Content:
        if entry.content is not None:
            return entry.content
        try:
            content = json.loads(zlib.decompress((self.folder / entry.blob).read_bytes()))
        except (OSError, ValueError, zlib.error) as error:
            raise self._damaged(asked) from error
        if not isinstance(content, list):
            raise self._damaged(asked)
        return content

    def _damaged(self, number: int) -> DatasetError:
        return DatasetError(
            Text(
                zh=f"第 {number} 版的历史文件损坏或丢失了（{self.folder}），不能读出。现在的数据集没有受影响。",
                en=f"The files of version {number} in {self.folder} are damaged or gone; it cannot be read. "
                "The dataset as it is now is not affected.",
            )
        )

    def _known(self) -> dict[int, _Entry]:
        path = self.folder / _JOURNAL
        size = path.stat().st_size if path.exists() else 0
        if size != self._read_bytes:  # another process may have written meanwhile
            self._entries, self._spare_bytes = {}, 0
            for value in storage.read_json_lines(path, torn=True):
                entry = _read(value)
                if entry is not None:
                    old = self._entries.get(entry.version.id)
                    self._spare_bytes += old.size if old is not None else 0
                    self._entries[entry.version.id] = entry
            self._entries = {number: self._entries[number] for number in sorted(self._entries)}
            self._read_bytes, self._head, self._base, self._sound = size, None, None, False
        return self._entries

    # -- writing --

    def record(self, state: State, previous: State | None, why: Text | None, at: float | None = None) -> Version:
        """Write down that the dataset is `state` now; `previous` is what it was before, if that is known.

        Typing goes on with the last version while that was typed a moment ago. Raises StorageError.
        """
        now = time.time() if at is None else at
        last = self.last
        if last is None or (previous is not None and previous.sha256 != last.sha256):
            previous = None
        joined = last is not None and self._head is not None and self._goes_on(last, why, now)
        base = self._base if joined else previous
        number = 1 if last is None else last.id + (0 if joined else 1)
        version = Version(
            number, last.began if joined and last else now, now, why, len(state.lines), state.sha256,
            state.dataset.identity,
        )  # fmt: skip
        content: Content = list(state.lines)
        leans = base is not None and last is not None and self._reads(last)
        if base is not None:
            taken = difference.origins(base.lines, state.lines)
            content = _runs(taken, state.lines) if leans else content
            version = _counted(version, base.dataset, state.dataset, taken)
        elif last is None:
            version = replace(version, added=sum(not row.is_blank for row in state.dataset.rows))
        self._append(version, self.before(number) if leans else None, content)
        self._head, self._base, self._sound = state, base, True
        self._trim()
        return version

    def renamed(self, why: Text) -> None:
        """Write down that the dataset has another name."""
        last = self.last
        if last is not None:
            now = time.time()
            same = replace(last, id=last.id + 1, began=now, at=now, why=why, added=0, removed=0, changed=0, moved=0)
            version = replace(same, card=False, renamed=True)
            self._append(version, last.id, [[0, last.rows]])
            self._base = None  # typing after it is a version of its own

    def _reads(self, last: Version) -> bool:
        """Whether the last version can be read, so that the next may build on it; looked at once."""
        if not self._sound:
            with contextlib.suppress(DatasetError):
                self._sound = _digest(self._lines(last.id), last.identity) == last.sha256
        return self._sound

    def _goes_on(self, last: Version, why: Text | None, now: float) -> bool:
        size = self._entries[last.id].size
        typed = why is None and last.why is None and self._base is not None
        return typed and now - last.at < _REST and now - last.began < _LONGEST and size < _MUCH

    def _append(self, version: Version, base: int | None, content: Content) -> None:
        storage.make_folder(self.folder)
        entry = self._written(version, base, content)
        self._known()
        old = self._entries.pop(version.id, None)
        storage.append_line(self.folder / _JOURNAL, json.dumps(_json(entry), ensure_ascii=False))
        self._entries[version.id] = entry
        self._read_bytes = (self.folder / _JOURNAL).stat().st_size
        if old is not None:
            self._spare_bytes += old.size
            self._drop_blobs([old])

    def _written(self, version: Version, base: int | None, content: Content) -> _Entry:
        """The entry of a version; content that is too long for a line is on disk before the line that names it."""
        packed = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        if len(packed) <= _IN_LINE:
            return _Entry(version, base, content, "", len(packed))
        data = zlib.compress(packed, 1)
        blob = f"{sha256(data).hexdigest()[:32]}.z"
        if not (self.folder / blob).exists():
            storage.write_bytes(self.folder / blob, data)
        return _Entry(version, base, None, blob, len(data))

    def _drop_blobs(self, gone: Sequence[_Entry]) -> None:
        used = {entry.blob for entry in self._entries.values()}
        for entry in gone:
            if entry.blob and entry.blob not in used:
                (self.folder / entry.blob).unlink(missing_ok=True)

    def _trim(self) -> None:
        """Keep the history within its bounds. A version that is not complete needs the ones before it, so the first

        that stays is written anew, complete.
        """
        entries = list(self._entries.values())
        size, keep = sum(entry.size for entry in entries), len(entries)
        if len(entries) > KEPT + KEPT // 2:
            keep = KEPT
        if size > KEPT_BYTES:
            keep = min(keep, max(1, len(entries) // 2))
        if keep == len(entries):
            if self._spare_bytes > 256_000:
                self._rewrite(entries, [])
            return
        for place in range(len(entries) - keep, len(entries)):
            with contextlib.suppress(DatasetError):  # what leans on damaged files goes as well
                first = entries[place].version
                complete = self._written(first, None, list(self._lines(first.id)))
                return self._rewrite([complete, *entries[place + 1 :]], entries[: place + 1])

    def _rewrite(self, entries: Sequence[_Entry], gone: Sequence[_Entry]) -> None:
        lines = (json.dumps(_json(entry), ensure_ascii=False) for entry in entries)
        storage.write_text(self.folder / _JOURNAL, "".join(f"{line}\n" for line in lines))
        self._entries = {entry.version.id: entry for entry in entries}
        self._read_bytes, self._spare_bytes = (self.folder / _JOURNAL).stat().st_size, 0
        self._drop_blobs(gone)


def _digest(lines: Sequence[str], identity: Identity) -> str:
    digest = sha256("".join(f"{line}\n" for line in lines).encode())
    digest.update(b"\0" + json.dumps(vars(identity), ensure_ascii=False, sort_keys=True).encode())
    return digest.hexdigest()


def _counted(version: Version, before: Dataset, after: Dataset, taken: Sequence[int]) -> Version:
    found = difference.compare_rows(before.rows, after.rows, taken)
    return replace(
        version,
        added=len(found.added),
        removed=len(found.removed),
        changed=len(found.changed),
        moved=found.moved,
        card=before.identity != after.identity,
    )


def _runs(taken: Sequence[int], lines: Sequence[str]) -> Content:
    """The content of a version whose rows were taken from these places of the one before, -1 for new ones."""
    content: Content = []
    first = count = 0
    for place, line in zip(taken, lines, strict=True):
        if count and place == first + count:
            count += 1
            continue
        if count:
            content.append([first, count])
        first, count = place, 1
        if place < 0:
            content.append(line)
            count = 0
    return [*content, [first, count]] if count else content


def _apply(before: list[str], content: Content) -> list[str]:
    """The lines that this content makes of those of the version before. Runs out of range give fewer lines."""
    lines: list[str] = []
    for part in content:
        if isinstance(part, str):
            lines.append(part)
        elif isinstance(part, list) and len(part) == 2 and all(isinstance(number, int) for number in part):
            lines += before[part[0] : part[0] + part[1]]
    return lines


def _json(entry: _Entry) -> dict[str, object]:
    version = entry.version
    value: dict[str, object] = {
        "id": version.id, "began": version.began, "at": version.at,
        "why": [version.why.zh, version.why.en] if version.why else None,
        "rows": version.rows, "sha256": version.sha256, "identity": vars(version.identity),
        "counts": [version.added, version.removed, version.changed, version.moved], "card": version.card,
        "renamed": version.renamed, "base": entry.base, "size": entry.size,
    }  # fmt: skip
    return value | ({"blob": entry.blob} if entry.blob else {"content": entry.content})


def _read(value: object) -> _Entry | None:
    """A line of the journal; None for one that is damaged."""
    try:
        assert isinstance(value, dict)
        added, removed, changed, moved = (int(count) for count in value["counts"])
        why = value["why"]
        version = Version(
            int(value["id"]), float(value["began"]), float(value["at"]), Text(*map(str, why)) if why else None,
            int(value["rows"]), str(value["sha256"]), Identity(**{k: str(v) for k, v in value["identity"].items()}),
            added, removed, changed, moved, bool(value["card"]), bool(value["renamed"]),
        )  # fmt: skip
        blob = str(value.get("blob", ""))
        content = None if blob else list(value["content"])
        # Never a path: only names that this module gives.
        if blob and (len(blob) != 34 or not blob[:32].isalnum() or not blob.endswith(".z")):
            return None
        base = value["base"]
        return _Entry(version, None if base is None else int(base), content, blob, int(value["size"]))
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
        return None

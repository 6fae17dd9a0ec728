"""A name in a mix -> its rows: a saved dataset, a built-in set, a file or folder, or a hub's set that is kept here."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core import dataset, formats, storage
from core.dataset import Dataset, Identity, Row
from core.errors import ConfigError, DatasetError, UserError
from core.sources import kept
from core.sources.bring import SetDownloads
from core.sources.names import HubSet, hub_set
from core.text import Text

Kind = Literal["table", "built-in", "dataset", "file", "hub"]
_PRESETS = Path(__file__).resolve().parents[2] / "presets" / "general"
BUILT_IN = {"general": _PRESETS / "general.jsonl", "code": _PRESETS / "code.jsonl"}
_REMEMBERED = 8
NOBODY = Identity()  # fills no placeholder


@dataclass(frozen=True)
class Source:
    """The rows behind a name, placeholders replaced, blank ones left out. `notes`: what was interpreted or left out."""

    name: str
    kind: Kind
    rows: tuple[Row, ...]
    notes: tuple[Text, ...] = ()
    complete: bool = True


class Elsewhere(ConfigError):
    """A hub's set that is not on this machine."""

    def __init__(self, name: HubSet) -> None:
        super().__init__(
            Text(
                zh=f"混入的数据集 {name} 还没有下载。请在“数据集”页的“混入数据”里点“下载”，或先去掉它。",
                en=f"The set {name} to mix in is not on this machine yet. Download it under “Mix” on the Dataset tab, or "
                "take it out.",
            ),
            "mix",
        )
        self.set = name


class Sources:
    """Every source of one home. `table` reads a saved dataset and `tables` lists them: none, outside a workspace."""

    def __init__(
        self,
        home: Path,
        tables: Callable[[], Sequence[str]] = tuple,
        table: Callable[[str], Dataset] | None = None,
        files_first: bool = False,
    ) -> None:
        self._home, self._tables, self._table, self._files_first = home, tables, table, files_first
        self.downloads = SetDownloads(home)
        self._guard = threading.Lock()
        self._read: OrderedDict[tuple[object, ...], Source] = OrderedDict()

    def find(self, name: str, identity: Identity = NOBODY) -> Source:
        """The rows of `name`. `identity` fills placeholders of rows that belong to no card of their own.

        Raises Elsewhere for a hub's set that is not here, DatasetError for what is nothing, damaged or unreadable.
        """
        path = storage.path_of(name)
        if self._files_first and path is not None:
            return self._file(name, path, identity)
        if name in self._tables():
            return self._dataset(name)
        if name in BUILT_IN:
            return self._built_in(name)
        if path is not None:
            return self._file(name, path, identity)
        if (inside := _entry(name)) is not None:
            return self._file(name, inside[0], identity, inside[1])
        if (asked := hub_set(name)) is not None and not _looks_like_file(name):
            return self._hub_set(name, asked, identity)
        raise self._unknown(name)

    def rows(self, name: str) -> list[Row]:
        """The rows of `name` alone."""
        return list(self.find(name).rows)

    def kept_on_disk(self, name: str) -> bool:
        """Whether `name` is a hub's set that is here."""
        asked = hub_set(name)
        return asked is not None and kept.find(self._home, asked, self.downloads.hub.name) is not None

    def bring(self, names: Sequence[str], say: Callable[[Text], None]) -> None:
        """Fetch those of `names` that are hub sets and not here, before a command. Raises what a download raises."""
        for name in names:
            try:
                self.find(name)
            except Elsewhere as missing:
                self.downloads.bring(missing.set, say)

    def _built_in(self, name: str) -> Source:
        path = BUILT_IN[name]

        def read() -> Source:
            rows = (dataset.from_json(value, i) for i, value in enumerate(storage.read_json_lines(path)))
            return Source(name, "built-in", tuple(row for row in rows if not row.is_blank))

        return self._remembered((path,), read)

    def _dataset(self, name: str) -> Source:
        def read() -> Source:
            assert self._table is not None
            return Source(name, "dataset", self._table(name).resolved())

        paths = (self._home / "datasets" / f"{name}{ending}" for ending in (".jsonl", ".meta.json"))
        stats = [path.stat() for path in paths if path.is_file()]
        stamp = tuple((found.st_ino, found.st_mtime_ns, found.st_size) for found in stats)
        return self._remembered((name, *stamp), read) if stamp else read()

    def _file(self, name: str, path: Path, identity: Identity, entry: str = "") -> Source:
        stamp = (path.stat().st_mtime_ns, path.stat().st_size)

        def read() -> Source:
            try:
                found = formats.read_path(path, formats.Choices(entry=entry))
            except DatasetError as error:
                if not isinstance(error, formats.Undecided):
                    raise
                raise DatasetError(
                    Text(
                        zh=f"{error.text.zh}（可以先用“导入”打开它，存成数据集再混入。）",
                        en=f"{error.text.en} (Or open it with Import, save it as a dataset and mix that in.)",
                    )
                ) from error
            return Source(name, "file", _resolved(found.rows, identity), found.notes)

        return self._remembered((name, path, stamp, identity), read)

    def _hub_set(self, name: str, asked: HubSet, identity: Identity) -> Source:
        folder = kept.find(self._home, asked, self.downloads.hub.name)
        if folder is None:
            raise Elsewhere(asked)

        def read() -> Source:
            try:
                card, rows = kept.read_card(folder), kept.read_rows(folder)
            except (ValueError, UserError) as error:
                raise DatasetError(
                    Text(
                        zh=f"下载好的 {asked} 损坏了（{folder}）。请删除这个文件夹后重新下载。",
                        en=f"What was downloaded of {asked} is damaged ({folder}). Delete the folder and download again.",
                    )
                ) from error
            return Source(name, "hub", _resolved(rows, identity), card.notes, card.complete)

        return self._remembered((name, folder, (folder / "source.json").stat().st_mtime_ns, identity), read)

    def _remembered(self, key: tuple[object, ...], read: Callable[[], Source]) -> Source:
        with self._guard:
            if key in self._read:
                self._read.move_to_end(key)
                return self._read[key]
        found = read()
        with self._guard:
            self._read[key] = found
            while len(self._read) > _REMEMBERED:
                self._read.popitem(last=False)
        return found

    def _unknown(self, name: str) -> DatasetError:
        there = [*dict.fromkeys([*BUILT_IN, *self._tables()])][:8]
        zh, en = f"没有名为“{name}”的数据", f"There is no dataset “{name}”"
        if _looks_like_file(name) or len(Path(name).parts) > 1:
            zh, en = f"没有找到数据文件 {name}，请检查路径", f"Data file {name} was not found: check the path"
        return DatasetError(
            Text(
                zh=f"{zh}。可用：{'、'.join(there)}，本机文件的路径，或数据集 ID（如 AI-ModelScope/alpaca-gpt4-data-zh）。",
                en=f"{en}. There are: {', '.join(there)}, the path of a file, or a hub's set such as "
                "AI-ModelScope/alpaca-gpt4-data-zh.",
            )
        )


def _resolved(rows: Sequence[Row], identity: Identity) -> tuple[Row, ...]:
    return tuple(row.resolved(identity) for row in rows if not row.is_blank)


def _entry(name: str) -> tuple[Path, str] | None:
    """(folder or zip, set) of `path:set`, for those that hold several sets."""
    head, mark, entry = name.rpartition(":")
    path = storage.path_of(head) if mark and head and entry else None
    return None if path is None else (path, entry)


def _looks_like_file(name: str) -> bool:
    return Path(name).suffix.lower() in (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx", ".zip", ".txt")

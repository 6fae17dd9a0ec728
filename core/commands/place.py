"""A command's sources on this machine: saved tables, files, here-documents, the known identity sets, hubs."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core import downloads, formats, models, starter
from core.commands.shell import Option
from core.commands.swift import SELF_COGNITION
from core.dataset import Dataset, Identity, Row
from core.errors import DatasetError, UserError
from core.sources.found import BUILT_IN
from core.sources.names import hub_set
from core.storage import path_of
from core.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.mix import Find
    from core.workspace import Workspace

Kind = Literal["dataset", "file", "pasted", "starter", "hub", "built-in", "absent"]
_FILE = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".xlsx", ".zip")
# LLaMA-Factory's own files, as hubs have them; its identity.json is an identity set with placeholders.
_FACTORY = {
    "alpaca_zh": "llamafactory/alpaca_zh", "alpaca_en": "llamafactory/alpaca_en",
    "alpaca_gpt4_zh": "llamafactory/alpaca_gpt4_zh", "alpaca_gpt4_en": "llamafactory/alpaca_gpt4_en",
    "alpaca_zh_demo": "llamafactory/alpaca_zh", "alpaca_en_demo": "llamafactory/alpaca_en",
}  # fmt: skip
_OURS = re.compile(r"cognition|identity|self|身份|自我", re.I)
STARTER, ARTICLES = "identity-50", "articles-8"


@dataclass(frozen=True)
class Here:
    """What there is on this machine, and what is chosen on the page: the base `model` and the `open` table."""

    tables: Callable[[], Sequence[str]]
    table: Callable[[str], Dataset]
    find: Find
    model: str = models.POCKET
    open: str = ""
    cached: Callable[[], Collection[str]] = models.cached_models

    @classmethod
    def of(cls, workspace: Workspace, open_table: str = "") -> Here:
        """A workspace's."""
        return cls(workspace.datasets, workspace.dataset, workspace.sources.find, workspace.model, open_table)


@dataclass(frozen=True)
class Source:
    """One source of a command: as `written`, its `name` and `count` (None: all), and what it is here.

    rows: its rows with their placeholders, for what could become a table. becomes: the name of the table it is or would
    be saved as. problem: why it has no rows. identity: the card it comes with.
    """

    written: str
    name: str
    count: int | None
    kind: Kind
    rows: tuple[Row, ...] = ()
    becomes: str = ""
    problem: Text | None = None
    identity: Identity = field(default_factory=Identity)
    at_most: bool = field(default=False, compare=False)

    @property
    def drawn(self) -> int:
        """How many rows of it are trained on in an epoch."""
        if self.at_most and self.count is not None and self.rows:
            return min(self.count, len(self.rows))
        return len(self.rows) if self.count is None else self.count

    @property
    def own(self) -> bool:
        """Whether it can be the table: rows that are here or were pasted."""
        return self.kind in ("dataset", "file", "pasted", "starter", "absent")


def find(written: str, here: Here, files: Mapping[str, str], folder: str, columns: Option | None) -> Source:
    """What a source of a command is on this machine. `folder`: LLaMA-Factory's dataset_dir."""
    name, count, at_most = _count(written)
    source = _find(name, here, files, folder, _columns(columns))
    return replace(source, written=written.replace("#≤", " ≤ "), count=count, at_most=at_most)


def saved(table: str, here: Here) -> Source:
    """A saved table as a source."""
    return _read(table, "dataset", table, functools.partial(_saved_rows, here, table))


def is_identity(source: Source) -> bool:
    """Whether its name says that it is about who the model is."""
    return source.kind == "starter" or bool(_OURS.search(source.name))


def _find(name: str, here: Here, files: Mapping[str, str], folder: str, choices: formats.Choices) -> Source:
    stem = Path(name).stem if name.endswith(_FILE) else name
    given = next((text for file, text in files.items() if Path(file).name == Path(name).name), None)
    if given is not None:
        return _read(name, "pasted", stem, lambda: formats.read_text(given, choices).rows)
    if name in SELF_COGNITION or name.removesuffix(":qwen3").removesuffix(":empty_think") in SELF_COGNITION:
        return _starter(name, "self-cognition")
    for path in (path_of(name), path_of(str(Path(folder, name))) if folder else None):
        if path is not None and (path.is_file() or path.is_dir()):
            return _read(name, "file", stem or path.name, functools.partial(_rows_of, path, choices))
    if folder and (listed := path_of(str(Path(folder, "dataset_info.json")))) is not None and listed.is_file():
        asked = replace(choices, entry=name)
        found = _read(name, "file", name, functools.partial(_rows_of, listed.parent, asked))
        if found.problem is None:
            return found
    if name in BUILT_IN and name not in here.tables():
        return Source(name, name, None, "built-in")
    for table in (name, stem):
        if table in here.tables():
            return replace(saved(table, here), name=name)
    if name == "identity":
        return _starter(name, name)
    if stem == "self_cognition":
        return _starter(name, stem, ARTICLES)
    if name in _FACTORY:
        return Source(name, _FACTORY[name], None, "hub")
    if hub_set(name) is not None and not name.endswith(_FILE):
        return Source(name, name, None, "hub")
    return Source(name, name, None, "absent", becomes=stem, problem=Text(
        f"这台机器上没有 {name}。请在“数据集”页导入它，或在这里另选一张表。",
        f"{name} is not on this machine. Import it on the Dataset tab, or choose another table here.",
    ))  # fmt: skip


def _starter(name: str, becomes: str, which: str = STARTER) -> Source:
    known = next(table for table in starter.starter_sets() if table.name == which)
    card = known.identity if which == ARTICLES else Identity()
    return Source(name, name, None, "starter", known.rows, becomes, identity=card)


def _read(name: str, kind: Kind, becomes: str, rows: Callable[[], Sequence[Row]]) -> Source:
    try:
        found = tuple(row for row in rows() if not row.is_blank)
    except DatasetError as error:
        return Source(name, name, None, "absent", becomes=becomes, problem=error.text)
    except (OSError, UserError) as error:
        said = (
            error.text
            if isinstance(error, UserError)
            else Text(f"读取失败（{error}）。", f"It cannot be read ({error}).")
        )
        return Source(name, name, None, "absent", becomes=becomes, problem=said)
    return Source(name, name, None, kind, found, becomes)


def _rows_of(path: Path, choices: formats.Choices) -> Sequence[Row]:
    return formats.read_path(path, choices).rows


def _saved_rows(here: Here, table: str) -> Sequence[Row]:
    return here.table(table).rows


def _count(written: str) -> tuple[str, int | None, bool]:
    name, mark, count = written.rpartition("#")
    at_most = count.startswith("≤")
    count = count.lstrip("≤")
    if mark and name and count.isascii() and count.isdigit() and 0 < int(count) <= 1_000_000:
        return name, int(count), at_most
    return written, None, False


def _columns(option: Option | None) -> formats.Choices:
    """ms-swift's --columns '{"ask": "query"}', the file's keys first, as the importer asks for it."""
    parts = {"query": "question", "instruction": "question", "response": "answer", "output": "answer", "input": "input",
             "system": "system", "history": "history", "messages": "messages", "answer": "answer"}  # fmt: skip
    try:
        given = json.loads(option.value) if option is not None else {}
    except ValueError:
        given = {}
    if not isinstance(given, dict):
        return formats.Choices()
    columns = {parts[theirs]: key for key, theirs in given.items() if isinstance(theirs, str) and theirs in parts}
    return formats.Choices(columns=columns) if columns else formats.Choices()


def model_here(name: str, here: Here) -> tuple[str, bool, Text | None]:
    """(the model's name as it is used here, whether it is on this machine, what was wrong with the name)."""
    if not name:
        return here.model, True, Text(
            f"命令里没有基座模型，用当前选择的 {here.model}。", f"No base model is given; the chosen one, {here.model}, is used."
        )  # fmt: skip
    cached = here.cached()
    folder = path_of(name)
    if name == models.POCKET or name in cached or (folder is not None and folder.is_dir()):
        return name, True, None
    found = next((known for known in cached if known.lower() in (name.lower(), f"qwen/{name.lower()}")), None)
    if "/" not in name and (found or re.match(r"qwen[\d.]", name, re.I)):
        hub = found or f"Qwen/{name}"
        return hub, hub in cached, Text(
            f"只有 {name} 正好是当前目录下的文件夹时才这样写；仓库 ID 是 {hub}。",
            f"That works only where a folder {name} is in the current directory; the hub's id is {hub}.",
        )  # fmt: skip
    if found:
        return found, True, None
    return name, not downloads.elsewhere(name) and folder is not None, None

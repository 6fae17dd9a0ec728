"""What of an export's folder goes to a hub: what other programs load, and the card. Asks no hub."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from core import adapters, storage
from core.errors import ModelError, StorageError
from core.text import Text

CARD = "README.md"
_SENT = re.compile(r"\w[\w.-]*\.(safetensors|gguf|json|jinja|model|tiktoken)|(merges|vocab)\.txt|README\.md|Modelfile")
_MOST_TEXT = 2_000_000  # bytes of a file that is looked through
_MOST_TOLD = 8  # paths of one file that are named
# In text, a path begins where no word, address or other path goes on, and goes two folders deep.
_PATH = re.compile(r"(?<![\w./:~\\-])(?:/[^\s/'\"`<>|:;,，。；：()]+){2,}|\b[A-Za-z]:\\[^\s'\"`<>|,，。]+")


@dataclass(frozen=True)
class Outgoing:
    """A file to send. `changed`: its time of change in nanoseconds, by which another file of its name is told."""

    name: str
    path: Path
    nbytes: int
    changed: int


@dataclass(frozen=True)
class Parcel:
    """The files of a folder that are sent; `left` are the names of those that stay here.

    `told`: settings that give away a folder of this machine, as (file, value).
    """

    folder: Path
    files: tuple[Outgoing, ...]
    left: tuple[str, ...]
    told: tuple[tuple[str, str], ...]

    @property
    def nbytes(self) -> int:
        """Size of what is sent."""
        return sum(file.nbytes for file in self.files)

    @property
    def digest(self) -> str:
        """Changes when a file is added, removed, or written anew."""
        listed = [[file.name, file.nbytes, file.changed] for file in self.files]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def read(folder: Path) -> Parcel:
    """What is sent of `folder`. Raises ModelError for a folder that is no export, StorageError if it cannot be read."""
    if not folder.is_dir():
        raise ModelError(Text(f"没有文件夹 {folder}。", f"There is no folder {folder}."))
    try:
        paths = sorted(folder.iterdir())
        files = [_outgoing(path) for path in paths if _is_sent(path)]
        names = {file.name for file in files}
        left = [f"{path.name}/" if path.is_dir() else path.name for path in paths if path.name not in names]
        _check(folder, names)
        told = [pair for file in files for pair in _told(file)]
    except OSError as error:
        raise unreadable(folder, error) from error
    return Parcel(folder, tuple(files), tuple(left), tuple(told))


def unreadable(path: Path, error: OSError) -> StorageError:
    """The error for files that cannot be read, or no longer."""
    why = error.strerror or str(error)
    return StorageError(
        Text(
            f"读取 {error.filename or path} 失败：{why}。请检查它是否还在、是否有权限。",
            f"{error.filename or path} cannot be read: {why}. Check that it is still there and may be read.",
        )
    )


def _is_sent(path: Path) -> bool:
    """A link could lead to anything on this machine: it stays here."""
    return path.is_file() and not path.is_symlink() and _SENT.fullmatch(path.name) is not None


def _outgoing(path: Path) -> Outgoing:
    stat = path.stat()
    return Outgoing(path.name, path, stat.st_size, stat.st_mtime_ns)


def _check(folder: Path, names: set[str]) -> None:
    """Raise ModelError unless these are the files of an export."""
    weights = any(name.endswith((".safetensors", ".gguf")) for name in names)
    alone = adapters.WEIGHTS in names and adapters.CONFIG not in names
    if weights and not alone and CARD in names:
        return
    if any(path.suffix == ".zip" for path in folder.iterdir()):
        raise ModelError(
            Text(
                f"{folder.name} 里是一个 zip 压缩包，别的程序不能从模型社区直接加载它。请导出成适配器文件夹（adapter）或合并后的模型"
                "（merged）再发布。",
                f"{folder.name} holds a zip, which no program loads from a hub. Export the adapter folder (adapter) or the merged "
                "model (merged) and push that.",
            )
        )
    raise ModelError(
        Text(
            f"{folder} 不是导出的文件夹：要有权重（safetensors 或 GGUF）和模型卡片 {CARD}。请先导出：python app.py export。",
            f"{folder} is no export: it takes weights (safetensors or GGUF) and the model card {CARD}. Export first: python "
            "app.py export.",
        )
    )


def _told(file: Outgoing) -> list[tuple[str, str]]:
    """What in a file names a folder of this machine: a hub's readers can do nothing with it."""
    if file.nbytes > _MOST_TEXT or not file.name.endswith((".json", ".md", "Modelfile")):
        return []
    if not file.name.endswith(".json"):
        text = file.path.read_text("utf-8", "replace")
        return [(file.name, path) for path in dict.fromkeys(_PATH.findall(text)) if _is_here(path)][:_MOST_TOLD]
    try:
        found = storage.read_json(file.path)
    except (ValueError, RecursionError):
        return []
    values = [value for value in found.values() if isinstance(value, str)] if isinstance(found, dict) else []
    return [(file.name, value) for value in values if len(value) < 500 and _is_path(value)]


def _is_here(path: str) -> bool:
    """Whether a path found in text can be one of this machine: its first folder is there, or it is of Windows."""
    first = path.split("/")[1] if path.startswith("/") else ""
    return len(path) < 500 and (not first or Path("/", first).is_dir())


def _is_path(value: str) -> bool:
    return "\n" not in value and (Path(value).is_absolute() or PureWindowsPath(value).is_absolute())

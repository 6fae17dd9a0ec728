"""A foreign adapter, folder or zip, as an adapter folder of ours: only the files that are needed, each of them checked.

Knows what PEFT, ms-swift and LLaMA-Factory leave beside an adapter. Writes into a folder that the caller stages.
"""

from __future__ import annotations

import itertools
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from core import adapters, anatomy, storage
from core.anatomy import Anatomy
from core.dataset import Identity
from core.errors import ModelError
from core.text import Text

Told = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
MAX_WEIGHTS_BYTES = 8_000_000_000
MAX_TEXT_BYTES = 4_000_000
MAX_SETTINGS_BYTES = 200_000  # what a training was told is a few kB; PyYAML takes half a second for this much
MAX_ENTRIES = 5000
MAX_RATIO = 200  # trained weights shrink to nine tenths; what shrinks to a two-hundredth was made to fill a disk
_README = "README.md"
_SWIFT, _FACTORY = "args.json", ("training_args.yaml", "llamaboard_config.yaml")
_DRIVE = re.compile(r"[A-Za-z]:")
# What zipfile raises for archives whose bytes were changed: it trusts sizes, places, names and methods.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError, ValueError, OverflowError, OSError,
)  # fmt: skip
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
_CHUNK_BYTES = 4_000_000
_MAX_SYSTEM, _MAX_WORDS, _MAX_WORD = 20_000, 100, 200
# What these tools say before a conversation without a system prompt of its own; other templates say nothing.
_SWIFT_SYSTEM = {
    "qwen": "You are a helpful assistant.",
    "qwen2_5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
}
_FACTORY_SYSTEM = {"qwen": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."}


class Source(Protocol):
    """Where files are taken from. Paths are relative, with slashes."""

    @property
    def name(self) -> str:
        """What to call it."""

    def files(self) -> Mapping[str, int]:
        """Every regular file: path -> size in bytes."""

    def open(self, path: str) -> IO[bytes]:
        """One of `files`, to read."""

    def reading(self) -> AbstractContextManager[None]:
        """While it lasts, what cannot be read is a ModelError."""


@dataclass
class FolderSource:
    """A folder on this machine, and three levels below it."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name; where that says nothing, after the folder's above."""
        parts = [part for part in self.folder.parts if part != self.folder.anchor]
        dull = len(parts) > 1 and re.fullmatch(r"checkpoint-\d+|adapter|lora|output|final", parts[-1])
        return "-".join(parts[-2:]) if dull else self.folder.name

    def files(self) -> Mapping[str, int]:
        """See Source. Also what lies beside a checkpoint's folder, as ../NAME: the settings of the training."""
        levels = 1 if (self.folder / adapters.CONFIG).is_file() else 3
        with self.reading():
            inside = itertools.islice(_walk(self.folder, levels), MAX_ENTRIES)
            found = {path.relative_to(self.folder).as_posix(): path for path in inside}
            for name in (_SWIFT, *_FACTORY):
                if (self.folder.parent / name).is_file():
                    found[f"../{name}"] = self.folder.parent / name
            return {path: file.stat().st_size for path, file in found.items()}

    def open(self, path: str) -> IO[bytes]:
        """See Source. Raises ModelError for a link that leads out of the folder: what is brought in goes on to others."""
        file = self.folder / path
        home, leads = file.parent.resolve(), file.resolve()
        # A hub's cache keeps the files of a snapshot as ../../blobs/HASH, and links to them.
        hub = [above.parent / "blobs" for above in home.parents if above.name == "snapshots"]
        if not any(leads.is_relative_to(place) for place in (home, self.folder.resolve(), *hub)):
            raise _refused(
                self.name,
                f"{path} 是指向文件夹之外的链接（{leads}）。请把文件本身放进文件夹",
                f"{path} is a link out of the folder (to {leads}). Put the file itself into the folder",
            )
        return file.open("rb")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See Source."""
        try:
            yield
        except OSError as error:
            raise _refused(self.name, f"读取失败（{error}）", f"it cannot be read ({error})") from error


@dataclass
class ZipSource:
    """A zip archive. Nothing in it is believed before it is checked."""

    archive: zipfile.ZipFile
    name: str
    _entries: dict[str, zipfile.ZipInfo] = field(default_factory=dict)

    def files(self) -> Mapping[str, int]:
        """See Source. Raises ModelError for an archive that is made to do harm."""
        entries = self.archive.infolist()
        if len(entries) > MAX_ENTRIES:
            raise _refused(
                self.name, f"{len(entries):,} 个文件，多于 {MAX_ENTRIES:,} 个", f"{len(entries):,} files in it"
            )
        self._entries.clear()
        for entry in (entry for entry in entries if not entry.is_dir()):
            path = PurePosixPath(entry.filename.replace("\\", "/"))
            named = entry.filename[:200]
            if path.is_absolute() or ".." in path.parts or _DRIVE.match(str(path)) or "\0" in entry.orig_filename:
                raise _refused(self.name, f"{named!r} 指向压缩包之外", f"{named!r} points outside of it")
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
                raise _refused(self.name, f"{named!r} 是链接，不是文件", f"{named!r} is a link and no file")
            if entry.flag_bits & 1:
                raise _refused(self.name, "它有密码", "it is locked with a password")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _refused(
                    self.name,
                    f"{named!r} 用了不支持的压缩方式。请用普通的 zip（Deflate）重新打包",
                    f"{named!r} is compressed in a way that is not supported. Pack it again as a plain zip (Deflate)",
                )
            if entry.file_size > 1_000_000 and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
                raise _refused(self.name, f"{named!r} 解压后大得不合常理", f"{named!r} grows beyond reason")
            if str(path) in self._entries:
                raise _refused(self.name, f"{named!r} 出现了两次", f"{named!r} is in it twice")
            self._entries[str(path)] = entry
        return {path: entry.file_size for path, entry in self._entries.items()}

    def open(self, path: str) -> IO[bytes]:
        """See Source."""
        return self.archive.open(self._entries[path])

    def reading(self) -> AbstractContextManager[None]:
        """See Source."""
        return _damage_of(self.name)


@contextmanager
def opened_zip(path: Path, name: str) -> Iterator[ZipSource]:
    """The archive to take from. Raises ModelError for what is no zip."""
    with _damage_of(name):
        archive = zipfile.ZipFile(path)
    with archive:
        yield ZipSource(archive, name)


@contextmanager
def _damage_of(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise _refused(name, f"无法解压（{error}）", f"it cannot be unpacked ({error})") from error


def take(source: Source, staged: Path, told: Told) -> Anatomy:
    """Copy the one adapter of `source` into `staged` and check it there. Raises ModelError; the caller clears away."""
    files = source.files()
    place = _place(source.name, files)
    size = _weights_size(source.name, files, place)
    config = _settings(_text(source, files, place + adapters.CONFIG))
    storage.write_json(staged / adapters.CONFIG, config)
    _copy(source, place + adapters.WEIGHTS, staged / adapters.WEIGHTS, size, lambda done: told(done, 2 * size))
    with _named_as(staged, source.name):
        found = anatomy.examine(staged)
        # A pattern of the config is somebody's program for a regex engine: what it matched stands in the weights.
        if not isinstance(config.get("target_modules"), list) or isinstance(config.get("exclude_modules"), str):
            config |= {"target_modules": sorted(found.layers), "exclude_modules": None}
            storage.write_json(staged / adapters.CONFIG, config)
        anatomy.check_finite(staged / adapters.WEIGHTS, lambda done: told(size + done, 2 * size))
    readme = _text(source, files, place + _README)
    if readme is not None:
        storage.write_text(staged / _README, readme)
    storage.write_json(staged / adapters.CARD, _card(source, files, place, found))
    return found


def _weights_size(name: str, files: Mapping[str, int], place: str) -> int:
    size = files.get(place + adapters.WEIGHTS)
    if size is None:
        pickled = next((file for file in _PICKLES if place + file in files), None)
        if pickled:
            raise _refused(
                name,
                f"权重是 pickle 格式（{pickled}），出于安全不读取。请另存为 safetensors",
                f"its weights are pickled ({pickled}), which are not read for safety. Save them as safetensors",
            )
        raise _refused(name, f"缺少 {adapters.WEIGHTS}", f"it lacks {adapters.WEIGHTS}")
    if size > MAX_WEIGHTS_BYTES:
        raise _refused(name, f"权重有 {size / 1e9:.1f} GB", f"its weights take {size / 1e9:.1f} GB")
    return size


@contextmanager
def _named_as(staged: Path, name: str) -> Iterator[None]:
    """Let an error name what the person brought, not the folder that it is checked in."""
    try:
        yield
    except ModelError as error:
        zh, en = (text.replace(f"{staged}/", "").replace(staged.name, name) for text in (error.text.zh, error.text.en))
        raise ModelError(Text(zh=zh, en=en)) from error


def _place(name: str, files: Mapping[str, int]) -> str:
    """Where in the source the adapter is: the outermost folder with a configuration, "" or with a slash at its end."""
    suffix = adapters.CONFIG
    homes = sorted(path.removesuffix(suffix) for path in files if path == suffix or path.endswith(f"/{suffix}"))
    outermost = min((home.count("/") for home in homes), default=0)
    homes = [home for home in homes if home.count("/") == outermost]
    if not homes:
        raise _refused(name, f"里面没有 {suffix}", f"there is no {suffix} in it")
    if len(homes) > 1:
        named = ", ".join(home.rstrip("/")[:80] for home in homes[:6])
        raise _refused(
            name,
            f"里面有 {len(homes)} 个适配器（{named}）。请选其中一个文件夹",
            f"there are {len(homes)} adapters in it ({named}). Choose one of the folders",
        )
    return homes[0]


def _settings(text: str | None) -> dict[str, object]:
    try:
        config = json.loads(text or "")
        json.dumps(config, allow_nan=False)  # Python reads NaN and Infinity, which are no JSON
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(
            Text(
                zh=f"{adapters.CONFIG} 不是有效的 JSON。请重新导出或下载这个适配器。",
                en=f"{adapters.CONFIG} is not valid JSON. Export or download the adapter again.",
            )
        )
    return config


def _copy(source: Source, path: str, target: Path, size: int, told: Callable[[int], None]) -> None:
    """Copy exactly `size` bytes, however many there are."""
    done = 0
    with target.open("wb") as out:
        for piece in pieces(source, path, size):
            out.write(piece)
            done += len(piece)
            told(done)
    if done != size:
        raise _refused(source.name, f"{path} 不完整", f"{path} in it is incomplete")


def pieces(source: Source, path: str, size: int) -> Iterator[bytes]:
    """A file's first `size` bytes, in pieces. What its reader does with them is not this source's damage."""
    with source.reading(), source.open(path) as file:
        while size > 0 and (piece := file.read(min(_CHUNK_BYTES, size))):
            size -= len(piece)
            yield piece


def _text(source: Source, files: Mapping[str, int], path: str, most: int = MAX_TEXT_BYTES) -> str | None:
    """A small text file of the source; None if it is not there, too large, or no UTF-8."""
    if files.get(path, most + 1) > most:
        return None
    with source.reading(), source.open(path) as file:
        data = file.read(most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


# -- what the tools leave beside an adapter --


def _card(source: Source, files: Mapping[str, int], place: str, found: Anatomy) -> dict[str, object]:
    """Our card for it: where it came from and what it was trained with, as far as anything says so.

    The tools' files are read, not kept: they also hold paths, and sometimes tokens of whoever trained it.
    """
    ours = _object(_text(source, files, place + adapters.CARD))
    above = "../" if not place and isinstance(source, FolderSource) else "/".join(place.split("/")[:-2])
    above = above if not above or above.endswith("/") else f"{above}/"
    tool, told = "", {"system": "", "base_model": ""}
    for folder in dict.fromkeys((place, above)):
        swift = _object(_text(source, files, folder + _SWIFT, MAX_SETTINGS_BYTES))
        if swift:
            tool, told = "ms-swift", _of_swift(swift)
            break
        told_it = (_yaml(_text(source, files, folder + name, MAX_SETTINGS_BYTES)) for name in _FACTORY)
        factory = next(filter(None, told_it), None)
        if factory:
            tool, told = "LLaMA-Factory", _of_factory(factory)
            break
    if not tool and _is_of_factory(_text(source, files, place + _README)):
        tool = "LLaMA-Factory"
    numbers = ((key, ours.get(key)) for key in ("step", "evaluation_loss"))
    kept = {key: value for key, value in numbers if isinstance(value, int | float) and abs(value) < 1e300}  # no NaN
    return {
        "source": source.name[:200],
        "tool": "OneCard" if "system" in ours else tool,
        "base_model": told["base_model"] or found.base_model,
        "system": (_line(ours.get("system")) if "system" in ours else told["system"])[:_MAX_SYSTEM],
        "identity": _identity(ours.get("identity")),
        "new_words": _few(ours.get("new_words")),
        "old_words": _few(ours.get("old_words")),
        "note": _line(ours.get("note"))[:_MAX_SYSTEM],
        **kept,
    }


def _identity(value: object) -> dict[str, str]:
    """The identity card that the adapter was trained with; empty where it is not told."""
    return {key: _line(value.get(key))[:200] for key in vars(Identity())} if isinstance(value, dict) else {}


def _of_swift(args: Mapping[str, object]) -> dict[str, str]:
    template = _line(args.get("template")) or _line(args.get("template_type"))
    system = _line(args.get("system")) or _SWIFT_SYSTEM.get(template, "")
    if system.endswith(".txt") and "\n" not in system:
        system = ""  # the path of a file that stayed on the other machine
    return {"system": system, "base_model": _line(args.get("model"))}


def _of_factory(args: Mapping[str, object]) -> dict[str, str]:
    template = _line(args.get("template")) or _line(args.get("top.template"))
    system = _line(args.get("default_system")) or _FACTORY_SYSTEM.get(template, "")
    base = _line(args.get("model_name_or_path")) or _line(args.get("top.model_path"))
    return {"system": system, "base_model": base}


def _is_of_factory(readme: str | None) -> bool:
    """Whether its tag is in the card: all that a training by LLaMA-Factory's command line leaves of its settings."""
    _, _, rest = (readme or "").partition("---\n")
    tags = _yaml(rest.partition("\n---")[0][:MAX_SETTINGS_BYTES]).get("tags")
    return isinstance(tags, list) and "llama-factory" in tags


def _object(text: str | None) -> dict[str, object]:
    try:
        value = json.loads(text or "null")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _yaml(text: str | None) -> dict[str, object]:
    import yaml  # type: ignore[import-untyped]

    try:
        value = yaml.safe_load(text or "")
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError):  # "!!bool x", "!!timestamp x"
        return {}
    return value if isinstance(value, dict) else {}


def _line(value: object) -> str:
    return value if isinstance(value, str) else ""


def _few(value: object) -> list[str]:
    return [word[:_MAX_WORD] for word in adapters.words_of(value)][:_MAX_WORDS]


def _walk(folder: Path, levels: int) -> Iterator[Path]:
    for number, path in enumerate(sorted(folder.iterdir())):
        if number >= MAX_ENTRIES:
            return
        if path.is_dir() and not path.is_symlink() and levels > 1:
            yield from _walk(path, levels - 1)
        elif path.is_file():
            yield path


def _refused(name: str, zh: str, en: str) -> ModelError:
    return ModelError(Text(zh=f"没有导入 {name[:120]}：{zh}。", en=f"{name[:120]} was not imported: {en}."))

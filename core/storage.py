"""Files that are whole or absent: atomic writes, JSON lines, safe folder names. Knows nothing of what is stored."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from core.errors import StorageError
from core.text import Text

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONE = re.compile("[\ud800-\udfff]")
# What is being written, replaced or removed lies beside its target under such a name.
_UNDER_WAY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|old|gone)", re.DOTALL)
_HERE, _SWAP = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
_UNSAFE = re.compile(r"[^\w\u4e00-\u9fff-]+")
# Windows refuses these as file names, whatever the suffix; a home folder may travel.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn a full, read-only or broken disk into a sentence that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(disk_full(path)) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StorageError(
                Text(
                    zh=f"没有写入 {path.parent} 的权限。请换一个文件夹（--home）或修改权限。",
                    en=f"No permission to write in {path.parent}. Choose another folder (--home) or change its permissions.",
                )
            ) from error
        if error.errno == errno.ENOENT and not path.parent.exists():
            raise StorageError(gone(path.parent)) from error
        if error.errno in (errno.EIO, errno.EFBIG):
            raise StorageError(not_written(path, str(error))) from error
        raise


def path_of(name: str) -> Path | None:
    """What is there under a name that somebody wrote, ~ being the home folder; None where nothing is, or can be."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, ~ of nobody, a zero byte
        return None


def disk_full(path: Path) -> Text:
    """The sentence for a full disk, with the free space that is left."""
    folder = path if path.is_dir() else path.parent
    while not folder.exists() or _UNDER_WAY.fullmatch(folder.name):  # nobody knows that one
        folder = folder.parent
    free = shutil.disk_usage(folder).free // 1_000_000
    return Text(
        zh=f"磁盘已满：{folder} 只剩 {free} MB。请清理磁盘或用 --home 换一个文件夹，已保存的内容没有丢失。",
        en=f"Disk full: {folder} has {free} MB left. Free some space or choose another folder with --home; "
        "what was saved before is intact.",
    )


def gone(folder: Path) -> Text:
    """The sentence for a folder that was there before."""
    return Text(
        f"文件夹 {folder} 不见了：它被删除或移走了，或者所在的磁盘没有挂载。请恢复它，或用 --home 换一个文件夹后重新启动。",
        f"The folder {folder} is gone: it was deleted or moved, or its disk is not mounted. Bring it back, or start again "
        "with another --home.",
    )


def not_written(path: Path, reason: str) -> Text:
    """The sentence for a file that could not be written, by `reason`, the words of the system or of a library."""
    said = re.search(r"os error (\d+)", reason)
    if said and int(said[1]) in _FULL:
        return disk_full(path)
    return Text(
        zh=f"{path} 写入失败（{reason}）。请检查磁盘是否正常、能否写入大文件，或用 --home 换一个文件夹；已保存的内容没有丢失。",
        en=f"{path} could not be written ({reason}). Check that the disk works and takes large files, or choose another "
        "folder with --home; what was saved before is intact.",
    )


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file's contents to disk; whoever writes to it meanwhile is not held up."""
    with path.open("r+b") as handle:  # Windows flushes only what may be written
        os.fsync(handle.fileno())


def make_folder(folder: Path) -> None:
    """Create a folder and those above it. Raises StorageError where that is not allowed."""
    with _named(folder / "x"):
        _make(folder)


def _make(folder: Path) -> None:
    """`mkdir -p` that survives a power cut: a file in a folder which nobody flushed is lost with it."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        sync_folder(one.parent)


def check_writable(folder: Path) -> None:
    """Write and remove an empty file there. Raises StorageError: the folder is gone, may not be entered, is read-only or full."""
    probe = folder / ".writable"
    with _named(probe):
        if not folder.is_dir():
            raise StorageError(gone(folder))
        write_text(probe, "")
        probe.unlink()


def lock_file(path: Path) -> IO[str] | None:
    """An open file that only this process holds until it ends, or None if another holds it, see `holder`.

    The system lets go of it when the process dies, however that happens. On systems and file systems without flock nothing is locked.
    """
    with _named(path):
        file = path.open("a+")
    if not _lock(file.fileno()):
        file.close()
        return None
    with contextlib.suppress(OSError):  # a full disk: locked, and nobody can say by whom
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    return file


def holder(path: Path) -> str:
    """The process id that whoever locked this file wrote into it; "?" if that cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return str(int(path.read_text("ascii")))
    return "?"


def is_held(path: Path) -> bool:
    """Whether a process holds this file, see `lock_file`; false for one that is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the open file is this process's alone from now on; true where nothing can be locked."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.EOPNOTSUPP)  # a file system without locks
    return True


@contextlib.contextmanager
def _at_work(path: Path) -> Iterator[None]:
    """While the block runs, `sweep` leaves `path` alone."""
    with contextlib.ExitStack() as stack:
        if os.name != "nt":
            descriptor = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            _lock(descriptor)
        yield


def under_way(target: Path) -> Path:
    """A free name beside `target` for a file on its way. What a kill leaves under it `sweep` clears away."""
    return _beside(target, "tmp")


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.{kind}")


def sweep(folder: Path) -> None:
    """Clear away, anywhere below `folder`, what writers that died left half done; one that is at work is not touched.

    What was being replaced where two folders cannot be exchanged in one step gets its name back.
    """
    for place, folders, files in os.walk(folder):
        _clear_all(Path(place, name) for name in (*folders, *files))
        folders[:] = [name for name in folders if not _UNDER_WAY.fullmatch(name)]


def sweep_beside(target: Path) -> None:
    """The same for what was to become `target`, or was of use to it, and for what is below it."""
    if target.parent.is_dir():
        _clear_all(path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}."))
    sweep(target)


def _clear_all(paths: Iterable[Path]) -> None:
    found = [(path, match) for path in paths if (match := _UNDER_WAY.fullmatch(path.name))]
    for path, match in sorted(found, key=lambda one: one[1][2] != "old"):
        with contextlib.suppress(OSError):  # it is out of the way, and stays so
            _clear(path, path.with_name(match[1]), match[2])


def _clear(path: Path, target: Path, kind: str) -> None:
    if os.name != "nt":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not _lock(descriptor):
                return
        finally:
            os.close(descriptor)
    if kind == "old" and not target.exists():
        os.rename(path, target)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step: a reader sees the old file or the new one, never a part."""
    with _named(path):
        _make(path.parent)
        staged = _beside(path, "tmp")
        try:
            with staged.open("wb") as file:
                _lock(file.fileno())  # see `sweep`
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, path)
            sync_folder(path.parent)
        finally:
            staged.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """A file to fill, flushed and renamed to `target` on success, removed on failure: whole or absent.

    An existing `target` is replaced.
    """
    with _named(target):
        _make(target.parent)
        staged = _beside(target, "tmp")
        staged.touch()
        try:
            with _at_work(staged):
                yield staged
                with staged.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(staged, target)
                sync_folder(target.parent)
        finally:
            staged.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; lone surrogates (from a broken paste) become U+FFFD."""
    write_bytes(path, whole(text).encode("utf-8"))


def whole(text: str) -> str:
    """`text` with lone surrogates replaced by U+FFFD: they cannot be written as UTF-8."""
    return _LONE.sub("\ufffd", text)


def append_line(path: Path, line: str, flushed: bool = True) -> None:
    """Add one line of UTF-8 text to the end of a file; with `flushed` it survives a power cut from now on.

    A tail that was torn by a kill or a full disk stays a line of its own.
    """
    with _named(path), path.open("ab+") as file:
        size = file.tell()
        if size:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())
        file.flush()
        if flushed or not size:
            os.fsync(file.fileno())
        if not size:
            sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused (ValueError): it is no JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> object:
    """The JSON value in `path`. Raises FileNotFoundError or ValueError."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_lines(path: Path, torn: bool = False) -> list[object]:
    """Every complete line's value; a torn last line (killed while writing) is left out, with `torn` any such line."""
    if not path.exists():
        return []
    # Not splitlines(): it also cuts at U+2028 and U+0085, which JSON strings may contain.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    values: list[object] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except ValueError:
            if number < len(lines) - 1 and not torn:
                raise
    return values


@contextlib.contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A folder beside another, as long as the block runs. What a kill leaves of it `sweep` clears away."""
    with _named(beside):
        _make(beside.parent)
        scratch = _beside(beside, "tmp")
        scratch.mkdir()
        try:
            with _at_work(scratch):
                yield scratch
        finally:
            if scratch.exists():
                shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `target` on success and removed on failure: whole or absent.

    An existing `target` is replaced, in one step where the system can.
    """
    with scratch_folder(target) as staged:
        yield staged
        _flush(staged)
        _put(staged, target)


def _flush(folder: Path) -> None:
    """Put every file and every entry of a folder on disk, readable by all."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes 0600; a server under another user must be able to read it
            sync_file(path)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def _put(staged: Path, target: Path) -> None:
    """Give the staged folder its name. What bore it is removed, or lies under the staged name then."""
    old = None
    if not target.exists():
        os.rename(staged, target)
    elif not _exchange(staged, target):
        old = _beside(target, "old")
        os.rename(target, old)
        try:
            os.rename(staged, target)
        except OSError:
            os.rename(old, target)
            raise
    sync_folder(target.parent)
    if old is not None:
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, so that there is no moment without either; False where that cannot be done."""
    try:
        swap = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # another system than Linux, or an old C library
        return False
    swap.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return bool(swap(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _SWAP) == 0)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it. A kill leaves it whole, or none of it that anybody sees, see `sweep`."""
    with _named(folder):
        shutil.rmtree(set_aside(folder), ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Rename `folder` to where nobody looks and `sweep` clears up; where that is."""
    with _named(folder):
        gone = _beside(folder, "gone")
        os.rename(folder, gone)
        sync_folder(gone.parent)
        return gone


def slug(name: str, fallback: str = "untitled") -> str:
    """A folder name for a display name: letters, digits, Chinese, '-' and '_', at most 60 characters, never special."""
    text = unicodedata.normalize("NFC", name.encode("utf-8", errors="ignore").decode("utf-8"))
    text = _UNSAFE.sub("-", text).strip("-_").lower()
    while len(text.encode("utf-8")) > 120 or len(text) > 60:
        text = text[:-1]
    text = text.strip("-_")
    return f"{text}-1" if text in _RESERVED else (text or fallback)


def unused(folder: Path, name: str, suffix: str = "") -> str:
    """`name`, or `name-2`, `name-3`, ... : the first with no file `name + suffix` in `folder`."""
    candidate, number = name, 1
    while (folder / f"{candidate}{suffix}").exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate

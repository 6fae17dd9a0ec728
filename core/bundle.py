"""A run as one file for another machine: its frozen rows and settings, events, answers, proof and adapters, each digested.

A zip with one folder; manifest.json in it lists every other member with size and SHA-256. The same run gives the same
bytes. core.bundle_read brings it in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core import __version__, adapters, checkpoints, intake, probed, proofs, row_report, storage
from core.errors import BusyError, DatasetError, StorageError
from core.run import Run
from core.text import Text

FORMAT = "onecard-run-1"
MANIFEST, README = "manifest.json", "README.md"
Told = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

_RUN = ("config.json", "dataset.jsonl", "evaluation.jsonl", "mix.json", "events.jsonl", "card.json",
        proofs.FILE, row_report.FILE)  # fmt: skip
_ADAPTER = (adapters.CONFIG, adapters.WEIGHTS, adapters.CARD, README, proofs.FILE)
_CHECKPOINT = (*_ADAPTER, checkpoints.RECORD, checkpoints.TENSORS)
_STEP = r"step-\d{6,12}"
_WEIGHTS = (adapters.WEIGHTS, checkpoints.TENSORS)
_CHUNK_BYTES = 4_000_000
_STORED_RATIO = intake.MAX_RATIO // 2
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # zip knows none before; the time of packing is nothing of the run


def _named(names: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, names))


ALLOWED = re.compile(
    rf"{_named((README, *_RUN))}|(?:adapter|{probed.FOLDER}/{_STEP})/(?:{_named(_ADAPTER)})"
    rf"|checkpoints/{_STEP}/(?:{_named(_CHECKPOINT)})"
)
"""Paths that a file of ours has beside its manifest, relative to its folder."""


ID = re.compile(r"(?!_)\w[\w-]{0,119}")
"""What a run may be called: a folder's name that is no path, on any system."""


@dataclass(frozen=True)
class Contents:
    """What of a run's folder goes into its file: path -> file; `left_out`: what stays here, as paths."""

    files: Mapping[str, Path]
    left_out: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size in bytes, each file once however many names it has."""
        sizes = {(stat.st_dev, stat.st_ino): stat.st_size for stat in (path.stat() for path in self.files.values())}
        return sum(sizes.values())


@dataclass(frozen=True)
class Bundle:
    """A written file: where, its size in bytes, and what of the run's folder is not in it."""

    path: Path
    nbytes: int
    left_out: tuple[str, ...]


def contents(run: Run, with_checkpoints: bool = False) -> Contents:
    """What `write` would take. Checkpoints, which hold the optimizer too, only where asked for."""
    found: dict[str, Path] = {}
    left_out: list[str] = []
    for path in sorted(run.folder.rglob("*")):
        inside = path.relative_to(run.folder).as_posix()
        if path.is_symlink() or not path.is_file() or any(part.startswith(".") for part in inside.split("/")):
            continue
        wanted = ALLOWED.fullmatch(inside) and inside != README
        if wanted and (with_checkpoints or not inside.startswith("checkpoints/")):
            found[inside] = path
        else:
            left_out.append(inside)
    return Contents(found, tuple(left_out))


def identify(run: Run) -> str:
    """The id by which another machine knows the run: its own, or for a folder that a person named, one made of that name."""
    if run.cache is not None and ID.fullmatch(run.id):
        return run.id
    began = hashlib.sha256(f"{run.created!r}".encode()).hexdigest()[:8]
    return f"{began}-{storage.slug(run.folder.name, 'run')}"


def write(
    run: Run,
    target: Path,
    with_checkpoints: bool = False,
    told: Told = lambda done, total: None,
    stop: threading.Event | None = None,
) -> Bundle | None:
    """Write the run's file; None, and nothing is left of it, if `stop` was set meanwhile.

    Raises BusyError while the run trains or if it changed meanwhile, DatasetError if `target` is there already,
    StorageError.
    """
    if target.exists():
        raise DatasetError(
            Text(f"{target} 已经存在。请换一个文件名。", f"{target} is there already. Choose another file name.")
        )
    _check_idle(run)
    taken = contents(run, with_checkpoints)
    before = _stamps(taken)
    _check_room(target, taken.nbytes)
    with contextlib.suppress(_Stopped):
        with storage.staged_file(target) as staged:
            with zipfile.ZipFile(staged, "w") as archive:
                _Packer(archive, identify(run), taken.nbytes, told, stop or threading.Event()).pack(run, taken)
            if run.live or _stamps(taken) != before:
                raise BusyError(
                    Text(
                        f"打包时“{run.title}”有了变化，没有留下文件。请稍后再试。",
                        f"“{run.title}” changed while it was packed; no file was left. Try again.",
                    )
                )
        return Bundle(target, target.stat().st_size, taken.left_out)
    return None


class _Stopped(Exception):
    """Whoever waits for the file does not want it any more."""


class _Packer:
    """One file on its way: writes members, and what the manifest says of each."""

    def __init__(self, archive: zipfile.ZipFile, top: str, total: int, told: Told, stop: threading.Event) -> None:
        self._archive, self._top, self._total, self._told, self._stop = archive, top, total, told, stop
        self._listed: dict[str, dict[str, object]] = {}
        self._done = 0

    def pack(self, run: Run, taken: Contents) -> None:
        """Every file of the run, the page for people, and last the manifest."""
        for inside, path in taken.files.items():
            self._add_file(inside, path)
        self._add_text(README, readme(run, taken))
        manifest = {"format": FORMAT, "onecard": __version__, "run": self._top, **facts(run), "files": self._listed}
        text = json.dumps(manifest, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        self._archive.writestr(self._member(MANIFEST, zipfile.ZIP_DEFLATED), text.encode())

    def _add_file(self, inside: str, path: Path) -> None:
        size = path.stat().st_size
        twin = self._twin(path, size)
        if twin is not None:  # the adapter in use is one of those that were asked, or a checkpoint's
            self._listed[inside] = {**self._listed[twin], "same_as": twin}
            return
        digest = hashlib.sha256()
        member = self._member(inside, zipfile.ZIP_STORED if _keeps(path) else zipfile.ZIP_DEFLATED)
        with path.open("rb") as source, self._archive.open(member, "w", force_zip64=True) as out:
            while piece := source.read(_CHUNK_BYTES):
                if self._stop.is_set():
                    raise _Stopped
                out.write(piece)
                digest.update(piece)
                self._done += len(piece)
                self._told(min(self._done, self._total), self._total)
        self._listed[inside] = {"bytes": size, "sha256": digest.hexdigest()}

    def _add_text(self, inside: str, text: str) -> None:
        data = text.encode()
        self._archive.writestr(self._member(inside, zipfile.ZIP_DEFLATED), data)
        self._listed[inside] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _twin(self, path: Path, size: int) -> str | None:
        """The member that holds the same weights."""
        if path.name not in _WEIGHTS:
            return None
        alike = [inside for inside, fact in self._listed.items() if fact["bytes"] == size and "same_as" not in fact]
        digest = digest_of(path) if alike else ""
        return next((inside for inside in alike if self._listed[inside]["sha256"] == digest), None)

    def _member(self, inside: str, how: int) -> zipfile.ZipInfo:
        member = zipfile.ZipInfo(f"{self._top}/{inside}", _EARLIEST)
        member.compress_type, member.create_system, member.external_attr = how, 3, 0o100644 << 16
        return member


def facts(run: Run) -> dict[str, object]:
    """What the manifest says of the run: its title, base, status, and the device and libraries it was trained with."""
    started = run.first("started") or {}
    return {
        "title": run.title,
        "created": run.created,
        "status": run.status,
        "model": run.config.model,
        "device": str(started.get("device", "")),
        "versions": started.get("versions") or {},
    }


def readme(run: Run, taken: Contents) -> str:
    """What the file is, for whoever unpacks it by hand."""
    adapter = "`adapter/`: PEFT" if run.adapter is not None else "–"
    return "\n".join(
        (
            f"# {_line(run.title)}",
            "",
            "A run of OneCard: rows and settings as they were frozen, events, answers, proof and adapters. Open it with",
            "`python app.py bundle --open FILE.zip`, or on the Train tab under Runs. manifest.json has every file's SHA-256.",
            "",
            "OneCard（单卡工坊）的一次训练：冻结的数据和设置、事件、回答、检验和适配器。用",
            "`python app.py bundle --open 文件.zip` 打开，或在“训练”页的训练记录里打开。manifest.json 里有每个文件的 SHA-256。",
            "",
            f"- base / 基座: {_line(run.config.model)}",
            f"- rows / 行数: {len(run.rows)}",
            f"- adapter / 适配器: {adapter}",
            f"- files / 文件数: {len(taken.files)}",
            "",
        )
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")


def _keeps(path: Path) -> bool:
    """Whether to store a file as it is: weights do not shrink, and text that shrinks too well looks like a zip bomb."""
    if path.name in _WEIGHTS:
        return True
    size, squeezer, packed = path.stat().st_size, zlib.compressobj(), 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            packed += len(squeezer.compress(piece))
    return size > _STORED_RATIO * max(1, packed + len(squeezer.flush()))


def _stamps(taken: Contents) -> list[tuple[int, int]]:
    return [(stat.st_mtime_ns, stat.st_size) for stat in (path.stat() for path in taken.files.values())]


def _check_idle(run: Run) -> None:
    """Raise BusyError while anybody trains the run."""
    lock = run.folder / ".lock"
    held = storage.lock_file(lock) if lock.is_file() and not run.live else None
    if held is not None:
        held.close()
    elif run.live or lock.is_file():
        raise BusyError(
            Text(
                f"“{run.title}”正在训练，结束后才能打包。",
                f"“{run.title}” is training; it can be packed once that ends.",
            )
        )


def _check_room(target: Path, nbytes: int) -> None:
    place = target.parent
    while not place.exists():
        place = place.parent
    if shutil.disk_usage(place).free < nbytes:
        raise StorageError(storage.disk_full(place))

"""A run's file of another machine into the runs of this one: nothing in it is believed before it is checked.

What core.bundle writes, and what stands in a run's folder afterwards. Loads no model and runs nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core import adapters, anatomy, bundle, intake, mix, proof, proofs, run_events, storage, typed
from core.bundle import FORMAT, MANIFEST, README, Told
from core.errors import DatasetError, ModelError, StorageError, UserError
from core.intake import ZipSource
from core.proof import Proof
from core.run import Run
from core.text import Text

MAX_MANIFEST_BYTES = 4_000_000
MAX_TEXT_BYTES = 2_000_000_000
_STALE_SECONDS = 86_400
_MOST_TITLE, _MOST_NOTE = 300, 2000
_MOST_NAMED = 5


@dataclass(frozen=True)
class Fact:
    """What a manifest says of a file. `same_as`: the path of the member that holds the same bytes, "" for its own."""

    nbytes: int
    sha256: str
    same_as: str = ""


@dataclass(frozen=True)
class Manifest:
    """Which run the file holds, and its files by their paths in the run's folder."""

    run: str
    title: str
    files: Mapping[str, Fact]


def bring(
    archive: Path,
    runs: Path,
    name: str,
    guard: AbstractContextManager[object],
    told: Told = lambda done, total: None,
) -> tuple[str, bool]:
    """(id of the run, whether it is new here). `name` is the file's, for errors; `guard` is held while it is put there.

    A run that is here already, file by file the same, is left as it is. Raises DatasetError or ModelError, which say
    what is wrong with the file, StorageError, or DatasetError where a run of this id is another one; nothing is left then.
    """
    name = name.removesuffix(".zip")[:120] or "run"
    _sweep(runs)
    whole = runs / f".bundle-{uuid.uuid4().hex}"
    try:
        with intake.opened_zip(archive, name) as source:
            manifest, members = read_manifest(source)
            _check_room(runs, manifest)
            with storage.staged_folder(whole) as staged:
                _unpack(source, manifest, members, staged, told)
                with _naming(staged, name):
                    check(staged, name)
        with guard:
            target = runs / manifest.run
            if target.exists():
                _check_same(target, manifest)
                return manifest.run, False
            whole.rename(target)
            storage.sync_folder(runs)
        return manifest.run, True
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def read_manifest(source: ZipSource) -> tuple[Manifest, Mapping[str, str]]:
    """The checked manifest of an archive, and which member holds each of its files. Raises DatasetError or ModelError."""
    files = source.files()
    tops = {path.split("/")[0] for path in files}
    top = next(iter(tops), "")
    place = f"{top}/{MANIFEST}"
    if len(tops) != 1 or place not in files:
        raise _refused(
            source.name, f"里面没有 {MANIFEST}，不是训练文件", f"there is no {MANIFEST} in it; it is no run's file"
        )
    if files[place] > MAX_MANIFEST_BYTES:
        raise _refused(source.name, f"{MANIFEST} 太大", f"its {MANIFEST} is too large")
    with source.reading(), source.open(place) as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    try:
        manifest = _manifest(source.name, data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(
            source.name, f"{MANIFEST} 读不懂（{error!r}）", f"its {MANIFEST} makes no sense ({error!r})"
        ) from error
    members = {path.removeprefix(f"{top}/"): path for path in files if path != place}
    _check_members(source.name, manifest, {inside: files[path] for inside, path in members.items()})
    return manifest, members


def _manifest(name: str, data: bytes) -> Manifest:
    value = json.loads(data.decode("utf-8"))
    if value["format"] != FORMAT:
        made = str(value.get("onecard", ""))[:40]
        raise _refused(
            name,
            f"格式 {str(value['format'])[:40]!r} 是别的版本（OneCard {made}）写的。请升级 OneCard",
            f"its format {str(value['format'])[:40]!r} is another version's (OneCard {made}). Update OneCard",
        )
    run, title = value["run"], value["title"]
    typed.check(title, str, "title")
    if not isinstance(run, str) or not bundle.ID.fullmatch(run) or storage.slug(run[:60]) == f"{run.lower()}-1":
        raise ValueError(f"run: {str(run)[:80]!r}")
    facts = {}
    for path, fact in value["files"].items():
        typed.check(fact["bytes"], int, path)
        typed.check(fact["sha256"], str, path)
        facts[path] = Fact(fact["bytes"], fact["sha256"], str(fact.get("same_as", "")))
    return Manifest(run, title[:_MOST_TITLE], facts)


def _check_members(name: str, manifest: Manifest, there: Mapping[str, int]) -> None:
    """Raise DatasetError unless the archive holds exactly what the manifest lists, and nothing that is no file of ours."""
    for path, fact in manifest.files.items():
        if not bundle.ALLOWED.fullmatch(path):
            raise _refused(name, f"{path[:120]!r} 不属于训练记录", f"{path[:120]!r} is no file of a run")
        most = intake.MAX_WEIGHTS_BYTES if path.endswith(".safetensors") else MAX_TEXT_BYTES
        if not 0 <= fact.nbytes <= most:
            raise _refused(name, f"{path} 有 {fact.nbytes:,} 字节", f"{path} has {fact.nbytes:,} bytes")
        twin = manifest.files.get(fact.same_as)
        if fact.same_as and (twin is None or twin.same_as or (twin.nbytes, twin.sha256) != (fact.nbytes, fact.sha256)):
            raise _refused(name, f"{path} 指向别的内容", f"{path} points at something else")
    wanted = {path: fact.nbytes for path, fact in manifest.files.items() if not fact.same_as}
    missing, foreign = sorted(wanted.keys() - there.keys()), sorted(there.keys() - wanted.keys())
    if foreign:
        raise _refused(
            name, f"{foreign[0][:120]!r} 不在 {MANIFEST} 里", f"{foreign[0][:120]!r} is not in its {MANIFEST}"
        )
    if missing:
        raise _refused(name, f"缺少 {missing[0][:120]}", f"it lacks {missing[0][:120]}")
    wrong = next((path for path, size in wanted.items() if there[path] != size), None)
    if wrong is not None:
        raise _damaged(name, wrong)


def _unpack(source: ZipSource, manifest: Manifest, members: Mapping[str, str], staged: Path, told: Told) -> None:
    """Every file of the run into the staged folder, held against its digest as it is written."""
    total = sum(fact.nbytes for path, fact in manifest.files.items() if path != README and not fact.same_as)
    done = 0
    for path, fact in manifest.files.items():
        if path == README or fact.same_as:
            continue
        target = staged.joinpath(*PurePosixPath(path).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, left = hashlib.sha256(), fact.nbytes
        with target.open("wb") as out:
            for piece in intake.pieces(source, members[path], fact.nbytes):
                out.write(piece)
                digest.update(piece)
                left -= len(piece)
                done += len(piece)
                told(min(done, total), total)
        if left or digest.hexdigest() != fact.sha256:
            raise _damaged(source.name, path)
    for path, fact in manifest.files.items():
        if fact.same_as:
            target = staged.joinpath(*PurePosixPath(path).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                os.link(staged / fact.same_as, target)
            if not target.exists():  # a file system without links
                shutil.copyfile(staged / fact.same_as, target)


# -- what the files say --


def check(folder: Path, name: str) -> None:
    """Raise DatasetError or ModelError unless every file of a run's folder is what the views and the engine expect."""
    run = Run.open(folder)
    mix.check_frozen(folder)
    if not run.rows:
        raise _refused(name, "里面没有数据行", "it holds no rows")
    _ = run.evaluation_rows
    for path in sorted(folder.rglob("*.json")):
        _finite(path, name)
    try:
        typed.check(run.created, float, "created")
        run_events.check(run.events)
    except (ValueError, KeyError) as error:
        raise _refused(name, f"events.jsonl 的事件 {error}", f"event {error} in events.jsonl") from error
    if len(run.title) > _MOST_TITLE or len(run.note) > _MOST_NOTE:
        raise _refused(name, "名字或备注太长", "its name or note is too long")
    for path in sorted(folder.rglob(proofs.FILE)):
        _check_proof(path, name)
    for config in sorted(folder.rglob(adapters.CONFIG)):
        anatomy.examine(config.parent)
        anatomy.check_finite(config.parent / adapters.WEIGHTS)
        adapters.settings(adapters.read(config.parent))
    for weights in sorted(folder.rglob(adapters.WEIGHTS)):
        if not (weights.parent / adapters.CONFIG).is_file():
            raise _refused(
                name, f"{weights.parent.name} 缺少 {adapters.CONFIG}", f"{weights.parent.name} lacks {adapters.CONFIG}"
            )


def _finite(path: Path, name: str) -> None:
    """JSON of ours is UTF-8 without NaN or infinity."""

    def refuse(word: str) -> object:
        raise ValueError(word)

    try:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _refused(
            name, f"{path.name} 不是有效的 JSON（{error}）", f"{path.name} is not valid JSON ({error})"
        ) from error


def _check_proof(path: Path, name: str) -> None:
    try:
        typed.check(proof.from_json(storage.read_json(path)), Proof, "proof")
    except (ValueError, TypeError) as error:
        raise _refused(name, f"{path.name} 读不懂（{error}）", f"{path.name} makes no sense ({error})") from error


# -- what is here already --


def _check_same(folder: Path, manifest: Manifest) -> None:
    """Raise DatasetError, naming files, unless the run that is here holds every file just as it came."""
    other = []
    for path, fact in manifest.files.items():
        here = folder.joinpath(*PurePosixPath(path).parts)
        same = here.is_file() and here.stat().st_size == fact.nbytes and bundle.digest_of(here) == fact.sha256
        if not same and path != README:
            other.append(path)
    if other:
        named = ", ".join(other[:_MOST_NAMED]) + (" …" if len(other) > _MOST_NAMED else "")
        raise DatasetError(
            Text(
                f"已经有 ID 为 {manifest.run} 的训练，但内容不同（{named}），所以什么都没有动。"
                "要用文件里的这一份，请先删除或备份本机的那一份。",
                f"There is a run {manifest.run} already, and it is not the same ({named}), so nothing was changed. To have "
                "the file's, pack or delete the one that is here first.",
            )
        )


def _check_room(runs: Path, manifest: Manifest) -> None:
    if shutil.disk_usage(runs).free < sum(fact.nbytes for fact in manifest.files.values()):
        raise StorageError(storage.disk_full(runs))


@contextlib.contextmanager
def _naming(staged: Path, name: str) -> Iterator[None]:
    """Let an error name what the person brought, not the folder that it is checked in."""
    try:
        yield
    except UserError as error:
        zh, en = (
            text.replace(f"{staged}/", "").replace(str(staged), name).replace(staged.name, name)
            for text in (error.text.zh, error.text.en)
        )
        raise (ModelError if isinstance(error, ModelError) else DatasetError)(Text(zh, en)) from error


def _sweep(runs: Path) -> None:
    """Remove what was left by a program that was killed while it brought a run; another's may be under way."""
    for leftover in runs.glob(".bundle-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _damaged(name: str, path: str) -> DatasetError:
    return _refused(
        name,
        f"{path[:120]} 和 {MANIFEST} 里的 SHA-256 不符，文件损坏或被改过。请重新复制或下载",
        f"{path[:120]} is not what its {MANIFEST} lists by SHA-256: damaged or changed. Copy or download it again",
    )


def _refused(name: str, zh: str, en: str) -> DatasetError:
    return DatasetError(Text(f"没有打开 {name[:120]}：{zh}。", f"{name[:120]} was not opened: {en}."))

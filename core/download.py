"""A model from a hub to this disk: resumable, checked against the hub's digests, whole or absent.

Files grow under another name and are verified; only when all are there do they get their names, config.json last, so
that nobody takes a half model for one. They lie where the hub's own library keeps them, which resumes and finds them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from core import hub, models, storage
from core.errors import BusyError, ModelError, StorageError
from core.hub import Offer, RemoteFile
from core.models import Progress
from core.text import Text
from core.waiting import Quiet, waited

if TYPE_CHECKING:
    from hashlib import _Hash

    import httpx

_CONNECTIONS = 4
_CHUNK_BYTES = 2**20
_ATTEMPTS = 6  # in a row without a new byte
_SPARE_BYTES = 200_000_000  # left free on the disk


@contextlib.contextmanager
def connection(stop: threading.Event | None = None, quiet: Quiet | None = None) -> Iterator[httpx.Client]:
    """A client for a hub; proxies come from the environment. A silent server is given up after 15 seconds.

    No request waits on for an answer once `stop` is set: it raises Stopped. `quiet` hears of answers that are late.
    """
    import httpx

    class Patient(httpx.Client):
        def send(self, request: httpx.Request, **rest: Any) -> httpx.Response:
            return waited(lambda: httpx.Client.send(self, request, **rest), stop, quiet)

    with Patient(timeout=httpx.Timeout(15.0, pool=None), follow_redirects=True) as client:
        yield client


def missing_bytes(offer: Offer) -> int:
    """What of the offer is not on this disk yet."""
    place = _Place(offer)
    return offer.nbytes - place.done()


def check_space(offer: Offer) -> None:
    """Raise StorageError if the disk has no room for what is missing."""
    needed, folder = missing_bytes(offer), hub.folder_of(offer)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise StorageError(
            Text(
                zh=f"下载 {offer.name} 还需要 {needed / 1e9:.2f} GB，{folder} 所在的磁盘只剩 {free / 1e9:.2f} GB。"
                "请清理磁盘，或用环境变量 HF_HOME（MODELSCOPE_CACHE）换一个位置。",
                en=f"{offer.name} needs {needed / 1e9:.2f} GB more and the disk of {folder} has {free / 1e9:.2f} GB "
                "free. Make room, or choose another place with HF_HOME (MODELSCOPE_CACHE).",
            )
        )


def download(
    client: httpx.Client,
    offer: Offer,
    stop: threading.Event,
    progress: Progress,
    pause: Callable[[int], float] | None = None,
) -> Path | None:
    """Fetch what is missing of an offer; the model's folder, or None if `stop` was set (what came is kept).

    `pause(n)` is how many seconds to wait before the n-th attempt in a row. Raises StorageError (before the start, if
    the disk is too small), ModelError (no answer, refused, not what the hub says it is) or BusyError.
    """
    place = _Place(offer)
    with place.locked():
        check_space(offer)
        count = _Count(offer, place.done(), progress)
        ending = threading.Event()

        def fetch(file: RemoteFile) -> None:
            try:
                _Fetch(
                    client, offer, file, place, count, lambda: stop.is_set() or ending.is_set(), pause or _pause
                ).run()
            except BaseException:
                ending.set()
                raise

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            once = {place.whole(file): file for file in offer.files}.values()  # two names may have one content
            tasks = [pool.submit(fetch, file) for file in sorted(once, key=lambda file: -file.nbytes)]
        failures = [error for task in tasks if (error := task.exception()) is not None]
        if failures:
            raise failures[0]
        if stop.is_set():
            return None
        place.finish()
    progress(offer.name, offer.nbytes, offer.nbytes)
    models.look_again()
    return place.folder


class _Place:
    """Where an offer's files lie while they grow, and in the end."""

    def __init__(self, offer: Offer) -> None:
        self.offer, self.folder = offer, hub.folder_of(offer)
        self._cache = offer.hub.name == "hf"
        self._store = (
            self.folder.parent.parent / "blobs" if self._cache else self.folder.parent / f".{self.folder.name}.parts"
        )

    def whole(self, file: RemoteFile) -> Path:
        """The file when it is verified, before it has its name."""
        if self._cache and file.digest:
            return self._store / file.digest
        # Another revision's file of this name is another file, and must not be taken for it.
        return self._store / f"{file.name}.{file.digest or self.offer.revision}.whole"

    def part(self, file: RemoteFile) -> Path:
        """The file while it grows."""
        whole = self.whole(file)
        return whole.with_name(f"{whole.name}.incomplete")

    def have(self, file: RemoteFile) -> int:
        """Bytes of the file that are on this disk."""
        if not self.knows(file):
            return 0
        whole, part = self.whole(file), self.part(file)
        if self._named(file) or (whole.is_file() and whole.stat().st_size == file.nbytes):
            return file.nbytes
        size = part.stat().st_size if part.is_file() else 0
        return size if size <= file.nbytes else 0

    def knows(self, file: RemoteFile) -> bool:
        """Whether what is here can be told from another revision's file of the same name and size."""
        return self._cache or file.digest is not None

    def _named(self, file: RemoteFile) -> bool:
        """Whether the file lies under its own name already. ModelScope's folder serves every revision: the digest says."""
        path = self.folder / file.name
        if not path.is_file() or path.stat().st_size != file.nbytes:
            return False
        return self._cache or _has_digest(path, file, path.stat().st_mtime_ns)

    def done(self) -> int:
        """Bytes of the offer that are on this disk."""
        return sum(self.have(file) for file in self.offer.files)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the same download. Raises BusyError."""
        with _disk(self._store):
            self._store.mkdir(parents=True, exist_ok=True)
            lock = storage.lock_file(
                self._store.parent / (".onecard.lock" if self._cache else f".{self.folder.name}.onecard.lock")
            )
        if lock is None:
            name = self.offer.name
            raise BusyError(Text(zh=f"另一个程序正在下载 {name}。", en=f"Another program is downloading {name}."))
        try:
            yield
        finally:
            lock.close()  # The file stays: one who has it open already could lock what the next no longer sees.

    def finish(self) -> None:
        """Give the verified files their names; in ModelScope's folder another revision's make room first."""
        with _disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._cache:
                self._clear_old()
            for file in sorted(self.offer.files, key=lambda file: file.name == "config.json"):
                target, source = self.folder / file.name, self.whole(file)
                if not source.is_file():
                    continue  # it had its name already
                target.unlink(missing_ok=True)
                if self._cache:
                    _link(source, target)
                else:
                    os.replace(source, target)
            storage.sync_folder(self.folder)
            if self._cache:
                storage.write_text(self._store.parent / "refs" / "main", self.offer.revision)
            else:
                shutil.rmtree(self._store)

    def _clear_old(self) -> None:
        """Remove what only another revision has, config.json before all: half an update must not look like a model."""
        files = {file.name: file for file in self.offer.files}
        config, here = files["config.json"], self.folder / "config.json"
        if here.is_file() and not self.whole(config).is_file():
            os.replace(here, self.whole(config))
        here.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in files and hub.is_wanted(path.name):
                path.unlink()


class _Fetch:
    """One file's way here."""

    def __init__(
        self,
        client: httpx.Client,
        offer: Offer,
        file: RemoteFile,
        place: _Place,
        count: _Count,
        stopped: Callable[[], bool],
        pause: Callable[[int], float],
    ) -> None:
        self._client, self._offer, self._file, self._place = client, offer, file, place
        self._count, self._stopped, self._pause = count, stopped, pause

    def run(self) -> None:
        """Fetch, verify, and put it among the whole ones; return early when stopped."""
        whole, part = self._place.whole(self._file), self._place.part(self._file)
        if not part.is_file() and self._place.have(self._file) == self._file.nbytes:
            return
        with _disk(part), part.open("a+b") as out:
            digest = self._resume(out)
            if not self._receive(out, digest):
                return
            out.flush()
            os.fsync(out.fileno())
            if digest is not None and digest.hexdigest() != self._file.digest:
                part.unlink()
                raise self._damaged()
            os.replace(part, whole)

    def _resume(self, out: IO[bytes]) -> _Hash | None:
        """The running digest of what is there already; `out` then stands at its end."""
        if out.seek(0, os.SEEK_END) > self._file.nbytes or not self._place.knows(self._file):
            out.truncate(0)
        digest = _digest(self._file)
        out.seek(0)
        while digest is not None and (piece := out.read(_CHUNK_BYTES)):
            digest.update(piece)
        out.seek(0, os.SEEK_END)
        return digest

    def _receive(self, out: IO[bytes], digest: _Hash | None) -> bool:
        """Append what is missing, trying again where the line breaks; False when stopped."""
        import httpx

        attempt = 0
        while out.tell() < self._file.nbytes:
            if self._stopped():
                return False
            before = out.tell()
            problem: ModelError
            try:
                answer = self._stream(out, digest)
                if answer is None and out.tell() > before:
                    attempt = 0
                    continue
                problem = self._empty() if answer is None else hub.refused(answer, self._offer.name, self._offer.hub)
                if answer is not None and answer.status_code not in (416, 429) and answer.status_code < 500:
                    raise problem
            except httpx.RequestError as error:
                problem = hub.unreachable(self._offer.hub, error)
            attempt = 1 if out.tell() > before else attempt + 1
            if attempt >= _ATTEMPTS:
                raise problem
            self._wait(self._pause(attempt))
        return True

    def _stream(self, out: IO[bytes], digest: _Hash | None) -> httpx.Response | None:
        """One request's worth; the answer if it was no success."""
        start = out.tell()
        asked = hub.headers(self._offer.hub) | ({"Range": f"bytes={start}-"} if start else {})
        with self._client.stream("GET", self._file.url, headers=asked) as answer:
            if answer.status_code not in (200, 206):
                return answer
            if start and answer.status_code == 200:
                raise self._restart(out)
            for piece in answer.iter_bytes():
                if out.tell() + len(piece) > self._file.nbytes:
                    self._place.part(self._file).unlink()
                    raise self._damaged()
                out.write(piece)
                if digest is not None:
                    digest.update(piece)
                self._count.add(len(piece))
                if self._stopped():
                    break
        out.flush()
        return None

    def _empty(self) -> ModelError:
        label, name = self._offer.hub.label, self._file.name
        return ModelError(
            Text(
                zh=f"{label.zh} 对 {name} 的回答里没有内容。已下载的部分保留着；请稍后再试，或换一个来源或镜像。",
                en=f"{label.en} answers with nothing where {name} should be. What came is kept; try again later, or choose "
                "another hub or mirror.",
            )
        )

    def _restart(self, out: IO[bytes]) -> ModelError:
        self._place.part(self._file).unlink()
        label, name = self._offer.hub.label, self._file.name
        return ModelError(
            Text(
                zh=f"{label.zh} 不支持续传 {name}，已下载的部分已删除。请再按一次下载。",
                en=f"{label.en} cannot resume {name}; the part that was here is deleted. Press Download again.",
            )
        )

    def _wait(self, seconds: float) -> None:
        pause = threading.Event()
        for _ in range(max(1, round(seconds * 10))):
            if self._stopped():
                return
            pause.wait(min(seconds, 0.1))

    def _damaged(self) -> ModelError:
        label, name = self._offer.hub.label, self._file.name
        return ModelError(
            Text(
                zh=f"{name} 下载后与 {label.zh} 公布的校验值不符，已删除。请再按一次下载；若仍如此，换一个镜像。",
                en=f"{name} does not match the checksum {label.en} gives for it, and was deleted. Press Download again; if "
                "it stays so, use another mirror.",
            )
        )


class _Count:
    """Bytes of the whole offer that are here, told to `progress`."""

    def __init__(self, offer: Offer, done: int, progress: Progress) -> None:
        self._offer, self._done, self._progress, self._guard = offer, done, progress, threading.Lock()
        progress(offer.name, done, offer.nbytes)

    def add(self, nbytes: int) -> None:
        with self._guard:
            self._done += nbytes
            self._progress(self._offer.name, self._done, self._offer.nbytes)


def _digest(file: RemoteFile) -> _Hash | None:
    if file.digest is None:
        return None
    if len(file.digest) == 64:
        return hashlib.sha256()
    # A git blob's name; no protection against malice, as git's own is none.
    return hashlib.sha1(f"blob {file.nbytes}\0".encode(), usedforsecurity=False)


@functools.lru_cache(maxsize=1024)
def _has_digest(path: Path, file: RemoteFile, modified: int) -> bool:
    """Whether the file at `path`, as it was at the time `modified`, is what the hub has. Reads all of it, once."""
    digest = _digest(file)
    with _disk(path), path.open("rb") as content:
        while digest is not None and (piece := content.read(_CHUNK_BYTES)):
            digest.update(piece)
    return digest is not None and digest.hexdigest() == file.digest


def _link(source: Path, target: Path) -> None:
    """A relative link, as Hugging Face's cache has them; a hard link or a copy where the disk has none."""
    with contextlib.suppress(OSError):
        target.symlink_to(os.path.relpath(source, target.parent))
        return
    with contextlib.suppress(OSError):
        target.hardlink_to(source)
        return
    shutil.copyfile(source, target)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn a disk that fills up or may not be written to into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageError(storage.disk_full(path)) from error
        raise StorageError(
            Text(
                zh=f"写入 {path.parent} 失败：{error.strerror}。请检查权限，或用 HF_HOME（MODELSCOPE_CACHE）换一个位置。",
                en=f"Writing to {path.parent} failed: {error.strerror}. Check its permissions, or choose another place with "
                "HF_HOME (MODELSCOPE_CACHE).",
            )
        ) from error


def _pause(attempt: int) -> float:
    return float(min(30, 2**attempt))

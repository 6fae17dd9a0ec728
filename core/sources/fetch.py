"""One file of a set to this disk: resumed where it broke off, checked against the hub's digest, ended early if enough."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from core import hub as hubs
from core.errors import ModelError
from core.hub import Hub, RemoteFile
from core.text import Text

if TYPE_CHECKING:
    import httpx

_ATTEMPTS = 5  # in a row without a new byte


@dataclass(frozen=True)
class Enough:
    """When a file need not be read to its end: after so many bytes, or line ends (0: only by bytes)."""

    nbytes: int
    lines: int = 0


def fetch(
    client: httpx.Client,
    hub: Hub,
    file: RemoteFile,
    part: Path,
    enough: Enough,
    stop: threading.Event,
    told: Callable[[int], None],
    pause: Callable[[int], float] | None = None,
) -> bool | None:
    """Grow `part` until it is the whole file (True), or there is enough of it (False); None if `stop` was set.

    `told` hears of new bytes; `pause(n)` is how many seconds to wait before the n-th attempt in a row. Raises
    ModelError: no answer, refused, or not what the hub says it is.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("a+b") as out:
        if out.seek(0, os.SEEK_END) > file.nbytes:
            out.truncate(0)
        lines, attempt = _line_ends(part), 0
        told(out.tell())
        while (size := out.seek(0, os.SEEK_END)) < file.nbytes:
            if size >= enough.nbytes or (enough.lines and lines >= enough.lines):
                return False
            if stop.is_set():
                return None
            problem, new_lines = _receive(client, hub, file, out, enough, lines, stop, told)
            lines += new_lines
            attempt = 0 if out.tell() > size else attempt + 1
            if problem is not None and attempt >= _ATTEMPTS:
                raise problem
            if problem is not None:
                stop.wait((pause or _pause)(attempt))
    if not _is_right(part, file):
        part.unlink()
        raise _damaged(file, hub)
    return True


def _receive(
    client: httpx.Client,
    hub: Hub,
    file: RemoteFile,
    out: IO[bytes],
    enough: Enough,
    lines: int,
    stop: threading.Event,
    told: Callable[[int], None],
) -> tuple[ModelError | None, int]:
    """One request's worth: what went wrong, if it is worth another attempt, and how many line ends came."""
    import httpx

    start, came = out.tell(), 0
    asked = hubs.headers(hub) | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with client.stream("GET", file.url, headers=asked) as answer:
            if answer.status_code not in (200, 206):
                problem = hubs.refused(answer, file.name, hub)
                if answer.status_code not in (416, 429) and answer.status_code < 500:
                    raise problem
                return problem, 0
            if start and answer.status_code == 200:  # it cannot resume: from the beginning again
                out.truncate(0)
                out.seek(0)
                came = -lines
            for piece in answer.iter_bytes():
                if out.tell() + len(piece) > file.nbytes:
                    out.truncate(0)
                    raise _damaged(file, hub)
                out.write(piece)
                came += piece.count(b"\n")
                told(len(piece))
                if stop.is_set() or out.tell() >= enough.nbytes or (enough.lines and lines + came >= enough.lines):
                    break
    except httpx.RequestError as error:
        out.flush()
        return hubs.unreachable(hub, error), came
    out.flush()
    return (None if out.tell() > start else _empty(file, hub)), came


def _line_ends(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(2**20), b""))


def _is_right(path: Path, file: RemoteFile) -> bool:
    if file.digest is None:
        return True
    # Sixty-four digits are a sha256; forty a git blob's name, no protection against malice, as git's own is none.
    blob = b"" if len(file.digest) == 64 else f"blob {file.nbytes}\0".encode()
    digest = hashlib.sha256() if not blob else hashlib.sha1(blob, usedforsecurity=False)
    with path.open("rb") as content:
        for piece in iter(lambda: content.read(2**20), b""):
            digest.update(piece)
    return digest.hexdigest() == file.digest


def _damaged(file: RemoteFile, hub: Hub) -> ModelError:
    return ModelError(
        Text(
            zh=f"{file.name} 下载后与 {hub.label.zh} 公布的大小或校验值不符，已删除。请再下载一次；若仍如此，换一个镜像。",
            en=f"{file.name} is not what {hub.label.en} says it is (size or checksum) and was deleted. Download again; if "
            "it stays so, use another mirror.",
        )
    )


def _empty(file: RemoteFile, hub: Hub) -> ModelError:
    return ModelError(
        Text(
            zh=f"{hub.label.zh} 对 {file.name} 的回答里没有内容。已下载的部分保留着；请稍后再试，或换一个来源或镜像。",
            en=f"{hub.label.en} answers with nothing where {file.name} should be. What came is kept; try again later, or "
            "choose another hub or mirror.",
        )
    )


def _pause(attempt: int) -> float:
    return float(min(30, 2**attempt))

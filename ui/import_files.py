"""Data files on their way from a page: pieces in, whole files out. Nothing of them is read here.

A piece is small, so that a file may be larger than the body of any request. Files live in unnamed temporary files: no
path is ever made of what a page sent, and nothing is left when the program ends.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from core.errors import DatasetError
from core.formats import MAX_BYTES
from core.text import Language, Text

if TYPE_CHECKING:
    from fastapi import FastAPI

_TOKEN = re.compile(r"[0-9a-f]{32}")
MOST_FILES = 64
_FORGOTTEN_SECONDS = 600.0


def add(app: FastAPI, arrivals: Arrivals) -> None:
    """Add the route: PUT /import/file/TOKEN, and DELETE for a file that is not wanted any more."""
    app.add_route("/import/file/{token}", arrivals.answer, methods=["PUT", "DELETE"])


@dataclass
class _Arrival:
    name: str
    size: int
    file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    received: int = 0
    seen: float = 0.0


class Arrivals:
    """The files that pages are sending, by a token that each page draws at random."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, _Arrival] = {}

    async def answer(self, request: Request) -> Response:
        """A piece of a file (headers x-name, x-offset, x-size): {received}, or {error} in the language of the page."""
        language: Language = "en" if request.query_params.get("language") == "en" else "zh"
        token = request.path_params["token"]
        if request.method == "DELETE":
            self.drop([token])
            return Response(status_code=204)
        try:
            offset, size = int(request.headers.get("x-offset", "0")), int(request.headers.get("x-size", "0"))
        except ValueError:
            return JSONResponse({"error": "x-offset, x-size"}, 400)
        if not _TOKEN.fullmatch(token) or offset < 0 or size < 0:
            return JSONResponse({"error": "token"}, 400)
        try:
            name = unquote(request.headers.get("x-name", ""))
            received = self.put(token, name, size, offset, await request.body())
        except ClientDisconnect:
            return Response(status_code=400)
        except DatasetError as error:
            return JSONResponse({"error": error.of(language)})  # a status would be one more line in the browser's log
        return JSONResponse({"received": received})

    def put(self, token: str, name: str, size: int, offset: int, data: bytes) -> int:
        """Add a piece; how many bytes there are now. Raises DatasetError for too large a file, or one too many.

        Where there is no room, the file that broke off longest ago makes it.
        """
        if size > MAX_BYTES:
            most = MAX_BYTES // 1_000_000
            raise DatasetError(
                Text(
                    f"“{name}”有 {size // 1_000_000} MB，最多 {most} MB。请拆开或抽取一部分再导入。",
                    f"“{name}” has {size // 1_000_000} MB; the limit is {most} MB. Split it or draw a part of it.",
                )
            )
        with self._lock:
            self._forget()
            if token not in self._files:
                if len(self._files) >= MOST_FILES:
                    self._make_room()
                self._files[token] = _Arrival(name, size)
            arrival = self._files[token]
            arrival.seen = time.monotonic()
            # A piece that is said again, because its answer was lost, is there already.
            if offset == arrival.received and offset + len(data) <= arrival.size:
                arrival.file.write(data)
                arrival.received += len(data)
            return arrival.received

    def take(self, token: str) -> tuple[str, bytes]:
        """Name and content of a file that has arrived; it is forgotten here. Raises DatasetError where it has not."""
        with self._lock:
            arrival = self._files.pop(token, None)
        if arrival is not None:
            with arrival.file:
                if arrival.received == arrival.size:
                    arrival.file.seek(0)
                    return arrival.name, arrival.file.read()
        raise DatasetError(
            Text(
                "文件没有完整传到，什么都没有导入。请再选一次。",
                "The file did not arrive whole; nothing was imported. Choose it again.",
            )
        )

    def drop(self, tokens: Iterable[str]) -> None:
        """Forget files that are not wanted any more, whole or not; one that is unknown is none."""
        with self._lock:
            for token in tokens:
                if arrival := self._files.pop(token, None):
                    arrival.file.close()

    def _make_room(self) -> None:
        unfinished = [token for token, arrival in self._files.items() if arrival.received < arrival.size]
        if not unfinished:
            raise DatasetError(
                Text(
                    f"一次最多导入 {MOST_FILES} 个文件。请分几次导入，或者打包成 zip。",
                    f"At most {MOST_FILES} files at once. Import them in parts, or as a zip.",
                )
            )
        self._files.pop(min(unfinished, key=lambda token: self._files[token].seen)).file.close()

    def _forget(self) -> None:
        old = time.monotonic() - _FORGOTTEN_SECONDS
        for token in [token for token, arrival in self._files.items() if arrival.seen < old]:
            self._files.pop(token).file.close()

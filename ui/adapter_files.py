"""Adapters as zip files over HTTP: out as one download, in piece by piece, since no request may be that large.

A piece says where it belongs, so that one that was lost is sent again; the last one has the archive unpacked.
"""

from __future__ import annotations

import asyncio
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import anyio
from anyio import to_thread
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from core import adapters, storage
from core.errors import ModelError, UserError
from core.text import Language, Text
from core.workspace import AdapterChoice, Workspace
from ui.pieces import show_bytes

if TYPE_CHECKING:
    from fastapi import FastAPI

MAX_ZIP_BYTES = 4_000_000_000
_EXPORTED = (adapters.CONFIG, adapters.WEIGHTS, adapters.CARD, "README.md")
_AT_ONCE = 4
_FORGOTTEN_SECONDS = 3600.0
_TOKEN = re.compile(r"[0-9a-f]{32}")
_UNPACK = Text("请解压后填文件夹路径导入。", "Unpack it and import the folder by its path.")


def add(app: FastAPI, workspace: Workspace) -> None:
    """Add the routes: GET /export/adapter/ID.zip, PUT and DELETE /import/adapter/TOKEN."""
    folder = workspace.library.folder

    def bring(archive: Path, name: str) -> dict[str, object]:
        choice = workspace.library.bring_zip(archive, name)
        return {"id": choice.id, "name": choice.name}

    uploads = Uploads(folder, bring, _UNPACK)
    zipping = anyio.CapacityLimiter(1)  # each takes as much disk as its adapter

    async def export(request: Request) -> Response:
        # Only what the library lists; no path is ever made of what was asked for.
        choice = await run_in_threadpool(workspace.library.find, request.path_params["name"])
        if choice is None or choice.folder is None:
            return Response("Not found.", 404)
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(choice.name)}.zip"}
        if request.method == "HEAD":
            answer = Response(headers=headers, media_type="application/zip")
            del answer.headers["content-length"]
            return answer
        archive = storage.under_way(folder / "download~")
        try:
            await to_thread.run_sync(_zip, choice, choice.folder, archive, limiter=zipping)
        except OSError as error:
            archive.unlink(missing_ok=True)
            said = storage.not_written(archive, str(error))
            return Response(f"{said.zh}\n{said.en}", 507, media_type="text/plain")
        remove = BackgroundTask(archive.unlink, missing_ok=True)
        return FileResponse(archive, headers=headers, media_type="application/zip", background=remove)

    app.add_route("/export/adapter/{name}.zip", export)
    app.add_route("/import/adapter/{token}", uploads.answer, methods=["PUT", "DELETE"])


def _zip(choice: AdapterChoice, folder: Path, target: Path) -> None:
    """The adapter as a zip; stored, for weights do not shrink. A checkpoint's optimizer stays here."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in (folder / name for name in _EXPORTED):
            if path.is_file() and not path.is_symlink():
                archive.write(path, f"{choice.name}/{path.name}")


@dataclass
class _Upload:
    """An archive on its way in: receiving, being brought in, or done (`outcome`: at least its id and name, or why not)."""

    path: Path
    seen: float
    outcome: Mapping[str, object] | UserError | None = None
    # Held over writing and bringing: whatever else is asked of this token waits, then finds what became of it.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Uploads:
    """The archives on their way in, each a hidden file in `folder` and known by the token of its page.

    `bring` takes the file and its name and brings in what it holds: {id, name, ...}. `otherwise`: what to do with a file
    that is too large for this way. Belongs to one event loop: only its thread calls `answer`.
    """

    def __init__(self, folder: Path, bring: Callable[[Path, str], Mapping[str, object]], otherwise: Text) -> None:
        self._folder, self._bring, self._otherwise = folder, bring, otherwise
        self._uploads: dict[str, _Upload] = {}

    async def answer(self, request: Request) -> Response:
        """A piece of an archive (headers x-name, x-offset, x-size), or its end before its time (DELETE).

        Answers {received}, at the end {id, name}; {error} with the sentence in the language of the page. An end that
        comes when the adapter is in already answers {error, id, name}.
        """
        language: Language = "en" if request.query_params.get("language") == "en" else "zh"
        token = request.path_params["token"]
        try:
            offset, size = int(request.headers.get("x-offset", "0")), int(request.headers.get("x-size", "0"))
        except ValueError:
            return JSONResponse({"error": "x-offset, x-size"}, 400)
        if not _TOKEN.fullmatch(token):
            return JSONResponse({"error": "token"}, 400)
        if request.method == "DELETE":
            return JSONResponse(await self._end(token, language))
        try:
            upload = await self._admit(token, size)
            # Whole before anything is written: a piece that stalls on its way keeps no other waiting.
            data = await request.body()
            name = unquote(request.headers.get("x-name", ""))
            # A task of its own: a client that goes away ends its request, not what is being written or brought in.
            answer = await asyncio.shield(asyncio.create_task(self._take(token, upload, data, offset, size, name)))
        except ClientDisconnect:
            return Response(status_code=400)
        except UserError as error:
            return JSONResponse({"error": error.of(language)})  # a status would be one more line in the browser's log
        return JSONResponse(answer)

    async def _admit(self, token: str, size: int) -> _Upload:
        """Let a piece in. Raises ModelError for an archive that is too large, or one too many."""
        if size > MAX_ZIP_BYTES:
            most = show_bytes(MAX_ZIP_BYTES)
            raise ModelError(
                Text(
                    zh=f"这个 zip 有 {show_bytes(size)}，最多 {most}。{self._otherwise.zh}",
                    en=f"This zip takes {show_bytes(size)}; the limit is {most}. {self._otherwise.en}",
                )
            )
        now = time.monotonic()
        for other, upload in list(self._uploads.items()):
            if now - upload.seen > _FORGOTTEN_SECONDS and not upload.turn.locked():
                async with upload.turn:
                    await self._forget(other, upload)
        if token not in self._uploads:
            if sum(upload.outcome is None for upload in self._uploads.values()) >= _AT_ONCE:
                raise ModelError(
                    Text(zh="同时上传的太多，请等前面的传完。", en="Too many uploads at once; wait for one to end.")
                )
            self._uploads[token] = _Upload(storage.under_way(self._folder / "upload~"), now)
        self._uploads[token].seen = now
        return self._uploads[token]

    async def _take(
        self, token: str, upload: _Upload, data: bytes, offset: int, size: int, name: str
    ) -> dict[str, object]:
        """Write a piece, and have the archive unpacked if it was the last. Raises UserError, the same each time."""
        async with upload.turn:
            if self._uploads.get(token) is not upload:  # ended meanwhile
                return {"received": 0}
            if upload.outcome is None:
                try:
                    received = await run_in_threadpool(_append, upload.path, data, offset, size)
                    if received < size:
                        return {"received": received}
                    upload.outcome = await run_in_threadpool(self._bring, upload.path, name)
                except UserError as error:
                    upload.outcome = error
                finally:
                    if upload.outcome is not None:
                        await run_in_threadpool(upload.path.unlink, missing_ok=True)
                        upload.seen = time.monotonic()
            if isinstance(upload.outcome, UserError):
                raise upload.outcome
            return dict(upload.outcome)

    async def _end(self, token: str, language: Language) -> dict[str, object]:
        """Forget an upload; one that is being brought in has its end awaited."""
        upload = self._uploads.get(token)
        if upload is None:
            return {"received": 0}
        async with upload.turn:
            if not isinstance(upload.outcome, Mapping):
                await self._forget(token, upload)
                return {"received": 0}
            found = upload.outcome
        name = found["name"]
        late = Text(zh=f"取消得太晚：已经导入为“{name}”。", en=f"Too late: it has been imported as “{name}”.")
        return {**found, "error": late.of(language)}

    async def _forget(self, token: str, upload: _Upload) -> None:
        """In its turn only."""
        if self._uploads.get(token) is upload:
            await run_in_threadpool(upload.path.unlink, missing_ok=True)
            del self._uploads[token]


def _append(path: Path, data: bytes, offset: int, size: int) -> int:
    """Write a piece where it belongs; how much there is then. One that does not follow on is left out."""
    held = path.stat().st_size if offset and path.exists() else 0
    if offset != held:
        return held
    if held + len(data) > size:
        raise ModelError(Text(zh="收到的比声明的多。", en="More arrived than was announced."))
    try:
        with path.open("ab" if offset else "wb") as file:
            file.write(data)
    except OSError as error:
        raise ModelError(storage.not_written(path, str(error))) from error
    return held + len(data)

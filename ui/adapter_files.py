"""Adapters as zip files over HTTP: out as one download, in piece by piece, since no request may be that large.

A piece says where it belongs, so that one that was lost is sent again; the last one has the archive unpacked.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

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


def add(app: FastAPI, workspace: Workspace) -> None:
    """Add the routes: GET /export/adapter/ID.zip, PUT and DELETE /import/adapter/TOKEN."""
    uploads = Uploads(workspace)

    def export(request: Request) -> Response:
        # Only what the library lists; no path is ever made of what was asked for.
        choice = workspace.library.find(request.path_params["name"])
        if choice is None or choice.folder is None:
            return Response("Not found.", 404)
        archive = _zipped(choice, choice.folder)
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(choice.name)}.zip"}
        remove = BackgroundTask(archive.unlink, missing_ok=True)
        return FileResponse(archive, headers=headers, media_type="application/zip", background=remove)

    app.add_route("/export/adapter/{name}.zip", export)
    app.add_route("/import/adapter/{token}", uploads.answer, methods=["PUT", "DELETE"])


def _zipped(choice: AdapterChoice, folder: Path) -> Path:
    """The adapter as a zip in the temp folder; stored, for weights do not shrink. A checkpoint's optimizer stays here."""
    with tempfile.NamedTemporaryFile(prefix="onecard-", suffix=".zip", delete=False) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in (folder / name for name in _EXPORTED):
                if path.is_file() and not path.is_symlink():
                    archive.write(path, f"{choice.name}/{path.name}")
        return Path(file.name)


class Uploads:
    """The archives on their way in, each a hidden file in the library's folder under the token of its page."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace, self._guard = workspace, threading.Lock()
        self._under_way: dict[str, float] = {}  # token -> when its last piece came

    async def answer(self, request: Request) -> Response:
        """A piece of an archive (headers x-name, x-offset, x-size), or its end before its time (DELETE).

        Answers {received}, at the end {id, name}; {error} with the sentence in the language of the page.
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
            self._forget(token)
            return JSONResponse({"received": 0})
        try:
            self._admit(token, offset, size)
            received = await self._append(token, offset, size, request)
            if received < size:
                return JSONResponse({"received": received})
            name = unquote(request.headers.get("x-name", ""))
            choice = await run_in_threadpool(self._bring, token, name)
        except ClientDisconnect:
            return Response(status_code=400)
        except UserError as error:
            self._forget(token)
            return JSONResponse({"error": error.of(language)})  # a status would be one more line in the browser's log
        return JSONResponse({"id": choice.id, "name": choice.name})

    def _path(self, token: str) -> Path:
        return self._workspace.library.folder / f".{token}.zip"

    def _admit(self, token: str, offset: int, size: int) -> None:
        """Let a piece in. Raises ModelError for an archive that is too large, or one too many."""
        if size > MAX_ZIP_BYTES:
            most = show_bytes(MAX_ZIP_BYTES)
            raise ModelError(
                Text(
                    zh=f"这个 zip 有 {show_bytes(size)}，最多 {most}。请解压后填文件夹路径导入。",
                    en=f"This zip takes {show_bytes(size)}; the limit is {most}. Unpack it and import the folder by its path.",
                )
            )
        now = time.monotonic()
        with self._guard:
            late = [other for other, seen in self._under_way.items() if now - seen > _FORGOTTEN_SECONDS]
            if token not in self._under_way and len(self._under_way) - len(late) >= _AT_ONCE:
                raise ModelError(
                    Text(zh="同时上传的太多，请等前面的传完。", en="Too many uploads at once; wait for one to end.")
                )
            self._under_way[token] = now
        for other in late:
            self._forget(other)
        if offset == 0:
            self._path(token).unlink(missing_ok=True)

    async def _append(self, token: str, offset: int, size: int, request: Request) -> int:
        """Write a piece where it belongs; how much there is then. One that does not follow on is left out."""
        path = self._path(token)
        held = path.stat().st_size if path.exists() else 0
        if offset != held:
            return held
        try:
            with path.open("ab") as file:
                async for data in request.stream():
                    held += len(data)
                    if held > size:
                        raise ModelError(Text(zh="收到的比声明的多。", en="More arrived than was announced."))
                    file.write(data)
        except OSError as error:
            raise ModelError(storage.not_written(path, str(error))) from error
        return held

    def _bring(self, token: str, name: str) -> AdapterChoice:
        try:
            return self._workspace.library.bring_zip(self._path(token), name)
        finally:
            self._forget(token)

    def _forget(self, token: str) -> None:
        with self._guard:
            self._under_way.pop(token, None)
        self._path(token).unlink(missing_ok=True)

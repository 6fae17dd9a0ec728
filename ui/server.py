"""The server: both pages, health, static files and downloads on one FastAPI app behind the guard.

Gradio is imported inside functions: what it reads from the environment must be set before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import webbrowser
import zipfile
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import quote, urlsplit

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from core import formats
from core.errors import UserError
from core.run import Run
from core.text import LANGUAGES, Language, Text
from core.workspace import Workspace
from ui import address, prepare_environment
from ui.guard import Guard

if TYPE_CHECKING:
    from fastapi import FastAPI

PASSWORD = "ONECARD_PASSWORD"
COOKIE = "onecard_language"
MAX_UPLOAD = "30mb"
_STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def serve(workspace: Workspace, host: str = "127.0.0.1", port: int = 7860, open_browser: bool = True) -> None:
    """Serve the pages until the process is asked to end (Ctrl+C or SIGTERM), then stop a run and wait for its save.

    Raises UserError if the port is in use, or if others could reach it and there is no password.
    """
    prepare_environment()
    password = _password(host)
    with address.listen(host, port) as listener:
        app = create_app(workspace, address.host_names(host), password)
        here, elsewhere = address.addresses(host, listener.getsockname()[1])
        print("\n         ".join((f"OneCard: {here}  (Ctrl+C to stop)", *elsewhere)), file=sys.stderr)
        if open_browser:
            threading.Thread(target=_open_when_ready, args=(here,), daemon=True).start()
        _run(app, listener, workspace)


def _run(app: FastAPI, listener: socket.socket, workspace: Workspace) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    # uvicorn hands a SIGTERM on to the handler that was there before, which by default ends the process on the spot.
    with contextlib.suppress(ValueError):  # not the main thread: the caller owns the signals
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        if workspace.active is not None:
            print("OneCard: saving the run in progress ...", file=sys.stderr)
        workspace.close()


def create_app(workspace: Workspace, hosts: Collection[str] = address.LOCAL_HOSTS, password: str = "") -> FastAPI:
    """Every route. `hosts` are the host names that are answered; with a `password` every request must bring it."""
    prepare_environment()
    from fastapi import FastAPI

    app = FastAPI(title="OneCard", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=hosts, password=password)
    # Before the mounts: a route added after them is never reached.
    _add_basics(app, workspace)
    _add_downloads(app, workspace)
    _mount_pages(app, workspace)
    return app


def _add_basics(app: FastAPI, workspace: Workspace) -> None:
    files = {path.name: path for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}
    files["plotly.min.js"] = Path(find_spec("plotly").origin).parent / "package_data" / "plotly.min.js"

    def healthz(_request: Request) -> Response:
        state = workspace.status()
        run = {"id": state.run_id, "step": state.step, "steps": state.steps} if state.run_id else None
        facts = {
            "version": state.version,
            "model": state.model,
            "model_state": state.model_state,
            "device": state.device,
        }
        return JSONResponse({"status": "ok", **facts, "state": state.state, "run": run})

    def favicon(_request: Request) -> Response:
        return FileResponse(_STATIC / "onecard.svg", media_type="image/svg+xml")

    def static(request: Request) -> Response:
        path = files.get(request.path_params["name"])
        if path is None:
            return Response("Not found.", 404)
        return FileResponse(path, media_type=_TYPES[path.suffix], headers={"cache-control": "no-cache"})

    def index(request: Request) -> Response:
        return RedirectResponse(f"/{choose_language(request)}/", 307)

    app.add_route("/healthz", healthz)
    app.add_route("/favicon.ico", favicon)
    app.add_route("/static/{name}", static)
    app.add_route("/", index)


def choose_language(request: Request) -> Language:
    """The language of the cookie, else the first of Accept-Language that there is, else Chinese."""
    wanted = [request.cookies.get(COOKIE, "")]
    for part in request.headers.get("accept-language", "").split(","):
        wanted.append(part.partition(";")[0].strip().lower().partition("-")[0])
    return next((known for word in wanted for known in LANGUAGES if word == known), "zh")


def _add_downloads(app: FastAPI, workspace: Workspace) -> None:
    # Only names that the workspace lists; no path is ever made of what was asked for.
    def dataset(request: Request) -> Response:
        asked, kind = request.path_params["name"], request.path_params["kind"]
        name = next((known for known in workspace.datasets() if known == asked), None)
        if name is None or kind not in get_args(formats.Kind):
            return Response("Not found.", 404)
        content, file = formats.write(workspace.dataset(name), kind)
        return Response(content, headers=_attachment(file), media_type="application/octet-stream")

    def adapter(request: Request) -> Response:
        asked = request.path_params["run_id"]
        run = next((known for known in workspace.runs() if known.id == asked), None)
        if run is None or run.adapter is None:
            return Response("Not found.", 404)
        archive = _zip_adapter(run, run.adapter)
        remove = BackgroundTask(archive.unlink, missing_ok=True)
        headers = _attachment(f"{run.id}.zip")
        return FileResponse(archive, headers=headers, media_type="application/zip", background=remove)

    app.add_route("/export/dataset/{name}.{kind}", dataset)
    app.add_route("/export/adapter/{run_id}.zip", adapter)


def _zip_adapter(run: Run, folder: Path) -> Path:
    """The adapter's folder as a zip in the temp folder; stored, for weights do not shrink."""
    handle, name = tempfile.mkstemp(prefix="onecard-", suffix=".zip")
    os.close(handle)
    with zipfile.ZipFile(name, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.write(path, f"{run.id}/{path.relative_to(folder)}")
    return Path(name)


def _attachment(file: str) -> dict[str, str]:
    return {"content-disposition": f"attachment; filename*=UTF-8''{quote(file)}"}


def _mount_pages(app: FastAPI, workspace: Workspace) -> None:
    import gradio as gr

    from ui.edits import Edits
    from ui.layout import build
    from ui.theme import theme

    edits = Edits(workspace)
    css = "\n".join((_STATIC / name).read_text("utf-8") for name in ("onecard.css", "probe_table.css"))
    for language in LANGUAGES:
        gr.mount_gradio_app(
            app, build(workspace, language, edits), path=f"/{language}", theme=theme(), css=css, head=_head(language),
            footer_links=[], run_history=False, show_error=False, max_file_size=MAX_UPLOAD, allowed_paths=[],
            enable_monitoring=False, mcp_server=False, pwa=False, ssr_mode=False,
        )  # fmt: skip


def _head(language: Language) -> str:
    # Inline, not a file: the theme must be chosen before the first paint.
    script = (_STATIC / "onecard.js").read_text("utf-8")
    return (
        '<link rel="icon" href="/favicon.ico" type="image/svg+xml"><meta name="color-scheme" content="light dark">'
        f'<script>document.documentElement.lang = "{"zh-CN" if language == "zh" else "en"}";\n{script}</script>'
    )


# Starting


def _password(host: str) -> str:
    """The password of the environment; needed where other machines could reach the page."""
    password = os.environ.get(PASSWORD, "")
    if address.is_local(host):
        return password
    if not password:
        raise UserError(
            Text(
                zh=f"--host {host} 会让其他机器也能打开本页面。请先设置密码再启动：export {PASSWORD}=你的密码；"
                "只在本机使用则去掉 --host。",
                en=f"--host {host} lets other machines open the page. Set a password first: export {PASSWORD}=...; "
                "or leave --host out to serve this machine only.",
            )
        )
    print(
        f"OneCard: other machines can reach {host}. Sign in with any user name and ${PASSWORD}. Plain http does not "
        "hide it on the way: use it in a network you trust, or behind https.",
        file=sys.stderr,
    )
    return password


def _open_when_ready(page: str) -> None:
    parts = urlsplit(page)
    for _ in range(120):
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname, parts.port), timeout=1):
            webbrowser.open(page)
            return
        time.sleep(0.5)

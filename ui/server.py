"""The server: both pages, health, static files and downloads on one FastAPI app behind the guard.

Gradio is imported inside functions: what it reads from the environment must be set before.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from core import __version__, formats
from core.errors import UserError
from core.served import ServedWorkspace
from core.text import LANGUAGES, Language, Text
from core.workspace import Workspace
from ui import address, keys, prepare_environment
from ui.access import Entrance
from ui.endpoint import Endpoint, broken
from ui.guard import KNOWN, Guard
from ui.reader import choose_language
from ui.restart import Restart
from ui.running import run

if TYPE_CHECKING:
    from fastapi import FastAPI

PASSWORD = keys.PASSWORD
MAX_UPLOAD = "30mb"
_STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEAD_WORDS = {
    "left": "pace.left", "copied": "link.copied", "by_hand": "link.by_hand", "ok": "link.ok", "close": "ask.cancel",
}  # fmt: skip


def serve(workspace: Workspace, host: str = "127.0.0.1", port: int = 7860, open_browser: bool = True) -> None:
    """Serve the pages until the process is asked to end (Ctrl+C or SIGTERM), then stop a run and wait for its save.

    Raises UserError if the port is in use, or if others could reach it and there is no password.
    """
    prepare_environment()
    password, api_keys = _password(host), keys.from_environment()
    token = keys.token_here(password)
    entrance = Entrance(password, token, api_keys)
    endpoint, restart = Endpoint(ServedWorkspace(workspace)), Restart()
    with address.listen(host, port) as listener:
        app = create_app(workspace, address.host_names(host), endpoint=endpoint, entrance=entrance, restart=restart)
        # What draws programs' keys on the page reads it here, and a restart of this process keeps its open pages.
        os.environ[keys.TOKEN] = token
        here, elsewhere = address.addresses(host, listener.getsockname()[1])
        print(_greeting(here, elsewhere, entrance), file=sys.stderr)
        if open_browser:
            # Other users of the machine see what a browser is started with: the link in there opens once.
            page = here if entrance.is_open else f"{here}/?token={entrance.ticket()}"
            threading.Thread(target=_open_when_ready, args=(page,), daemon=True).start()
        try:
            run(app, listener, endpoint)
        finally:
            if workspace.active is not None:
                print("OneCard: saving the run in progress ...", file=sys.stderr)
            workspace.close()
    restart.carry_out()


def create_app(
    workspace: Workspace,
    hosts: Collection[str] = address.LOCAL_HOSTS,
    password: str = "",
    api_keys: Collection[str] = (),
    endpoint: Endpoint | None = None,
    token: str = "",
    entrance: Entrance | None = None,
    restart: Restart | None = None,
) -> FastAPI:
    """Every route. `hosts` are the host names that are answered.

    With a `password` or a `token` every request must bring it, or the cookie that it becomes; those to the API bring one of
    `api_keys` instead, or the token where there are none. An `entrance` takes the place of the three. `restart`: how the
    page may start the program anew; None where it cannot.
    """
    prepare_environment()
    from fastapi import FastAPI

    from ui import diagnostics

    app = FastAPI(title="OneCard", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, hosts=hosts, entrance=entrance or Entrance(password, token, api_keys))
    app.add_exception_handler(Exception, broken)
    # Before the mounts: a route added after them is never reached.
    app.router.routes.extend((endpoint or Endpoint(ServedWorkspace(workspace))).routes())
    _add_basics(app, workspace)
    _add_downloads(app, workspace)
    diagnostics.add(app, workspace, restart)
    _mount_pages(app, workspace, restart is not None)
    return app


def _add_basics(app: FastAPI, workspace: Workspace) -> None:
    files = {path.name: path for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}
    files["plotly.min.js"] = Path(find_spec("plotly").origin).parent / "package_data" / "plotly.min.js"

    def healthz(request: Request) -> Response:
        if not request.scope.get(KNOWN):
            return JSONResponse({"status": "ok", "version": __version__})
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


def _add_downloads(app: FastAPI, workspace: Workspace) -> None:
    # Only names that the workspace lists; no path is ever made of what was asked for.
    def dataset(request: Request) -> Response:
        asked, kind = request.path_params["name"], request.path_params["kind"]
        name = next((known for known in workspace.datasets() if known == asked), None)
        if name is None or kind not in get_args(formats.Kind):
            return Response("Not found.", 404)
        content, file = formats.write(workspace.dataset(name), kind)
        return Response(content, headers=_attachment(file), media_type="application/octet-stream")

    app.add_route("/export/dataset/{name}.{kind}", dataset)
    from ui import adapter_files, effect_card, run_files

    adapter_files.add(app, workspace)
    run_files.add(app, workspace)
    effect_card.add(app)


def _attachment(file: str) -> dict[str, str]:
    return {"content-disposition": f"attachment; filename*=UTF-8''{quote(file)}"}


def _mount_pages(app: FastAPI, workspace: Workspace, can_restart: bool) -> None:
    import gradio as gr

    from ui import first, import_files, preload, visits
    from ui.edits import Edits
    from ui.layout import build
    from ui.theme import theme

    edits = Edits(workspace)
    import_files.add(app, edits.arrivals)
    sheets = ("onecard.css", "probe_table.css", "snippets.css", "compare.css", "row_report.css", "effects.css")
    css = "\n".join((_STATIC / name).read_text("utf-8") for name in sheets)
    begins = "\n".join((_STATIC / name).read_text("utf-8") for name in ("frames.js", "stream.js"))
    scripts: dict[str, list[str]] = {}
    for language in LANGUAGES:
        page = build(workspace, language, edits, can_restart)
        gr.mount_gradio_app(
            app, page, path=f"/{language}", theme=theme(), css=css, head=_head(language),
            footer_links=[], run_history=False, show_error=False, max_file_size=MAX_UPLOAD, allowed_paths=[],
            enable_monitoring=False, mcp_server=False, pwa=False, ssr_mode=False,
        )  # fmt: skip
        first.put(app, f"/{language}", begins)
        scripts[f"/{language}/"] = preload.scripts(page)
        visits.bound(page)
    app.add_middleware(preload.Hints, pages=scripts)


def _head(language: Language) -> str:
    # Inline, not a file: the theme must be chosen before the first paint.
    from ui import locale, pieces

    frame, place, access = ((_STATIC / f"{name}.js").read_text("utf-8") for name in ("onecard", "place", "access"))
    words = {name: locale.t(language, key) for name, key in _HEAD_WORDS.items()}
    script = f"{frame}\n(() => {{\n{pieces.with_labels(words, place)}\n}})();\n{access}"
    skeleton = (_STATIC / "skeleton.css").read_text("utf-8")
    return (
        '<link rel="icon" href="/favicon.ico" type="image/svg+xml"><meta name="color-scheme" content="light dark">'
        f"<style>{skeleton}</style>"
        '<script defer src="/static/effects.js"></script>'
        f'<script>document.documentElement.lang = "{"zh-CN" if language == "zh" else "en"}";\n{script}</script>'
    )


# Starting


def _greeting(here: str, elsewhere: Sequence[str], entrance: Entrance) -> str:
    """Where the page is, and what opens it."""
    lines = [f"OneCard: {here}  (Ctrl+C to stop)", *elsewhere]
    if keys.is_drawn(entrance.token):
        # Not one that a person has set: that is a secret of theirs, and this may be a log.
        lines[0] = f"OneCard: {here}/?token={entrance.token}  (Ctrl+C to stop)"
    elif entrance.token:
        lines.append(f"The page asks for the token set in ${keys.TOKEN}.")
    return "\n         ".join(lines)


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

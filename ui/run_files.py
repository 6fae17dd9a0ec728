"""A run as one file on the page: the dialog that packs one or opens one, and the routes by which the files travel.

Opened from the list of runs by the document's event onecard-run-file; ui/static/run_file.js listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import gradio as gr
from anyio import to_thread
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from core import bundle, storage
from core.errors import DatasetError, UserError
from core.run import Run
from core.text import Text
from core.workspace import Workspace
from ui import pieces
from ui.adapter_files import Uploads
from ui.page import Page
from ui.pieces import safe, show_bytes

if TYPE_CHECKING:
    from fastapi import FastAPI

_STATIC = Path(__file__).parent / "static"
_BY_COMMAND = Text(
    "请在命令行打开：python app.py bundle --open 文件.zip。",
    "Open it on the command line: python app.py bundle --open FILE.zip.",
)
_FRAME = """
<dialog class="rf" aria-labelledby="rf-title">
  <header><h2 id="rf-title" data-is="title"></h2>
    <button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <div data-is="pack"><p data-is="inside"></p>
    <label data-is="more"><input type="checkbox" name="checkpoints"><span></span></label>
    <p class="rf-note">{rows}</p><p class="rf-said" data-is="said" role="alert" hidden></p>
    <div class="rf-acts"><a class="rf-button first" data-is="whole" download>{pack}</a>
      <a class="rf-button" data-is="adapter" download>{adapter}</a></div></div>
  <div data-is="open"><p>{about}</p>
    <label class="rf-button first" data-is="choose">{choose}<input type="file" accept=".zip,application/zip"></label>
    <div class="rf-way" data-is="way" hidden><span role="status"></span>
      <b class="oc-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100"><i></i></b>
      <button type="button" data-act="cancel">{cancel}</button></div>
    <p class="rf-said" data-is="problem" role="alert" hidden></p></div>
</dialog>"""
_KEYS = {
    "close": "runfile.close", "rows": "runfile.rows", "pack": "runfile.pack", "adapter": "runfile.adapter",
    "about": "runfile.about", "choose": "runfile.choose", "cancel": "runfile.cancel",
}  # fmt: skip
_LOOK_SECONDS = 0.2


class RunFile(gr.HTML):
    """The dialog; its value says nothing. Event: brought, with the run's `id`, `name`, and whether it is `new` here."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t
        words = {
            "language": page.language, "open": t("runfile.open"), "uploading": t("runfile.uploading"),
            "checking": t("runfile.checking"), "failed": t("runfile.failed"),
        }  # fmt: skip

        # Gradio sets an attribute on server functions, which a bound method forbids.
        def inside(asked: dict[str, object]) -> dict[str, object]:
            return contents(page, str(asked.get("run") or ""))

        super().__init__(
            value="",
            html_template=_FRAME.format(**{place: safe(t(key)) for place, key in _KEYS.items()}),
            js_on_load=pieces.with_labels(words, (_STATIC / "run_file.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'run_file.css').read_text('utf-8')}</style>",
            server_functions=[inside],
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """It has no value."""
        return {"type": "string"}


def contents(page: Page, run_id: str) -> dict[str, object]:
    """What the dialog says of a run's file: what is in it, how large it is, and where it is fetched from."""
    run = next((run for run in page.workspace.runs() if run.id == run_id), None)
    if run is None or run.live:
        said = page.t("runfile.live", title=run.title) if run else page.t("runfile.gone")
        return {"title": page.t("runfile.title", title=run.title if run else ""), "said": said}
    plain, whole = bundle.contents(run), bundle.contents(run, with_checkpoints=True)
    name = quote(run.id, safe="")
    return {
        "title": page.t("runfile.title", title=run.title),
        "inside": page.t("runfile.inside", parts=_parts(page, run), size=show_bytes(plain.nbytes)),
        "more": page.t("runfile.more", size=show_bytes(whole.nbytes)) if whole.left_out != plain.left_out else "",
        "whole": f"/export/run/{name}.zip",
        "adapter": f"/export/adapter/{name}.zip" if run.adapter is not None else "",
        "said": "",
    }


def _parts(page: Page, run: Run) -> str:
    """What there is of the run, in words."""
    there = {
        "runfile.part.rows": True,
        "runfile.part.settings": True,
        "runfile.part.events": bool(run.events),
        "runfile.part.proof": page.workspace.proofs.of(run.id) is not None,
        "runfile.part.adapter": run.adapter is not None,
        "runfile.part.points": (run.folder / "probed").is_dir(),
    }
    words = {"runfile.part.rows": {"rows": f"{len(run.rows):,}"}}
    return page.t("list.comma").join(page.t(key, **words.get(key, {})) for key, is_there in there.items() if is_there)


def add(app: FastAPI, workspace: Workspace) -> None:
    """Add the routes: GET /export/run/ID.zip (?checkpoints=1), PUT and DELETE /import/run/TOKEN."""
    runs = workspace.home / "runs"
    packing = anyio.CapacityLimiter(1)  # each takes as much disk as its run

    def bring(archive: Path, name: str) -> dict[str, object]:
        run, fresh = workspace.bring_run(archive, name.replace("\\", "/").rpartition("/")[2])
        return {"id": run.id, "name": run.title, "new": fresh}

    async def export(request: Request) -> Response:
        # Only what the workspace lists; no path is ever made of what was asked for.
        try:
            run = await run_in_threadpool(workspace.run, request.path_params["name"])
        except DatasetError:
            return Response("Not found.", 404)
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(run.id)}.zip"}
        if request.method == "HEAD":
            answer = Response(headers=headers, media_type="application/zip")
            del answer.headers["content-length"]
            return answer
        archive, whole = storage.under_way(runs / "download~"), request.query_params.get("checkpoints") == "1"
        try:
            with _as_long_as_wanted(request) as stop:
                made = await to_thread.run_sync(bundle.write, run, archive, whole, _untold, stop, limiter=packing)
        except UserError as error:
            return Response(f"{error.text.zh}\n{error.text.en}", 409, media_type="text/plain")
        if made is None:
            return Response(status_code=400)
        remove = BackgroundTask(archive.unlink, missing_ok=True)
        return FileResponse(archive, headers=headers, media_type="application/zip", background=remove)

    app.add_route("/export/run/{name}.zip", export)
    app.add_route("/import/run/{token}", Uploads(runs, bring, _BY_COMMAND).answer, methods=["PUT", "DELETE"])


@contextlib.contextmanager
def _as_long_as_wanted(request: Request) -> Iterator[threading.Event]:
    """An event that is set when whoever asked goes away, or the program ends."""
    stop = threading.Event()

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_LOOK_SECONDS)
        stop.set()

    watching = asyncio.create_task(watch())
    try:
        yield stop
    finally:
        stop.set()
        watching.cancel()


def _untold(done: int, total: int) -> None:
    """The browser shows its own downloads."""

"""The diagnostics dialog: what this installation is and what went wrong lately, one zip to send, and a restart.

Opened from the top bar by the document's event onecard-diagnostics; ui/static/diagnostics.js listens.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core import diagnostics
from core.diagnostics import Report
from core.workspace import Workspace
from ui import pieces
from ui.page import Page
from ui.pieces import checklist, safe, show_bytes
from ui.restart import Restart
from ui.top_bar import MODEL_STATES

if TYPE_CHECKING:
    from fastapi import FastAPI

_STATIC = Path(__file__).parent / "static"
_FRAME = """
<dialog class="dg" aria-labelledby="dg-title">
  <header><h2 id="dg-title" tabindex="-1" autofocus>{title}</h2>
    <button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <div class="dg-body" data-is="state"></div>
  <div class="dg-foot"><p data-is="said" role="status" hidden></p>
    <a href="/diagnostics.zip" download data-is="zip">{zip}</a>
    <label><input type="checkbox" data-is="contents">{contents}</label>
    <button type="button" data-is="restart" hidden>{restart}</button>
    <p>{zip_note}<span data-is="note" hidden> {restart_note}</span></p></div>
</dialog>"""
_KEYS = {
    "title": "diagnostics.title", "close": "diagnostics.close", "zip": "diagnostics.zip",
    "zip_note": "diagnostics.zip.note", "contents": "diagnostics.zip.contents", "restart": "diagnostics.restart",
    "restart_note": "diagnostics.restart.note",
}  # fmt: skip


class DiagnosticsDialog(gr.HTML):
    """The dialog. It has no value and no events of its own: it reads, and two routes do the rest (see `add`)."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t

        def state(_asked: object) -> dict[str, object]:
            return dialog_state(page)

        words = {
            "failed": t("diagnostics.failed"), "restarting": t("diagnostics.restarting"),
            "late": t("diagnostics.restart.late"),
            "ask": {"title": t("diagnostics.restart.ask"), "ok": t("diagnostics.restart"),
                    "cancel": t("diagnostics.restart.cancel")},
        }  # fmt: skip
        super().__init__(
            html_template=_FRAME.format(**{place: safe(t(key)) for place, key in _KEYS.items()}),
            js_on_load=pieces.with_labels(words, (_STATIC / "diagnostics.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'diagnostics.css').read_text('utf-8')}</style>",
            server_functions=[state],
            apply_default_css=False,
            **rest,
        )


def add(app: FastAPI, workspace: Workspace, restart: Restart | None) -> None:
    """The routes: the zip, and the restart where the server can. Before the pages are mounted."""

    def packed(request: Request) -> Response:
        content = diagnostics.bundle(workspace, contents=request.query_params.get("contents") == "1")
        name = time.strftime("onecard-diagnostics-%Y%m%d-%H%M%S.zip")
        headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        return Response(content, headers=headers, media_type="application/zip")

    def anew(request: Request) -> Response:
        # A form of another site cannot send this type without being asked first.
        if restart is None or request.headers.get("content-type", "") != "application/json":
            return Response("Not found.", 404)
        return JSONResponse({"restarting": True}, 202, background=BackgroundTask(restart.ask))

    app.add_route("/diagnostics.zip", packed)
    app.add_route("/restart", anew, methods=["POST"])
    app.state.restart = restart


def dialog_state(page: Page) -> dict[str, object]:
    """What the dialog shows now."""
    report = diagnostics.collect(page.workspace)
    html = draw(page, report)
    return {
        "html": html,
        "seen": hashlib.sha256(html.encode()).hexdigest()[:16],
        "lost": report.lost is not None,
        "restart": page.can_restart,
    }


def draw(page: Page, report: Report) -> str:
    """The report: what is wrong first, then the facts, errors, versions and the log's end."""
    t = page.t
    wrong = [("bad", page.of(report.lost))] if report.lost is not None else []
    wrong += [("warn", page.of(problem)) for problem in report.problems]
    card = page.workspace.engine.device.kind == "cuda"
    used = t("diagnostics.memory.value", used=show_bytes(report.memory_used), total=show_bytes(report.memory_total))
    facts = [(t("diagnostics.device"), [report.device])]
    facts.append((t("diagnostics.memory" if card else "diagnostics.memory.ram"), ["–" if report.lost else used]))
    if card and report.lost is None:
        facts.append((t("diagnostics.holders"), _holders(page, report)))
    free = t("diagnostics.disk.value", free=show_bytes(report.disk_free), total=show_bytes(report.disk_total))
    home = [report.home] if report.writable else [report.home, t("diagnostics.readonly")]
    facts += [
        (t("diagnostics.model"), [f"{report.model} · {t(MODEL_STATES.get(report.model_state, 'top.absent'))}"]),
        (t("diagnostics.home"), home),
        (t("diagnostics.disk"), [free]),
        (t("diagnostics.run"), [page.of(report.run) if report.run is not None else t("diagnostics.run.none")]),
    ]
    return "".join(
        (
            checklist(wrong or [("ok", t("diagnostics.well"))]),
            _facts(facts),
            _fold("troubles", t("diagnostics.troubles", count=len(report.troubles)), _troubles(page, report)),
            _fold("versions", t("diagnostics.versions"), _versions(page, report)),
            _fold("log", t("diagnostics.log"), _log(page, report)),
        )
    )


def _holders(page: Page, report: Report) -> list[str]:
    lines = [holder.said for holder in report.held.others]
    if report.held.unseen_bytes:
        lines.append(page.t("diagnostics.unseen", size=show_bytes(report.held.unseen_bytes)))
    return lines or [page.t("diagnostics.holders.none")]


def _facts(facts: Iterable[tuple[str, Iterable[str]]]) -> str:
    lines = (
        f"<dt>{safe(name)}</dt><dd>{''.join(f'<span>{safe(v)}</span>' for v in values)}</dd>" for name, values in facts
    )
    return f"<dl>{''.join(lines)}</dl>"


def _troubles(page: Page, report: Report) -> str:
    if not report.troubles:
        return f'<p class="oc-note">{safe(page.t("diagnostics.troubles.none"))}</p>'
    items = "".join(
        f"<li><time>{safe(one.time)}</time><b>{safe(one.source)}</b><p>{safe(page.of(one.text))}</p></li>"
        for one in report.troubles
    )
    return f'<ul class="dg-troubles">{items}</ul>'


def _versions(page: Page, report: Report) -> str:
    named = {"system": page.t("diagnostics.system")}
    return _facts((named.get(name, name), [version]) for name, version in report.versions)


def _log(page: Page, report: Report) -> str:
    text = report.log.strip()
    return f"<pre>{safe(text)}</pre>" if text else f'<p class="oc-note">{safe(page.t("diagnostics.log.none"))}</p>'


def _fold(part: str, title: str, body: str) -> str:
    return f'<details data-part="{part}"><summary>{safe(title)}</summary>{body}</details>'

"""The export dialog: what an adapter becomes outside, the export on its way, its receipt and the commands that run it.

Opened from the library and from the Train tab by the document's event onecard-export; ui/static/export.js listens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gradio as gr

from core.errors import UserError
from core.export.exports import Now
from core.export.order import FORMATS, LABELS, QUANTISATIONS, Order
from core.generate import STRONGEST
from ui import export_draw, pieces
from ui.page import Page
from ui.pieces import safe, show_bytes

_STATIC = Path(__file__).parent / "static"
_FRAME = """
<dialog class="ex" aria-labelledby="ex-title">
  <header><h2 id="ex-title">{title}</h2><span data-is="who"></span>
    <button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <div class="ex-body">
    <form autocomplete="off"><fieldset><legend>{format}</legend><div class="ex-formats" data-is="formats"></div></fieldset>
      <div class="ex-fields">
        <label data-is="quantisation" hidden>{quantisation}<select name="quantisation">{kinds}</select></label>
        <label>{name}<input type="text" name="name" maxlength="80" spellcheck="false"></label>
        <label title="{strength_note}">{strength}<output data-is="strength">1</output>
          <input type="range" name="strength" min="0.1" max="{strongest}" step="0.1" value="1"></label>
      </div>
      <label class="ex-tick"><input type="checkbox" name="rows">{rows}</label>
      <p class="ex-note">{folder} <code data-is="folder"></code> <span data-is="size"></span></p></form>
    <p class="ex-problem" data-is="said" role="alert" hidden></p>
    <div class="ex-way" data-is="way" hidden><span data-is="what" role="status"></span>
      <b class="oc-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100"><i></i></b>
      <button type="button" data-act="cancel">{cancel}</button></div>
    <button type="button" class="first" data-act="start">{start}</button>
    <section data-is="made"></section>
    <div data-is="elsewhere"></div>
  </div>
</dialog>"""
_KEYS = {
    "title": "outside.title", "close": "outside.close", "format": "outside.format", "name": "outside.name",
    "quantisation": "outside.quantisation", "strength": "outside.strength", "rows": "outside.rows",
    "folder": "outside.folder", "cancel": "outside.cancel", "start": "outside.start",
}  # fmt: skip
_NOTES = {
    "adapter": "outside.adapter.note", "zip": "outside.zip.note", "merged": "outside.merged.note",
    "merged-f32": "outside.merged-f32.note", "gguf": "outside.gguf.note",
    "gguf-adapter": "outside.gguf-adapter.note", "bnb": "outside.bnb.note",
}  # fmt: skip


class ExportDialog(gr.HTML):
    """Value: {adapter, said} as JSON. Events: start, cancel, again and remove, with the adapter's `id`."""

    def __init__(self, page: Page, **rest: object) -> None:
        self.shown_on, t = page, page.t  # gradio has a `page` of its own
        words = {
            "failed": t("outside.failed"), "cancelling": t("outside.cancelling"), "copied": t("outside.copied"),
        }  # fmt: skip
        kinds = "".join(
            f'<option value="{kind}"{" selected" if kind == "f16" else ""}>{kind.upper()}</option>'
            for kind in QUANTISATIONS
        )
        super().__init__(
            value="",
            html_template=_FRAME.format(
                **{place: safe(t(key)) for place, key in _KEYS.items()},
                kinds=kinds,
                strongest=STRONGEST,
                strength_note=safe(t("outside.strength.note")),
            ),
            js_on_load=pieces.with_labels(words, (_STATIC / "export.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'export.css').read_text('utf-8')}</style>",
            server_functions=_reading_functions(page),
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}

    def wire(self) -> None:
        """Connect the buttons; what they cannot do is said in the dialog, for a toast would lie under it."""
        shown, quiet = self.shown_on.shown, {"show_progress": "hidden", "api_visibility": "private"}
        handlers = ((self.start, self.on_start), (self.cancel, self.on_cancel), (self.again, self.on_again),
                    (self.remove, self.on_remove))  # fmt: skip
        for event, handler in handlers:
            event(shown(handler), None, [self], **quiet)

    def on_start(self, event: gr.EventData) -> str:
        """Begin an export as the form says."""
        exports, asked = self.shown_on.workspace.exports, str(event.id)
        return self._after(asked, lambda: exports.start(asked, _order(self.shown_on, asked, event.form)))

    def on_cancel(self, event: gr.EventData) -> str:
        """End the export on its way; nothing of it stays."""
        return self._after(str(event.id), self.shown_on.workspace.exports.stop)

    def on_again(self, event: gr.EventData) -> str:
        """Load an export once more and ask it."""
        exports = self.shown_on.workspace.exports

        return self._after(str(event.id), lambda: exports.test_again(str(event.id), str(event.name)))

    def on_remove(self, event: gr.EventData) -> str:
        """Delete an export; the browser has asked."""
        return self._after(str(event.id), lambda: self.shown_on.workspace.exports.remove(str(event.name)))

    def _after(self, adapter: str, work: Callable[[], object]) -> str:
        said = ""
        try:
            work()
        except UserError as error:
            said = error.of(self.shown_on.language)
        return pieces.answer(adapter=adapter, said=said)


def _reading_functions(page: Page) -> list[Callable[[dict[str, object]], dict[str, object]]]:
    """What the browser asks for: `state`, again and again, and `form` when something in it was changed. They only read."""

    def state(asked: dict[str, object]) -> dict[str, object]:
        return dialog_state(page, str(asked.get("adapter") or ""), str(asked.get("seen") or ""))

    def form(asked: dict[str, object]) -> dict[str, object]:
        return form_state(page, str(asked.get("adapter") or ""), asked.get("form"))

    return [state, form]


def form_state(page: Page, adapter: str, form: object) -> dict[str, object]:
    """The formats with what each is for, its size and why it cannot be; the name and the folder as they would be."""
    try:
        order = _order(page, adapter, form)
    except UserError as error:
        return {"formats": [], "said": error.of(page.language)}
    formats = []
    for each in FORMATS:
        wanted = replace(order, format=each)
        problem = wanted.problem()
        size = "" if problem else page.t("outside.about", size=show_bytes(wanted.nbytes()))
        note = page.of(problem) if problem else page.t(_NOTES[each])
        formats.append({"id": each, "label": page.of(LABELS[each]), "note": note, "size": size, "can": problem is None})
    return {"formats": formats, "said": "", "name": order.name, "folder": str(order.target)}


def dialog_state(page: Page, adapter: str, seen: str) -> dict[str, object]:
    """What the dialog shows now; the html of what was made only if the browser has not `seen` it."""
    workspace, exports = page.workspace, page.workspace.exports
    choice = workspace.library.find(adapter)
    shown: dict[str, object] = {"who": "", "way": None, "said": "", "seen": "", "free": exports.now is None}
    if choice is None or choice.folder is None:
        return shown | {"free": False}
    now, failed = exports.now, exports.failed(adapter)
    shown["who"] = choice.name if choice.run is None else page.of(choice.label)
    shown["said"] = page.of(failed) if failed is not None else ""
    if now is not None and now.adapter_id == adapter:
        written = now.what == LABELS[now.order.format]
        shown["way"] = {"what": _way(page, now), "share": now.done / now.total, "paced": written}
    elif now is not None:
        shown["said"] = page.t("outside.busy")
    moment = f"{adapter} {exports.revision}"
    if moment != seen:
        shown["html"] = export_draw.made(page, exports.of(adapter), choice.folder)
    return shown | {"seen": moment}


def _way(page: Page, now: Now) -> str:
    what = page.of(now.what)
    if now.what != LABELS[now.order.format]:
        return page.t("outside.asking", what=what, done=now.done, total=now.total)
    rate = now.done / max(0.1, time.time() - now.begun)
    left = (now.total - now.done) / rate if rate else 0.0
    return page.t(
        "outside.written", what=what, done=show_bytes(now.done), total=show_bytes(now.total), rate=show_bytes(int(rate)),
        left=page.t("outside.minutes", count=round(left / 60)) if left > 90 else page.t("outside.seconds", count=round(left)),
    )  # fmt: skip


def _order(page: Page, adapter: str, form: object) -> Order:
    """The order that the form asks for; whatever is missing or of another kind is as it is at first."""
    given = form if isinstance(form, dict) else {}
    asked: dict[str, object] = {"language": page.language, "rows": given.get("rows") is True}
    if given.get("format") in FORMATS:
        asked["format"] = given["format"]
    if given.get("quantisation") in QUANTISATIONS:
        asked["quantisation"] = given["quantisation"]
    if isinstance(given.get("strength"), int | float):
        asked["strength"] = float(given["strength"])
    if isinstance(given.get("name"), str) and given["name"].strip():
        asked["name"] = given["name"].strip()
    choice = page.workspace.library.find(adapter)
    if choice is not None and choice.run is None:
        # An imported one names its base as its tool did; the one chosen here is the one that it answers on.
        asked["model"] = page.workspace.model
    return page.workspace.exports.order(adapter, **asked)

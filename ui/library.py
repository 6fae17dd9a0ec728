"""The adapter library: a dialog over any tab with the list of adapters, import, names, notes and removal.

Opened from the model pickers of Compare and Chat. Its list is drawn here; ui/static/library.js listens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr

from core.errors import UserError
from core.library import base_folder
from core.pull import AdapterId, adapter_id
from core.workspace import AdapterChoice
from ui import library_list, pieces, runs
from ui.page import Page
from ui.pieces import show_size

_STATIC = Path(__file__).parent / "static"
OPEN = "() => { document.dispatchEvent(new Event('onecard-library')); return []; }"


class LibraryPanel(gr.HTML):
    """Value: {html, said, level} as JSON. Events: open, bring, brought, rename, annotate, prompt, remove, use; see `Library`."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t
        words = {
            "uploading": t("library.uploading"), "checking": t("library.checking"), "failed": t("library.failed"),
            "importing": t("library.importing"), "missing": t("library.none.found"), "language": page.language,
            "rename": t("library.rename.ask"), "ok": t("library.rename"), "cancel": t("ask.cancel"),
            "asking": t("pull.asking"),
        }  # fmt: skip
        super().__init__(
            value="",
            html_template=library_list.frame(page),
            js_on_load=pieces.with_labels(words, (_STATIC / "library.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'library.css').read_text('utf-8')}</style>",
            server_functions=_pulling_functions(page),
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}


def open_button(page: Page, **rest: object) -> gr.Button:
    """A quiet button that opens the library."""
    button = gr.Button(page.t("library.open"), size="sm", min_width=0, elem_classes="oc-quiet-button", **rest)
    button.click(None, None, None, js=OPEN, api_visibility="private")
    return button


class Library:
    """The dialog and its handlers. `use` fires when an adapter was chosen to be talked to, with `id` and `tab`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.panel = LibraryPanel(page, elem_id="library")

    def wire(self) -> None:
        """Connect the dialog to itself. What it changes reaches the pickers by the top bar, on every open page."""
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        panel = self.panel
        for event, handler in (
            (panel.open, self.on_open),
            (panel.bring, self.on_bring),
            (panel.brought, self.on_brought),
            (panel.pulled, self.on_pulled),
            (panel.rename, self.on_rename),
            (panel.annotate, self.on_annotate),
            (panel.prompt, self.on_prompt),
            (panel.remove, self.on_remove),
            (panel.restore, self.on_restore),
        ):
            event(shown(handler), None, [panel], **quiet).failure(self.on_failed, None, [panel], **quiet)

    def on_open(self) -> str:
        """The dialog was opened: what there is now."""
        return self._draw()

    def on_bring(self, event: gr.EventData) -> str:
        """Import the folder whose path was entered; or begin to fetch the adapter of a hub whose id was."""
        wanted = adapter_id(str(event.folder))
        if wanted is not None and wanted.hub is not None:
            return self._pull(wanted)
        return self._brought(lambda: self.page.workspace.library.bring_folder(str(event.folder)))

    def on_brought(self, event: gr.EventData) -> str:
        """A zip has arrived and is in the library."""
        return self._brought(lambda: self.page.workspace.library.get(str(event.id)))

    def on_pulled(self) -> str:
        """An adapter of a hub has come, or has not: say how it ended."""
        ended = self.page.workspace.pulls.ended
        if ended is None:
            return self._draw()
        if ended.found is not None:
            found = ended.found
            return self._brought(lambda: found)
        if ended.problem is not None:
            return self._draw(self.page.of(ended.problem), "bad")
        return self._draw(self.page.t("pull.cancelled"))

    def _pull(self, wanted: AdapterId) -> str:
        try:
            self.page.workspace.pulls.start(wanted)
        except UserError as error:
            return self._draw(error.of(self.page.language), "bad")
        return self._draw(pulling=True)

    def on_rename(self, event: gr.EventData) -> str:
        """Another name, as it was entered."""
        rename = self.page.workspace.library.rename
        return self._done(lambda: rename(str(event.id), str(event.name)), "library.renamed")

    def on_annotate(self, event: gr.EventData) -> str:
        """A note was written."""
        annotate = self.page.workspace.library.annotate
        return self._done(lambda: annotate(str(event.id), str(event.note)), "library.noted")

    def on_prompt(self, event: gr.EventData) -> str:
        """The system prompt of an imported one's training was written."""
        prompt = self.page.workspace.library.prompt
        return self._done(lambda: prompt(str(event.id), str(event.system)), "library.prompted")

    def on_remove(self, event: gr.EventData) -> str:
        """Delete an imported adapter; the browser has asked."""
        library = self.page.workspace.library

        def remove() -> AdapterChoice:
            gone = library.get(str(event.id))
            library.delete(gone.id)
            return gone

        return self._done(remove, "")

    def on_restore(self) -> str:
        """Bring the adapter back that was deleted last."""
        library = self.page.workspace.library

        def restore() -> AdapterChoice:
            back = library.removed.bring_back("adapter")
            library.revision += 1
            return library.get(back.folder.name)

        return self._done(restore, "undo.back")

    def on_failed(self) -> str:
        """A fault of ours; the toast has the details."""
        return self._draw(self.page.t("library.failed"), "bad")

    def _brought(self, work: Callable[[], AdapterChoice]) -> str:
        """Import it and say so; also where nothing tells the system prompt of its training."""
        try:
            found = work()
        except UserError as error:
            return self._draw(error.of(self.page.language), "bad")
        told = found.system or found.tool == "OneCard"
        return self._draw(self.page.t("library.brought" if told else "library.brought.bare", name=found.name), "ok")

    def _done(self, work: Callable[[], AdapterChoice], key: str) -> str:
        """Do it and say so by `key` ("": the list does), or say why not; in the dialog, for a toast would lie under it."""
        try:
            done = work()
            return self._draw(self.page.t(key, name=done.name) if key else "", "ok")
        except UserError as error:
            return self._draw(error.of(self.page.language), "bad")

    def _draw(self, said: str = "", level: str = "", pulling: bool = False) -> str:
        workspace = self.page.workspace
        listed: Sequence[AdapterChoice] = workspace.library.all()
        html = library_list.draw(self.page, listed, base_folder(workspace.model))
        gone = workspace.library.removed.last("adapter")
        if gone is not None:
            html = runs.deleted(self.page, gone.name, 'data-act="restore"') + html
        return pieces.answer(html=html, said=said, level=level, pulling=pulling)


def _pulling_functions(page: Page) -> list[Callable[[object], dict[str, object]]]:
    """What the browser asks for while an adapter is on its way from a hub: `pulling`, and `halt` to end it."""
    pulls = page.workspace.pulls

    def pulling(asked: object) -> dict[str, object]:
        now = pulls.now
        if pulls.active and pulls.silent_seconds:
            late = page.t("hub.silent", seconds=f"{pulls.silent_seconds:.0f}")
            return {"active": True, "words": late, "share": now.share if now is not None else 0}
        if now is None:
            return {"active": pulls.active, "words": page.t("pull.asking"), "share": 0}
        words: dict[str, object] = {"name": now.name, "done": show_size(now.done), "total": show_size(now.total)}
        return {"active": True, "words": page.t("pull.fetching", **words), "share": now.share, "bytes": now.total}

    def halt(asked: object) -> dict[str, object]:
        pulls.stop()
        return {}

    return [pulling, halt]

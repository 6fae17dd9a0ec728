"""Tab 1, the dataset: the table, the identity card, the health check, import and export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from core import formats
from core.dataset import Dataset, Identity, Row
from core.errors import ConfigError, DatasetError
from ui import fields, findings, notify
from ui.findings import FindingList
from ui.page import Page
from ui.pieces import heading, icon, note
from ui.row_editor import RowEditor, card, clean, reveal, saved_now
from ui.rows import check_limits

Shown = dict[object, object]
# What a table can be downloaded as, and what the link says.
KINDS = {"json": "JSON", "jsonl": "JSONL", "csv": "CSV", "messages": "messages"}


class DataTab:
    """The tab's components and handlers. `shown` is the name of the table that the browser holds right now.

    It travels with the rows in one message, so an edit that was under way while another table was opened is still
    saved where it belongs.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.shown = gr.Textbox(visible=False)
        self.asked = gr.Textbox(visible=False)
        self.imported = gr.State(None)
        self._told: tuple[object, str] | None = None
        with gr.Row(elem_classes="oc-columns"):
            with gr.Column(scale=7, min_width=480, elem_classes="oc-card oc-table-card"):
                self._build_table()
            with gr.Column(scale=3, min_width=300):
                self._build_side()

    def _build_table(self) -> None:
        t = self.page.t
        with gr.Row(elem_classes="oc-picker"):
            self.picker = gr.Dropdown([], label=t("data.dataset"), show_label=False, elem_id="dataset", min_width=120)
            self.new = gr.Button(t("data.new"), size="sm", elem_id="dataset-new", min_width=0)
            self.rename = gr.Button(t("data.rename"), size="sm", elem_id="dataset-rename", min_width=0)
            self.delete = gr.Button(t("data.delete"), size="sm", elem_id="dataset-delete", min_width=0)
        with gr.Row(visible=False, elem_classes="oc-banner") as self.conflict:
            gr.HTML(note(t("data.conflict")), apply_default_css=False)
            self.reload = gr.Button(t("data.conflict.reload"), size="sm", elem_id="conflict-reload", min_width=0)
            self.keep = gr.Button(t("data.conflict.keep"), size="sm", elem_id="conflict-keep", min_width=0)
        with gr.Row(visible=False, elem_classes="oc-banner oc-info") as self.import_choice:
            self.import_notes = gr.HTML(apply_default_css=False)
            self.replace = gr.Button(t("import.replace"), size="sm", elem_id="import-replace", min_width=0)
            self.append = gr.Button(
                t("import.append"), size="sm", variant="primary", elem_id="import-append", min_width=0
            )
            self.cancel = gr.Button(t("import.cancel"), size="sm", elem_id="import-cancel", min_width=0)
        self.table = RowEditor(self.page.language, elem_id="rows")

    def _build_side(self) -> None:
        t = self.page.t
        with gr.Column(elem_classes="oc-card"):
            heading(t("identity.title"), t("identity.note"))
            with gr.Row():
                self.name_zh = self._identity_box("name", "zh")
                self.name_en = self._identity_box("name", "en")
            with gr.Row():
                self.author_zh = self._identity_box("author", "zh")
                self.author_en = self._identity_box("author", "en")
        with gr.Column(elem_classes="oc-card"):
            heading(t("health.title"))
            self.findings = FindingList(note(t("health.waiting")), elem_id="findings")
        with gr.Column(elem_classes="oc-card"):
            heading(t("files.title"), t("files.note"))
            self.upload = gr.UploadButton(t("files.import"), size="sm", elem_id="import")
            self.exports = gr.HTML(elem_id="exports", apply_default_css=False)
        self.next = gr.Button(t("data.next"), variant="primary", elem_id="to-train")

    def _identity_box(self, what: str, language: str) -> gr.Textbox:
        label = {
            ("name", "zh"): "identity.name_zh",
            ("name", "en"): "identity.name_en",
            ("author", "zh"): "identity.author_zh",
            ("author", "en"): "identity.author_en",
        }[what, language]
        ids = f"identity-{what}-{language}"
        return gr.Textbox(label=self.page.t(label), max_lines=1, min_width=80, elem_id=ids)

    @property
    def identity(self) -> list[gr.Textbox]:
        """The four boxes in the order of Identity's fields."""
        return [self.name_zh, self.name_en, self.author_zh, self.author_en]

    @property
    def opened(self) -> list[gr.components.Component | gr.Row]:
        """What changes when a table is opened."""
        return [self.picker, self.shown, self.table, *self.identity, self.exports, self.conflict, self.import_choice]

    @property
    def held(self) -> list[gr.components.Component]:
        """The table as the browser has it, in the order of `_dataset`."""
        return [self.shown, self.table, *self.identity]

    def wire(self, demo: gr.Blocks, form: fields.Form) -> None:
        """Connect the tab; the health check reads the training form, whose limits it checks against."""
        safe_call, held = self.page.shown, self.held
        check = {"fn": safe_call(self.on_check), "inputs": [self.shown, *form.all], "outputs": [self.findings],
                 "show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}  # fmt: skip
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        opens = {"outputs": self.opened, **quiet}

        self.check, found = check, safe_call(self.on_found)
        self.findings.row(found, [self.shown], [self.table], **quiet)
        demo.load(safe_call(self.on_load), None, **opens).then(**check)
        self.picker.input(safe_call(self.on_pick), [self.picker, *held], **opens).then(**check)
        # Not the boxes' `input`: gradio leaves it out for text that was pasted with the mouse or filled in by the browser.
        edits = [self.table.input, *(box.change for box in self.identity)]
        saved = [self.table, self.conflict]
        gr.on(edits, safe_call(self.on_edit), held, saved, trigger_mode="always_last", **quiet).then(**check)

        asks = (
            (self.new, self.on_new, "data.new.ask", "data.new", ""),
            (self.rename, self.on_rename, "data.rename.ask", "data.rename", "shown"),
            (self.delete, self.on_delete, "data.delete.ask", "data.delete", None),
        )
        for button, handler, question, deed, default in asks:
            inputs = [self.asked, *held]
            script = _ask(self.page, question, deed, default)
            button.click(safe_call(handler), inputs, js=script, **opens).then(**check)
        self.reload.click(safe_call(self.on_reload), [self.shown], **opens).then(**check)
        self.keep.click(safe_call(self.on_keep), held, saved, **quiet).then(**check)

        offer = [self.import_choice, self.import_notes, self.imported]
        self.upload.upload(safe_call(self.on_upload), [self.upload], offer, **quiet)
        self.cancel.click(self.on_cancel, None, offer, **quiet)
        for button, handler in ((self.replace, self.on_replace), (self.append, self.on_append)):
            button.click(safe_call(handler), [self.imported, *held], **opens).then(**check)

    # Opening

    def on_load(self, request: gr.Request) -> Shown:
        """The page was opened: show the table that was edited last, of those that can be shown."""
        for name in self.page.workspace.datasets():
            with notify.told(self.page.language):
                return self._open(name, request)
        return self._open(self._create(), request)

    def on_pick(self, request: gr.Request, name: str, *held: object) -> Shown:
        """Another table was chosen; what was typed in this one is kept."""
        dataset = _dataset(held)
        if not self._may_leave(request, dataset):
            return self._conflict(dataset.name)
        with notify.told(self.page.language):
            return self._open(name, request)
        return {self.picker: dataset.name}

    def on_new(self, request: gr.Request, typed: str | None, *held: object) -> Shown:
        """An empty table with the typed name and this table's identity."""
        dataset = _dataset(held)
        if not (typed or "").strip():
            return {self.picker: dataset.name}
        if not self._may_leave(request, dataset):
            return self._conflict(dataset.name)
        made = self.page.workspace.create(typed.strip(), identity=dataset.identity).name
        self._say_name(typed.strip(), made)
        return self._open(made, request)

    def on_rename(self, request: gr.Request, typed: str | None, *held: object) -> Shown:
        """The shown table gets another name."""
        dataset = _dataset(held)
        wanted = (typed or "").strip()
        if wanted in ("", dataset.name):
            return {self.picker: dataset.name}
        if not self._listed(dataset.name):
            return self._open(dataset.name, request)
        if not self.page.edits.save(request.session_hash, dataset):
            return self._conflict(dataset.name)
        renamed = self.page.workspace.rename(dataset.name, wanted).name
        self._say_name(wanted, renamed)
        return self._open(renamed, request)

    def on_delete(self, request: gr.Request, confirmed: str | None, shown: str, *_: object) -> Shown:
        """The shown table is removed and the next one opened."""
        if confirmed is None:
            return {self.picker: shown}
        if self._listed(shown):
            self.page.workspace.delete(shown)
        return self.on_load(request)

    def on_reload(self, request: gr.Request, shown: str) -> Shown:
        """Drop this page's version, show the stored one."""
        return self._open(shown, request)

    def _say_name(self, typed: str, made: str) -> None:
        if made != typed:
            notify.say(self.page.t("data.named", name=made))

    def _listed(self, name: str) -> bool:
        """Whether there still is such a table: another page may have removed or renamed it."""
        return name in self.page.workspace.datasets()

    def _may_leave(self, request: gr.Request, dataset: Dataset) -> bool:
        """Store the shown table before another is opened; False if another page changed it meanwhile."""
        if self._listed(dataset.name):
            return self.page.edits.save(request.session_hash, dataset)
        self._say_gone(request, dataset.name)
        return True

    def _say_gone(self, request: gr.Request, name: str) -> None:
        # Gradio's dropdown tells a choice by mouse twice at once.
        told, self._told = self._told, (request.session_hash, name)
        if told != self._told:
            notify.warn(self.page.t("data.gone", name=name))

    def _conflict(self, name: str) -> Shown:
        return {self.picker: name, self.conflict: gr.update(visible=True)}

    def _open(self, name: str, request: gr.Request) -> Shown:
        """Show a table, or the newest one if it is gone. Raises UserError for one that cannot be shown."""
        if not self._listed(name):
            self._say_gone(request, name)
            return self.on_load(request)
        dataset = self.page.edits.open(request.session_hash, name)
        check_limits(dataset.rows)
        return {
            self.picker: gr.update(choices=self.page.workspace.datasets(), value=name),
            self.shown: name,
            self.table: gr.update(value=dataset.rows, identity=card(dataset.identity), dataset=name, saved=""),
            **dict(zip(self.identity, card(dataset.identity).values(), strict=True)),
            self.exports: self._export_links(name),
            self.conflict: gr.update(visible=False),
            self.import_choice: gr.update(visible=False),
        }

    def _create(self) -> str:
        return self.page.workspace.create(self.page.t("data.untitled")).name

    def _export_links(self, name: str) -> str:
        path = quote(name, safe="")
        links = (
            f'<a href="/export/dataset/{path}.{kind}" download>{icon("download")}{label}</a>'
            for kind, label in KINDS.items()
        )
        return f'<div class="oc-links"><span>{self.page.t("files.export")}</span>{"".join(links)}</div>'

    def on_found(self, event: gr.EventData, shown: str) -> Shown:
        """Show a row of the table that is open."""
        return {self.table: gr.update(reveal=reveal(shown, findings.row_of(event)))}

    def show_row(self, request: gr.Request, name: str, row: int, *held: object) -> Shown:
        """Open a table at one of its rows; what was typed in the shown one is kept."""
        dataset = _dataset(held)
        if not self._may_leave(request, dataset):
            return self._conflict(dataset.name)
        shown = {} if name == dataset.name else self._open(name, request)
        update = shown.get(self.table, gr.update())
        return {**shown, self.table: {**update, "reveal": reveal(name, row)}}

    def on_elsewhere(self, request: gr.Request, shown: str, name: str | None) -> object:
        """Another tab of this page changed the table `name`: show it if it is the one that is open."""
        return self._open(name, request) if name and name == shown and self._listed(name) else gr.skip()

    # Saving

    def on_edit(self, request: gr.Request, *held: object) -> object:
        """A cell or the identity card changed: store it, unless another page stored something else meanwhile."""
        if getattr(held[1], "dataset", held[0]) != held[0]:
            # Another table is being opened: its rows are there and its name not yet, or the other way round.
            return gr.skip()
        dataset = _dataset(held)
        return self._saved(self.page.edits.save(request.session_hash, dataset), dataset, held[1])

    def on_keep(self, request: gr.Request, *held: object) -> Shown:
        """Store this page's version over the other page's."""
        dataset = _dataset(held)
        return self._saved(self.page.edits.save(request.session_hash, dataset, force=True), dataset, held[1])

    def _saved(self, stored: bool, dataset: Dataset, sent: object) -> Shown:
        if not stored:
            return {self.conflict: gr.update(visible=True)}
        return {
            self.table: gr.update(saved=saved_now(sent), identity=card(dataset.identity)),
            self.conflict: gr.update(visible=False),
        }

    # Checking

    def on_check(self, shown: str, *values: object) -> str:
        """The health check's findings for the stored table, under the training form's limits."""
        preset = self.page.workspace.default_preset.config
        try:
            config = fields.read(values, preset)
        except ConfigError:
            config = preset  # the form says what is wrong with it on its own tab
        found = self.page.workspace.preview(shown, config).findings
        return findings.draw(self.page, found, fixes=False)

    # Files

    def on_upload(self, path: str) -> Shown:
        """A file was chosen: read it, and ask what shall happen with its rows. The table is not touched yet."""
        file = Path(path)
        found = formats.read(file.read_bytes(), file.name)
        if not self._fits(found.rows):
            return self.on_cancel()
        lines = [self.page.t("import.found", count=len(found.rows), file=file.name, encoding=found.encoding)]
        lines += [self.page.of(line) for line in found.notes]
        return {
            self.import_choice: gr.update(visible=True),
            self.import_notes: "".join(note(line) for line in lines),
            self.imported: found.rows,
        }

    def _fits(self, rows: Sequence[Row]) -> bool:
        """Whether the editor can hold these rows; a toast says why not."""
        try:
            check_limits(rows)
        except DatasetError as error:
            notify.warn(self.page.t("import.refused", why=error.of(self.page.language)))
            return False
        return True

    def on_cancel(self) -> Shown:
        """Forget the file that was read."""
        return {self.import_choice: gr.update(visible=False), self.imported: None}

    def on_replace(self, request: gr.Request, imported: tuple[Row, ...] | None, *held: object) -> Shown:
        """The file's rows instead of the table's."""
        return self._import(request, _dataset(held).with_rows(()), imported)

    def on_append(self, request: gr.Request, imported: tuple[Row, ...] | None, *held: object) -> Shown:
        """The file's rows below the table's."""
        return self._import(request, _dataset(held), imported)

    def _import(self, request: gr.Request, dataset: Dataset, imported: tuple[Row, ...] | None) -> Shown:
        if imported is None:
            return {self.import_choice: gr.update(visible=False)}
        above = [row for row in dataset.rows if not row.is_blank]
        joined = dataset.with_rows([*above, *imported])
        if not self._fits(joined.rows):
            return {self.picker: dataset.name}
        if not self._listed(dataset.name):
            return self._open(dataset.name, request)
        if not self.page.edits.save(request.session_hash, joined):
            return self._conflict(dataset.name)
        notify.say(self.page.t("import.done", count=len(imported)))
        return self._open(dataset.name, request)


def _dataset(held: Sequence[object]) -> Dataset:
    """The table as the browser holds it: its name, its rows, its identity card."""
    name, rows, *identity = held
    return Dataset(str(name), tuple(clean(rows)), Identity(*(str(word or "").strip() for word in identity)))


def _ask(page: Page, question: str, deed: str, default: str | None) -> str:
    """The js that asks before an event: it puts the typed name, "" for a plain yes or null for no, in the first input.

    `deed` is what the button that says yes does. `default` None asks yes or no; "shown" offers the table's present name.
    """
    words = {"title": page.t(question), "ok": page.t(deed), "cancel": page.t("ask.cancel"), "grave": default is None}
    kind = "confirm" if default is None else "prompt"
    offered = "rest[0]" if default == "shown" else "''"
    return f"async (asked, ...rest) => [await onecard.{kind}({json.dumps(words)}, {offered}), ...rest]"

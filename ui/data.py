"""Tab 1, the dataset: the table, its picker, the identity card, the health check; the other cards beside them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import gradio as gr

from core.dataset import Dataset, Identity, Row
from core.errors import UserError
from core.tables import OVERWRITTEN
from core.text import Text
from ui import fields, notify
from ui.doctor import Doctor
from ui.edits import Put
from ui.importing import Importing
from ui.mixing import Mixing
from ui.page import Page
from ui.pieces import heading, note
from ui.row_editor import RowEditor, card, clean, reveal, saved_now, say_again
from ui.row_panel import RowPanel
from ui.rows import check_limits

Shown = dict[object, object]


class DataTab:
    """The tab's components and handlers. `shown` is the name of the table that the browser holds right now.

    It travels with the rows in one message, so an edit that was under way while another table was opened is still
    saved where it belongs.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.shown = gr.Textbox(visible=False)
        self.asked = gr.Textbox(visible=False)
        self._told: tuple[object, str] | None = None
        with gr.Row(elem_classes="oc-columns"):
            with gr.Column(scale=7, min_width=480, elem_classes="oc-card oc-table-card"):
                self._build_table()
            with gr.Column(scale=3, min_width=300, elem_classes="oc-beside"):
                self._build_side()

    def _build_table(self) -> None:
        t = self.page.t
        with gr.Row(elem_classes="oc-picker"):
            self.picker = gr.Dropdown([], label=t("data.dataset"), show_label=False, elem_id="dataset", min_width=120)
            self.new = gr.Button(t("data.new"), size="sm", elem_id="dataset-new", min_width=0)
            self.rename = gr.Button(t("data.rename"), size="sm", elem_id="dataset-rename", min_width=0)
            self.delete = gr.Button(t("data.delete"), size="sm", elem_id="dataset-delete", min_width=0)
            self.past = gr.Button(t("history.open"), size="sm", elem_id="dataset-history", min_width=0)
        with gr.Row(visible=False, elem_classes="oc-banner") as self.conflict:
            gr.HTML(note(t("data.conflict")), apply_default_css=False)
            self.reload = gr.Button(t("data.conflict.reload"), size="sm", elem_id="conflict-reload", min_width=0)
            self.keep = gr.Button(t("data.conflict.keep"), size="sm", elem_id="conflict-keep", min_width=0)
        self.table = RowEditor(self.page.language, held=self.page.edits.held, waiting=True, elem_id="rows")

    def _build_side(self) -> None:
        t = self.page.t
        first = self._first_identity()
        with gr.Column(elem_classes="oc-card"):
            with gr.Row(elem_classes="oc-head-row"):
                heading(t("identity.title"), t("identity.note"))
                self.make = gr.Button(t("makers.open"), size="sm", min_width=0, elem_id="make-rows")
            with gr.Row():
                self.name_zh = self._identity_box("name", "zh", first.name_zh)
                self.name_en = self._identity_box("name", "en", first.name_en)
            with gr.Row():
                self.author_zh = self._identity_box("author", "zh", first.author_zh)
                self.author_en = self._identity_box("author", "en", first.author_en)
        with gr.Column(elem_classes="oc-card"):
            self.doctor = Doctor(self.page)
        with gr.Column(elem_classes="oc-card"):
            heading(t("mix.title"), t("mix.note"))
            self.mixing = Mixing(self.page)
        with gr.Column(elem_classes="oc-card"):
            self.importing = Importing(self.page)
        self.next = gr.Button(t("data.next"), variant="primary", elem_id="to-train")
        self.row_panel = RowPanel(self.page, elem_id="row-panel")

    def _identity_box(self, what: str, language: str, value: str) -> gr.Textbox:
        label = {
            ("name", "zh"): "identity.name_zh",
            ("name", "en"): "identity.name_en",
            ("author", "zh"): "identity.author_zh",
            ("author", "en"): "identity.author_en",
        }[what, language]
        ids = f"identity-{what}-{language}"
        return gr.Textbox(value, label=self.page.t(label), max_lines=1, min_width=80, elem_id=ids)

    def _first_identity(self) -> Identity:
        """Of the table that a page is opened with: boxes that have it already tell of no edit then."""
        for name in self.page.workspace.datasets():
            with contextlib.suppress(UserError):
                return self.page.edits.stored(name).identity
        return Identity()

    @property
    def identity(self) -> list[gr.Textbox]:
        """The four boxes in the order of Identity's fields."""
        return [self.name_zh, self.name_en, self.author_zh, self.author_en]

    @property
    def opened(self) -> list[gr.components.Component | gr.Row]:
        """What changes when a table is opened."""
        return [self.picker, self.shown, self.table, *self.identity, self.importing.exports, self.conflict]

    @property
    def held(self) -> list[gr.components.Component]:
        """The table as the browser has it, in the order of `table_of`."""
        return [self.shown, self.table, *self.identity]

    @property
    def saved(self) -> list[gr.components.Component | gr.Row]:
        """What changes when the table was stored."""
        return [self.table, self.conflict]

    def wire(self, demo: gr.Blocks, form: fields.Form) -> None:
        """Connect the tab; the health check reads the training form, whose limits it checks against."""
        safe_call, held = self.page.shown, self.held
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        opens = {"outputs": self.opened, **quiet}

        self.doctor.wire(self, form)
        self.check = check = self.mixing.beside(self.doctor.check)
        self.mixing.wire(self.shown, form)
        opened = demo.load(safe_call(self.on_load), None, **opens)
        opened.then(**check)
        self.picker.input(safe_call(self.on_pick), [self.picker, *held], **opens).then(**check)
        # Not the boxes' `input`: gradio leaves it out for text that was pasted with the mouse or filled in by the browser.
        edits = [self.table.input, *(box.change for box in self.identity)]
        saved = self.saved
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

        self.importing.wire(self)
        self.row_panel.wire(demo, self, form)

    # Opening

    def on_load(self, request: gr.Request) -> Shown:
        """The page was opened: show the table that was edited last, of those that can be shown."""
        for name in self.page.workspace.datasets():
            with notify.told(self.page.language):
                return self._open(name, request)
        return self._open(self._create(), request)

    def on_pick(self, request: gr.Request, name: str, *held: object) -> Shown:
        """Another table was chosen; what was typed in this one is kept."""
        dataset = table_of(held)
        if not self._may_leave(request, dataset):
            return self._conflict(dataset.name)
        with notify.told(self.page.language):
            return self._open(name, request)
        return {self.picker: dataset.name}

    def on_new(self, request: gr.Request, typed: str | None, *held: object) -> Shown:
        """An empty table with the typed name and this table's identity."""
        dataset = table_of(held)
        if not (typed or "").strip():
            return {self.picker: dataset.name}
        if not self._may_leave(request, dataset):
            return self._conflict(dataset.name)
        made = self.page.workspace.create(typed.strip(), identity=dataset.identity).name
        self._say_name(typed.strip(), made)
        return self._open(made, request)

    def on_rename(self, request: gr.Request, typed: str | None, *held: object) -> Shown:
        """The shown table gets another name."""
        dataset = table_of(held)
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
            self.importing.exports: self.importing.links(name),
            self.conflict: gr.update(visible=False),
        }

    def _create(self) -> str:
        return self.page.workspace.create(self.page.t("data.untitled")).name

    def show_row(self, request: gr.Request, name: str, row: int, *held: object) -> Shown:
        """Open a table at one of its rows; what was typed in the shown one is kept."""
        dataset = table_of(held)
        if not self._may_leave(request, dataset):
            return self._conflict(dataset.name)
        shown = {} if name == dataset.name else self._open(name, request)
        update = shown.get(self.table, gr.update())
        return {**shown, self.table: {**update, "reveal": reveal(name, row)}}

    def put_rows(self, request: gr.Request, rows_after: Sequence[Row], why: Text, *held: object) -> Put:
        """Make the shown table hold `rows_after` and store it, as one change that a person can undo in the table.

        `why` names the change in the table's history. `held` is what the event's inputs gave for `held`; the event's
        outputs are `opened`. Raises DatasetError, and changes nothing, for more rows than a table may have. Where
        another page changed the table meanwhile, nothing is changed either, the banner asks which one counts, and the
        answer's `problem` says it; so it does where the table is gone, and another one was opened.
        """
        return self.put_table(request, table_of(held).with_rows(rows_after), why, *held)

    def put_table(self, request: gr.Request, after: Dataset, why: Text, *held: object) -> Put:
        """As `put_rows`: rows and identity card of `after`; its name does not count."""
        dataset = table_of(held)
        if not self._listed(dataset.name):
            return Put(self._open(dataset.name, request), self.page.t("data.put.gone"))
        check_limits(after.rows)
        edits, session = self.page.edits, request.session_hash
        # What was typed last is a step of its own; another page may save before either.
        if not edits.save(session, dataset) or not edits.save(session, replace(after, name=dataset.name), why=why):
            return self._not_put(dataset.name)
        cells, now = card(after.identity), saved_now()
        shown = {
            self.table: gr.update(value=after.rows, identity=cells, dataset=dataset.name, saved=now),
            **dict(zip(self.identity, cells.values(), strict=True)),
            self.conflict: gr.update(visible=False),
        }
        return Put(shown)

    def _not_put(self, name: str) -> Put:
        return Put(self._conflict(name), self.page.t("data.put.conflict"))

    def leave_for(self, request: gr.Request, name: Callable[[], str], *held: object) -> Shown:
        """Open the table that `name` gives; what was typed in the shown one is kept."""
        dataset = table_of(held)
        if not self._may_leave(request, dataset):
            return self._conflict(dataset.name)
        return self._open(name(), request)

    def put_below(self, request: gr.Request, rows: Sequence[Row], why: Text, *held: object) -> Put:
        """As `put_rows`: `rows` below what was written in the shown table."""
        dataset = table_of(held)
        above = [row for row in dataset.rows if row != Row()]
        put = self.put_rows(request, [*above, *rows], why, *held)
        if not put.done or not rows:
            return put
        return Put({**put.shown, self.table: {**put.shown[self.table], "reveal": reveal(dataset.name, len(above))}})

    def put_new(self, request: gr.Request, name: str, rows: Sequence[Row], why: Text, *held: object) -> Put:
        """As `put_rows`: open a new table of `rows` under a free name like `name`, with this table's identity."""
        dataset = table_of(held)
        check_limits(rows)
        if not self._may_leave(request, dataset):
            return self._not_put(dataset.name)
        return Put(self._open(self.page.workspace.create(name, rows, dataset.identity, why).name, request))

    def on_elsewhere(self, request: gr.Request, shown: str, name: str | None) -> object:
        """Another tab of this page changed the table `name`: show it if it is the one that is open."""
        return self._open(name, request) if name and name == shown and self._listed(name) else gr.skip()

    # Saving

    def on_edit(self, request: gr.Request, *held: object) -> object:
        """A cell or the identity card changed: store it, unless another page stored something else meanwhile."""
        if getattr(held[1], "dataset", held[0]) != held[0]:
            # Another table is being opened: its rows are there and its name not yet, or the other way round.
            return gr.skip()
        if getattr(held[1], "lost", None):
            return {self.table: gr.update(saved=say_again(held[1]))}
        dataset = table_of(held)
        return self._saved(self.page.edits.save(request.session_hash, dataset), dataset, held[1])

    def on_keep(self, request: gr.Request, *held: object) -> Shown:
        """Store this page's version over the other page's."""
        dataset = table_of(held)
        stored = self.page.edits.save(request.session_hash, dataset, force=True, why=OVERWRITTEN)
        return self._saved(stored, dataset, held[1])

    def _saved(self, stored: bool, dataset: Dataset, sent: object) -> Shown:
        if not stored:
            return {self.conflict: gr.update(visible=True)}
        saved = saved_now(sent, self.page.edits.held.hold(dataset.rows))
        return {
            self.table: gr.update(saved=saved, identity=card(dataset.identity)),
            self.conflict: gr.update(visible=False),
        }


def table_of(held: Sequence[object]) -> Dataset:
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

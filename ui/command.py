"""The command dialog: a pasted command becomes settings after a yes; the form or a run becomes a command to copy.

Opened from the Train tab by the document's event onecard-command. What is read and shown is core.commands'; the html is
ui.command_draw's, and ui/static/command.js listens.
"""

from __future__ import annotations

import base64
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from core import storage
from core.commands import plan as plans
from core.commands import shown
from core.commands.apply import Applied, apply
from core.commands.place import Here
from core.commands.plan import Plan
from core.commands.shown import KINDS, Subject
from core.errors import UserError
from core.text import LANGUAGES, Text
from ui import command_draw, fields, locale, notify, pieces
from ui.page import Page

if TYPE_CHECKING:
    from ui.train import TrainTab

_STATIC = Path(__file__).parent / "static"
OPEN = "() => { document.dispatchEvent(new CustomEvent('onecard-command', {detail: {}})); return []; }"
_MOST_BYTES = 40_000_000
Shown = dict[object, object]


@dataclass(frozen=True)
class Waiting:
    """A plan whose model is on its way: filled in when it has arrived."""

    plan: Plan
    applied: Applied


class CommandDialog(gr.HTML):
    """Value: JSON of what to show. Events: pasted, agreed, asked and fetched; see `Commands`."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t
        words = {
            "apply": t("command.apply"), "applyFetch": t("command.apply.fetch"), "copied": t("command.copied"),
            "failed": t("command.failed"),
        }  # fmt: skip
        super().__init__(
            value="",
            html_template=command_draw.frame(page),
            js_on_load=pieces.with_labels(words, (_STATIC / "command.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'command.css').read_text('utf-8')}</style>",
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}


class Commands:
    """The button, the dialog and its handlers, over the Train tab's form."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.button = gr.Button(page.t("command.open"), size="sm", min_width=0, elem_id="command")

    def build(self) -> None:
        """Create the dialog where it is called; nothing of it is seen before it is opened."""
        self.dialog = CommandDialog(self.page, elem_id="command-dialog")
        self.waiting = gr.State(None)

    def wire(self, train: TrainTab) -> None:
        """Connect the dialog; `train` has the form that it fills and shows."""
        page, quiet = self.page, {"show_progress": "hidden", "api_visibility": "private"}
        form = [train.dataset, train.model, train.preset, *train.form.all]

        def on_agreed(event: gr.EventData) -> Shown:
            return self._agreed(train, event)

        def on_arrived(waiting: Waiting | None) -> Shown:
            return self._arrived(train, waiting)

        def on_asked(event: gr.EventData, table: str | None, *settings: object) -> str:
            return self._asked(train, str(event.run or ""), table, settings)

        def on_fetched(event: gr.EventData, table: str | None, *settings: object) -> str:
            return self._fetched(train, str(event.kind), str(event.run or ""), table, settings)

        self.button.click(None, None, None, js=OPEN, api_visibility="private")
        self.dialog.pasted(page.shown(self.on_pasted), [train.dataset], [self.dialog], **quiet)
        filled = [self.dialog, self.waiting, *form, *train.get.outputs]
        self.filled = self.dialog.agreed(page.shown(on_agreed), None, list(dict.fromkeys(filled)), **quiet)
        described = [train.dataset, *train.settings]
        self.dialog.asked(page.shown(on_asked), described, [self.dialog], **quiet)
        self.dialog.fetched(page.shown(on_fetched), described, [self.dialog], **quiet)
        # After the tab's own handler, which fills in the preset of a model that has arrived.
        train.arrived.then(page.shown(on_arrived), [self.waiting], [self.waiting, *form], **quiet)

    # A command pasted

    def on_pasted(self, event: gr.EventData, table: str | None) -> str:
        """Read a command and show what it would fill in; nothing is changed."""
        chosen, keep = str(event.table or ""), bool(event.keep)
        try:
            plan = self._plan(event, table)
        except UserError as error:
            return _told(view="plan", html="", said=error.of(self.page.language), ready=False)
        ready = plan.config is not None and plan.table is not None and bool(plan.table.rows)
        html = command_draw.draw_plan(self.page, plan, chosen, keep)
        return _told(view="plan", html=html, said="", ready=ready, here=plan.model_here)

    def _plan(self, event: gr.EventData, table: str | None = None) -> Plan:
        here = Here.of(self.page.workspace, table or "")
        return plans.plan(str(event.text or ""), here, str(event.table or ""), bool(event.keep))

    def _agreed(self, train: TrainTab, event: gr.EventData) -> Shown:
        """The yes: save its table, choose its model, fill in the form; a model that is not here is offered first."""
        try:
            plan = self._plan(event)
            chosen = self._choose(train, plan)
            applied = apply(plan, self.page.workspace)
        except UserError as error:
            return {self.dialog: _told(view="refused", said=error.of(self.page.language))}
        offered = gr.update(choices=self.page.workspace.datasets(), value=applied.table)
        answer = {**chosen, self.dialog: _told(view="done"), train.dataset: offered}
        if applied.config.model != self.page.workspace.model:
            notify.say(self.page.t("command.waiting", name=applied.config.model))
            return {**answer, self.waiting: Waiting(plan, applied)}
        return {**answer, **self._fill(train, plan, applied), self.waiting: None}

    def _choose(self, train: TrainTab, plan: Plan) -> Shown:
        """Choose the plan's model, or offer its download. Raises UserError where neither can be done."""
        workspace = self.page.workspace
        if plan.config is None or plan.config.model == workspace.model:
            return {}
        name = plan.config.model
        outputs = [train.model, train.preset, *train.form.all, *train.get.outputs]
        shown_now = dict(zip(outputs, train.on_typed_model(name), strict=True))
        if workspace.model != name and shown_now[train.get.name] != name:
            zh, en = (
                locale.t(language, "command.refused", name=name, chosen=workspace.model) for language in LANGUAGES
            )
            raise UserError(Text(zh, en))
        return shown_now

    def _arrived(self, train: TrainTab, waiting: Waiting | None) -> Shown:
        """A download has ended: fill in what waited for it."""
        if waiting is None or waiting.applied.config.model != self.page.workspace.model:
            return {self.waiting: waiting}
        return {**self._fill(train, waiting.plan, waiting.applied), self.waiting: None}

    def _fill(self, train: TrainTab, plan: Plan, applied: Applied) -> Shown:
        page = self.page
        made = [page.t("command.filled.table", name=name) for name in applied.made]
        what = [*made, page.t("command.filled.settings", tool=plan.tool)]
        notify.say(page.t("command.filled", what=page.t("list.comma").join(what)))
        return {
            train.preset: plan.preset,
            **dict(zip(train.form.all, fields.show(applied.config), strict=True)),
        }

    # A command shown

    def _subject(
        self, train: TrainTab, run: str, table: str | None, settings: tuple[object, ...]
    ) -> tuple[Subject, str]:
        workspace = self.page.workspace
        if run:
            found = workspace.run(run)
            return shown.of_run(found, workspace), self.page.t("command.of.run", title=found.title)
        subject = shown.of_form(workspace, table or "", train.config_of(*settings))
        return subject, self.page.t("command.of.form")

    def _asked(self, train: TrainTab, run: str, table: str | None, settings: tuple[object, ...]) -> str:
        """A run, or the form as it stands, as commands."""
        try:
            subject, title = self._subject(train, run, table, settings)
        except UserError as error:
            return _told(view="shown", html="", said=error.of(self.page.language), run=run)
        return _told(view="shown", html=command_draw.draw_shown(self.page, subject, title), said="", run=run)

    def _fetched(self, train: TrainTab, kind: str, run: str, table: str | None, settings: tuple[object, ...]) -> str:
        """The command and its rows as one zip."""
        wanted = next(known for known in KINDS if known == kind)
        try:
            subject, _ = self._subject(train, run, table, settings)
            packed = _packed(shown.files(wanted, subject))
            if len(packed) > _MOST_BYTES:
                zh, en = (locale.t(language, "command.large", most=_MOST_BYTES // 1_000_000) for language in LANGUAGES)
                raise UserError(Text(zh, en))
        except UserError as error:
            return _told(view="file", said=error.of(self.page.language))
        name = f"{storage.slug(subject.title, 'run')}-{kind}.zip"
        return _told(view="file", said="", name=name, content=base64.b64encode(packed).decode())


def _packed(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def _told(**said: object) -> str:
    return pieces.answer(**said)

"""The doctor's card on the Dataset tab: what was found, and a dialog with the rows, the mends and what these change."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from core import health
from core.advice import Finding, Mend
from core.config import TrainConfig
from core.dataset import Dataset
from core.doctor.mends import mended
from core.errors import ConfigError, UserError
from core.text import Text
from ui import doctor_draw, fields, findings, notify, pieces
from ui.findings import FindingList
from ui.page import Page
from ui.pieces import heading, note, safe
from ui.row_editor import reveal

if TYPE_CHECKING:
    from ui.data import DataTab

Shown = dict[object, object]
_STATIC = Path(__file__).parent / "static"
_REMEMBERED, _MOST_ROWS = 8, 120_000
# Settings that change what is found of a table; others are looked at again with the next edit.
_WATCHED = ("mix", "dataset_repeat", "max_length", "truncation_strategy")
_BODY = """
<dialog class="dr-dialog" aria-labelledby="dr-title">
  <header><h2 id="dr-title">{title}</h2><button type="button" data-act="close" aria-label="{close}">✕</button></header>
  <p data-is="said"></p>
  <div class="dr-list" data-is="list" tabindex="0"></div>
  <div class="dr-foot"><span class="dr-pages" data-is="pages"><button type="button" data-act="back">{back}</button>
    <span data-is="place"></span><button type="button" data-act="on">{on}</button></span>
    <span class="dr-acts" data-is="acts"></span></div>
</dialog>"""


@dataclass(frozen=True)
class Checked:
    """A table as it was when it was looked at, and what was found."""

    dataset: Dataset
    findings: tuple[Finding, ...]

    def finding(self, kind: str) -> Finding | None:
        """The finding of a kind."""
        return next((found for found in self.findings if found.kind == kind), None)


class Checks:
    """The last checks, so that the rows shown are those that were found. Any thread may ask."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._kept: dict[str, Checked] = {}
        # Another process must not take a page's old check for one of its own.
        self._name, self._count = secrets.token_hex(4), itertools.count()

    def keep(self, checked: Checked) -> str:
        """Remember a check; by what it is asked for again."""
        with self._guard:
            made = f"{self._name}-{next(self._count)}"
            self._kept[made] = checked
            while len(self._kept) > 1 and (len(self._kept) > _REMEMBERED or self._rows() > _MOST_ROWS):
                del self._kept[next(iter(self._kept))]
        return made

    def get(self, asked: object) -> Checked | None:
        """A check that is still remembered."""
        with self._guard:
            return self._kept.get(str(asked))

    def _rows(self) -> int:
        return sum(len(checked.dataset.rows) for checked in self._kept.values())


class DoctorDialog(gr.HTML):
    """Opens on the document's event onecard-doctor {check, kind, act}. Events: row, with the `row` to show; mend, with
    the `check`, `kind` and `act` to carry out."""

    def __init__(self, page: Page, checks: Checks, **rest: object) -> None:
        t = page.t
        words = {
            "place": t("doctor.place"),
            "close": t("doctor.close"),
            "cancel": t("ask.cancel"),
        }
        super().__init__(
            value="",
            html_template=_BODY.format(
                title=safe(t("health.title")),
                close=safe(t("doctor.close")),
                back=safe(t("doctor.back")),
                on=safe(t("doctor.on")),
            ),
            js_on_load=pieces.with_labels(words, (_STATIC / "doctor.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'doctor.css').read_text('utf-8')}</style>",
            server_functions=[_reader(page, checks)],
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """It has no value."""
        return {"type": "string"}


class Doctor:
    """The card and its dialog. `check` is the event that looks at the shown table again."""

    def __init__(self, page: Page) -> None:
        self.page, self._checks = page, Checks()
        self.check: dict[str, object] = {}
        heading(page.t("health.title"))
        self.findings = FindingList(note(page.t("health.waiting")), elem_id="findings")
        self.dialog = DoctorDialog(page, self._checks, elem_id="doctor", elem_classes="dr-host")

    def wire(self, data: DataTab, form: fields.Form) -> None:
        """Connect the card; the training form's settings are those that the table is checked under."""
        self._data, self._form = data, form
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        self.check = {"fn": shown(self.on_check), "inputs": [data.shown, *form.all], "outputs": [self.findings],
                      "trigger_mode": "always_last", **quiet}  # fmt: skip
        for list_of_rows in (self.findings, self.dialog):
            list_of_rows.row(shown(self.on_row), [data.shown], [data.table], **quiet)
        self.findings.fix(shown(self.on_fix), None, form.all, **quiet).then(**self.check)
        self.dialog.mend(shown(self.on_mend), data.held, data.opened, **quiet).then(**self.check)
        gr.on([form.components[name].change for name in _WATCHED], **self.check)

    def on_check(self, shown: str, *values: object) -> str:
        """Everything that is found of the stored table under the training form's settings."""
        workspace = self.page.workspace
        preset = workspace.default_preset.config
        try:
            config = fields.read(values, preset)
        except ConfigError:
            config = preset  # the form says what is wrong with it on its own tab
        checked = self._checked(self.page.edits.stored(shown), config)
        return findings.draw(self.page, checked.findings, check=self._checks.keep(checked))

    def _checked(self, dataset: Dataset, config: TrainConfig) -> Checked:
        try:
            return Checked(dataset, self.page.workspace.findings(dataset, config))
        except UserError as error:
            # A model or a mix that cannot be used: what is to be said of the rows alone can still be said.
            problem = Finding("bad", error.text, kind="settings")
            return Checked(dataset, (problem, *health.check(dataset, config, None)))

    def on_row(self, event: gr.EventData, shown: str) -> Shown:
        """Show a row of the table that is open."""
        return {self._data.table: gr.update(reveal=reveal(shown, findings.row_of(event)))}

    def on_fix(self, event: gr.EventData) -> dict[object, object]:
        """A finding's button: set what it says in the training form."""
        asked = findings.wanted(event)
        if asked:
            said = [fields.said(self.page.language, name, value) for name, value in asked.items()]
            notify.say(self.page.t("doctor.set", settings=self.page.t("list.comma").join(said)))
        return {self._form.components[name]: fields.shown(name, value) for name, value in asked.items()}

    def on_mend(self, request: gr.Request, event: gr.EventData, *held: object) -> object:
        """Carry out a mend on exactly the table that its changes were shown of."""
        from ui.data import table_of

        checked = self._checks.get(event.check)
        mend = _mend_of(checked, event.kind, event.act)
        if checked is None or mend is None or table_of(held) != checked.dataset:
            notify.warn(self.page.t("doctor.stale"))
            return gr.skip()
        done = mended(checked.dataset, mend)
        why = Text(f"体检：{mend.label.zh}", f"Doctor: {mend.label.en}")
        put = self._data.put_rows(request, done.dataset.rows, why, *held)
        if put.done:
            notify.say(self.page.t("doctor.done", what=self.page.of(done.summary)))
        else:
            notify.warn(put.problem)
        return put.shown


def _mend_of(checked: Checked | None, kind: object, act: object) -> Mend | None:
    finding = checked.finding(str(kind)) if checked is not None else None
    place = str(act)
    if finding is None or not place.isdecimal() or int(place) >= len(finding.mends):
        return None
    return finding.mends[int(place)]


def _reader(page: Page, checks: Checks) -> Callable[[dict[str, object]], dict[str, object]]:
    """What the browser asks for: a page of a finding's rows, or of what a mend would change. It only reads."""

    def look(asked: dict[str, object]) -> dict[str, object]:
        checked = checks.get(asked.get("check"))
        finding = checked.finding(str(asked.get("kind"))) if checked is not None else None
        if checked is None or finding is None:
            return {"said": page.t("doctor.stale"), "html": "", "total": 0, "acts": []}
        given = asked.get("first")
        first = max(0, given) if isinstance(given, int) else 0
        mend = _mend_of(checked, finding.kind, asked.get("act"))
        if mend is None:
            html, total = doctor_draw.draw_rows(page, checked.dataset, finding, first)
            acts = [page.of(offered.label) + "…" for offered in finding.mends]
            said = page.of(finding.text)
        else:
            done = mended(checked.dataset, mend)
            html, total = doctor_draw.draw_changes(page, done.changes, first)
            acts, said = [page.of(mend.label)], page.of(done.summary)
        rows = doctor_draw.PAGE_ROWS
        return {"said": said, "html": html, "total": total, "rows": rows, "acts": acts, "mend": mend is not None}

    return look

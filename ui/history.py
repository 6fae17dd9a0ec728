"""The history dialog: what became of a table, any version back, deleted tables back, and the data of two runs compared.

The browser asks for what it shows (ui/static/history.js); the html is ui.history_draw's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr

from core import difference
from core.dataset import Dataset, Row
from core.errors import DatasetError, UserError
from core.moments import moment
from core.run import Run
from core.text import Text
from core.versions import KEPT, KEPT_BYTES, Version
from ui import history_draw, notify, pieces
from ui.data import DataTab, Shown
from ui.history_draw import Part
from ui.page import Page
from ui.pieces import note, safe

_STATIC = Path(__file__).parent / "static"
_OPEN = "name => { document.dispatchEvent(new CustomEvent('onecard-history', {detail: {name}})); return []; }"
_NOW = "now:"
Asked = Mapping[str, object]
Answer = dict[str, object]


class HistoryPanel(gr.HTML):
    """The dialog; the document's event onecard-history opens it for the table `name` or the `run` that it names.

    Events: restore, with a `version` of the table that is open; back and forget, with the `history` of a deleted one.
    """

    def __init__(self, page: Page, **rest: object) -> None:
        words = {"failed": page.t("history.failed"), "cancel": page.t("ask.cancel")}
        super().__init__(
            value="",
            html_template=history_draw.frame(page),
            js_on_load=pieces.with_labels(words, (_STATIC / "history.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'history.css').read_text('utf-8')}</style>",
            server_functions=[_reader(page)],
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """It has no value."""
        return {"type": "string"}


def wire(page: Page, panel: HistoryPanel, data: DataTab) -> None:
    """Connect the dialog with the table that is open."""
    quiet = {"show_progress": "hidden", "api_visibility": "private"}

    def on_restore(request: gr.Request, event: gr.EventData, *held: object) -> Shown:
        """The open table as it was: a new version, which can be undone in the table as well."""
        name, tables = str(held[0]), page.workspace.tables
        number = int(event.version)
        version = next((one for one in tables.versions(name) if one.id == number), None)
        at = moment(version.at) if version else Text("", "")
        why = Text(zh=f"恢复第 {number} 版（{at.zh}）", en=f"Restored version {number} ({at.en})")
        put = data.put_table(request, tables.version(name, number), why, *held)
        if put.done:
            notify.say(page.t("history.restored", number=number))
        else:
            notify.warn(put.problem)
        return put.shown

    def on_back(request: gr.Request, event: gr.EventData, *held: object) -> Shown:
        """A deleted table is there again and open; what was typed in the one before is kept."""

        def name() -> str:
            returned = page.workspace.tables.bring_back(str(event.history)).name
            notify.say(page.t("history.returned", name=returned))
            return returned

        return data.leave_for(request, name, *held)

    def on_forget(event: gr.EventData) -> None:
        """A deleted table goes for good; the browser has asked."""
        notify.say(page.t("history.forgotten", name=page.workspace.tables.forget(str(event.history)).name))

    kept = page.shown(data.on_edit)
    # What was typed a moment ago is in the history by the time it opens.
    data.past.click(kept, data.held, data.saved, **quiet).then(
        None, [data.shown], None, js=_OPEN, api_visibility="private"
    )
    panel.forget(page.shown(on_forget), None, None, **quiet)
    for event, handler in ((panel.restore, on_restore), (panel.back, on_back)):
        event(page.shown(handler), data.held, data.opened, **quiet).then(**data.check)


def _reader(page: Page) -> object:
    """The function that the browser asks, with one page's workspace and words."""
    reading = _Reading(page)

    # Gradio sets an attribute on server functions, which a bound method forbids.
    def past(asked: dict[str, object]) -> Answer:
        return reading.answer(asked)

    return past


class _Reading:
    """What the dialog shows, for whoever may see the page; a question without sense is answered with a sentence."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._compared: tuple[object, list[Part]] | None = None

    def answer(self, asked: Asked) -> Answer:
        """{title, note, list, body} as html and text; `body` is the reason where that cannot be shown."""
        try:
            if asked.get("run"):
                return self._run(str(asked["run"]), str(asked.get("pick") or ""), _start(asked))
            return self._table(str(asked.get("name") or ""), asked)
        except UserError as error:
            return {
                "title": self.page.t("history.title"),
                "note": "",
                "list": "",
                "body": note(self.page.of(error.text)),
            }

    # -- a table's versions --

    def _table(self, name: str, asked: Asked) -> Answer:
        page, tables = self.page, self.page.workspace.tables
        versions = tables.versions(name)
        told = [version for version in versions if version.is_change]
        picked = str(asked.get("pick") or "")
        chosen = next((one for one in versions if str(one.id) == picked), (told or versions)[0])
        return {
            "title": page.t("history.of", name=name),
            "note": page.t("history.kept", count=KEPT, size=pieces.show_bytes(KEPT_BYTES)),
            "list": history_draw.versions_list(page, versions, chosen.id, tables.deleted()),
            "body": self._version(name, versions, chosen, str(asked.get("other") or ""), _start(asked)),
        }

    def _version(self, name: str, versions: list[Version], chosen: Version, other: str, start: int) -> str:
        page, tables = self.page, self.page.workspace.tables
        earlier = next((one for one in versions if one.id < chosen.id), None)
        partner = next((one for one in versions if str(one.id) == other and one.id != chosen.id), earlier)
        head = self._version_head(name, versions, chosen, partner)
        try:
            now = tables.version(name, chosen.id)
            if partner is None:
                old, new = Dataset(name, (), now.identity), now
            else:
                then = tables.version(name, partner.id)
                old, new = (then, now) if partner.id < chosen.id else (now, then)
        except DatasetError as error:
            return head + note(page.of(error.text))
        key = name, partner.sha256 if partner else "", chosen.sha256, chosen.id
        if self._compared is None or self._compared[0] != key:
            t, found = page.t, difference.compare(old, new)
            self._compared = (key, [Part(found, t("history.removed"), t("history.added"), t("history.changed"))])
        return head + history_draw.draw(page, self._compared[1], start)

    def _version_head(self, name: str, versions: list[Version], chosen: Version, partner: Version | None) -> str:
        page, t = self.page, self.page.t
        made = history_draw.titles(page, versions)
        facts = t("history.facts", number=chosen.id, at=page.of(moment(chosen.at)), rows=chosen.rows)
        options = "".join(
            f'<option value="{one.id}"{" selected" if one is partner else ""}>'
            f"{safe(t('history.option', number=one.id, at=page.of(moment(one.at)), why=made[one.id]))}"
            "</option>"
            for one in versions
            if one.id != chosen.id and (one.is_change or one is partner)
        )
        choose = (
            f'<label>{safe(t("history.against"))}<select data-is="other">{options}</select></label>' if options else ""
        )
        restore = ""
        if chosen.id != versions[0].id:
            ask = {"title": t("history.restore.ask", number=chosen.id, name=name), "ok": t("history.restore")}
            words = safe(t("history.restore"))
            restore = (
                f'<button type="button" class="hi-button" data-restore="{chosen.id}" data-ask="{safe(json.dumps(ask))}">'
                f"{words}</button>"
            )
        why = safe(made[chosen.id])
        digest = f'<code title="SHA-256 {chosen.sha256}">{chosen.sha256[:12]}</code>'
        return f'<div class="hi-head"><p><b>{why}</b><small>{safe(facts)} · {digest}</small></p>{restore}{choose}</div>'

    # -- a run's data --

    def _run(self, asked: str, pick: str, start: int) -> Answer:
        page, workspace = self.page, self.page.workspace
        run, names = workspace.run(asked), workspace.datasets()
        others = [other for other in workspace.runs() if other.id != run.id]
        tables = [run.dataset] if run.dataset in names else []
        near = [other for other in others if other.dataset == run.dataset and other.created < run.created]
        usual = near[0].id if near else f"{_NOW}{run.dataset}" if tables else next((other.id for other in others), "")
        chosen = pick if pick in [*(f"{_NOW}{name}" for name in tables), *(other.id for other in others)] else usual
        return {
            "title": page.t("history.run", title=run.title),
            "note": page.t("history.run.note"),
            "list": history_draw.runs_list(page, run, others, chosen, tables),
            "body": self._run_body(run, chosen, start),
        }

    def _run_body(self, run: Run, chosen: str, start: int) -> str:
        t, mine = self.page.t, run.table
        head = self._run_head(run, len(mine.rows))
        if not chosen:
            return head + note(t("history.alone"))
        if chosen.startswith(_NOW):
            name = chosen.removeprefix(_NOW)
            title, first, said = t("history.table.now", name=name), True, ""
            if mixed := run.config.mix:
                said = note(t("history.mixed", mix=mixed))
            table = self.page.workspace.dataset(name)
            # What is not given in one language is taught in the other's spelling; so the run says it.
            now = Dataset(name, table.resolved(), table.identity.filled)
            parts = self._parts((mine, now), ((), ()), (run.title, title))
        else:
            other = self.page.workspace.run(chosen)
            title, said, first = other.title, "", run.created <= other.created
            two = (run, other) if first else (other, run)
            names = two[0].title, two[1].title
            key = two[0].id, two[1].id, *names
            if self._compared is None or self._compared[0] != key:
                tables, mixes = (two[0].table, two[1].table), (two[0].mixed, two[1].mixed)
                self._compared = (key, self._parts(tables, mixes, names))
            parts = self._compared[1]
        old, new = (run.title, title) if first else (title, run.title)
        way = f'<p class="hi-way">{safe(t("history.way", old=old, new=new))}</p>'
        return head + way + said + history_draw.draw(self.page, parts, start)

    def _parts(
        self, tables: tuple[Dataset, Dataset], mixes: tuple[Sequence[Row], Sequence[Row]], names: tuple[str, str]
    ) -> list[Part]:
        """What differs between the rows of two tables, and between what was mixed in."""
        t = self.page.t
        gone, come = (t("history.only", name=name) for name in names)
        own = Part(difference.compare(*tables), gone, come, t("history.changed"))
        if not any(mixes):
            return [own]
        gone, come = (t("history.mixed.only", name=name) for name in names)
        found = difference.compare(*(Dataset("", tuple(rows)) for rows in mixes))
        found = replace(found, moved=0)  # drawn at random: their order says nothing
        return [own, Part(found, gone, come, t("history.mixed.changed"), "history.row.mixed")]

    def _run_head(self, run: Run, rows: int) -> str:
        page, t, stamp = self.page, self.page.t, run.version
        facts = [history_draw.told(page, run), t("history.rows", rows=rows)]
        if run.config.mix:
            facts.append(t("history.mix", mix=run.config.mix))
        digest = f' · <code title="SHA-256 {safe(stamp.sha256)}">{safe(stamp.sha256[:12])}</code>' if stamp else ""
        said = "" if stamp else note(t("history.unknown"))
        lines = safe(" · ".join(facts))
        return f'<div class="hi-head"><p><b>{safe(run.title)}</b><small>{lines}{digest}</small></p></div>{said}'


def _start(asked: Asked) -> int:
    start = asked.get("start")
    return start if isinstance(start, int) and start > 0 else 0

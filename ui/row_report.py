"""The rows of a run's table, un-learned ones first: how surely the model says each answer now, and before.

Click on a row shows it in the table; the rows that are not learned can be trained on for a few more steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from core import further
from core.errors import UserError
from core.row_report import Level, RowLoss, RowReport
from core.run import Run
from ui import notify
from ui.live import Live, LivePieces
from ui.page import Page
from ui.pieces import note, safe, tag

_SCRIPT = """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  const run = props.value || '';
  if (button.dataset.row) return trigger('row', {run, row: Number(button.dataset.row)});
  if (button.dataset.act === 'measure') trigger('measure', {run});
  if (button.dataset.act === 'stop') trigger('stop', {run});
  if (button.dataset.act === 'more') trigger('more', {run});
});
"""
# level: how many, of one, class of the tag
_LEVELS: dict[Level, tuple[str, str, str]] = {
    "learned": ("rows.learned", "rows.learned.one", "ok"),
    "partly": ("rows.partly", "rows.partly.one", "warn"),
    "not": ("rows.not", "rows.not.one", "bad"),
}
_FIRST = 6  # rows that are seen at once
_MOST = 500  # rows that a page is sent


class RowCard(Live):
    """Value: a run's id. Events: row (`run`, `row`), measure, stop and more (`run`)."""

    def __init__(self, page: Page, together: LivePieces, elem_id: str, **rest: object) -> None:
        self.shown_on = page
        super().__init__(together, elem_id, mark=self._mark, draw=self._draw, script=_SCRIPT, **rest)

    def wire(self) -> None:
        """What the card does by itself; `row` and `more` change other parts of the page."""
        shown, quiet = self.shown_on.shown, {"show_progress": "hidden", "api_visibility": "private"}
        self.measure(shown(self.on_measure), None, None, concurrency_limit=None, **quiet)
        self.stop(shown(self.on_stop), None, None, concurrency_limit=None, **quiet)

    def on_measure(self, event: gr.EventData) -> None:
        """Measure the rows of a run now."""
        workspace = self.shown_on.workspace
        workspace.row_reports.make(workspace.run(str(event.run)))

    def on_stop(self, event: gr.EventData) -> None:
        """Give up measuring."""
        self.shown_on.workspace.row_reports.stop(str(event.run))

    def _run(self, run_id: str) -> Run | None:
        return next((run for run in self.shown_on.workspace.runs() if run.id == run_id), None)

    def _mark(self, run_id: str) -> str:
        run, reports = self._run(run_id), self.shown_on.workspace.row_reports
        if run is None:
            return ""
        report, making = reports.of(run), reports.making(run_id)
        # A state that begins with "running" is asked for again soon.
        begun = "running" if run.status == "running" or making else run.status
        return f"{begun} {making} {run.live} {id(report) if report else ''}"

    def _draw(self, run_id: str) -> str:
        run, reports, t = self._run(run_id), self.shown_on.workspace.row_reports, self.shown_on.t
        if run is None:
            return ""
        if reports.making(run_id):
            return f'<div class="oc-rows-head">{note(t("rows.making"))}{_button("stop", t("rows.stop"))}</div>'
        report = reports.of(run)
        if report is not None:
            return draw(self.shown_on, report, can_train=not run.live, numbers=_numbers(self.shown_on, run, report))
        if run.live or run.adapter is None:
            return note(t("rows.waiting"))
        return f'<div class="oc-rows-head">{note(t("rows.none"))}{_button("measure", t("rows.measure"))}</div>'


def draw(page: Page, report: RowReport, can_train: bool, numbers: Mapping[int, int]) -> str:
    """The table: counts, what to do, a line a row. `numbers`: in the dataset, by the row's place in the run."""
    t, total = page.t, len(report.rows)
    found = {level: report.count(level) for level in _LEVELS}
    counts = [tag(t(_LEVELS[level][0], count=n), _LEVELS[level][2] if n else "") for level, n in found.items()]
    act = _button("more", t("rows.more")) if can_train else ""
    scale = max((max(row.before, row.after) for row in report.rows), default=0.0) or 1.0
    lines = [_line(page, row, scale, numbers.get(row.index)) for row in report.rows[:_MOST]]
    rest = lines[_FIRST:]
    folded = (
        f'<details><summary>{safe(t("rows.rest", count=len(rest)))}</summary><ul class="oc-rowlist">{"".join(rest)}</ul>'
        f"</details>"
        if rest
        else ""
    )
    left = (
        note(t("rows.sample", shown=min(total, _MOST), total=report.total)) if report.total > min(total, _MOST) else ""
    )
    return (
        f'<div class="oc-rows-head"><span class="oc-rows-counts">{"".join(counts)}</span>{act}</div>'
        f'<ul class="oc-rowlist">{"".join(lines[:_FIRST])}</ul>{folded}{left}'
        f'<div class="oc-rows-key"><span><i class="before"></i>{safe(t("rows.before"))}</span>'
        f'<span><i class="after"></i>{safe(t("rows.after"))}</span><span>{safe(t("rows.meaning"))}</span></div>'
    )


def place_of(page: Page, run: Run, index: int) -> tuple[str, int] | None:
    """(dataset, row) where the run's row stands now: the same row, else the one that asks the same; None if it is gone."""
    if run.dataset not in page.workspace.datasets() or not 0 <= index < len(rows := run.rows):
        return None
    row, table = rows[index], page.workspace.dataset(run.dataset)
    plain = [(i, there.resolved(table.identity)) for i, there in enumerate(table.rows)]
    same = [i for i, there in plain if there == row]
    asked = [i for i, there in plain if (there.question, there.history) == (row.question, row.history)]
    return next(((run.dataset, i) for i in (*same, *asked)), None)


def train_further(page: Page, adapter: str, dataset: str) -> Run:
    """Start a few more steps from an adapter towards what a dataset says now. Raises UserError."""
    run = further.start(page.workspace, adapter, dataset)
    notify.say(page.t("rows.further", steps=run.config.steps(len(run.rows)), title=run.title))
    return run


def _button(act: str, words: str) -> str:
    return f'<button type="button" class="oc-do" data-act="{act}">{safe(words)}</button>'


def _numbers(page: Page, run: Run, report: RowReport) -> dict[int, int]:
    """The rows' numbers in the dataset as it is now: a run of a few more steps has its rows many times. Others are gone."""
    try:
        table = page.workspace.dataset(run.dataset)
    except UserError:  # deleted, renamed or damaged: the Dataset tab says so
        return {}
    plain = [row.resolved(table.identity) for row in table.rows]
    same = {row: number for number, row in reversed([*enumerate(plain, 1)])}
    asked = {(row.question, row.history): number for number, row in reversed([*enumerate(plain, 1)])}
    found = {each.index: same.get(each.row) or asked.get((each.row.question, each.row.history)) for each in report.rows}
    return {index: number for index, number in found.items() if number is not None}


def _line(page: Page, row: RowLoss, scale: float, number: int | None) -> str:
    t = page.t
    _, key, kind = _LEVELS[row.level]
    word = t("rows.word", word=row.word) if row.word else t("rows.end")
    unsure = (
        "" if row.level == "learned" else f"<em>{safe(t('rows.unsure', word=word, chance=f'{row.chance:.0%}'))}</em>"
    )
    held = "" if row.trained else tag(t("rows.held"))
    widths = {"before": row.before, "after": row.after}
    bars = "".join(f'<i class="{name}" style="width:{_share(loss, scale)}"></i>' for name, loss in widths.items())
    losses = f"{row.before:.2f} → {row.after:.2f}"
    title = t("rows.show", row=number) if number else t("rows.gone")
    return (
        f'<li class="{kind}"><button type="button" data-row="{row.index}" title="{safe(title)}">'
        f'<span class="nr">{number or "–"}</span><span class="qa"><b>{safe(row.row.question)}</b>'
        f"<small>{safe(row.row.output)}</small>{unsure}</span>"
        f'<span class="bars" aria-hidden="true">{bars}</span><span class="loss">{losses}</span>'
        f'<span class="level">{tag(t(key), kind)}{held}</span></button></li>'
    )


def _share(loss: float, scale: float) -> str:
    return f"{100 * max(0.0, min(1.0, loss / scale)):.1f}%"

"""Two runs side by side: what was set otherwise, what rows differ, their curves in one chart, proofs, ends and speeds.

Opened from the list of runs by the document's event onecard-compare; ui/static/run_compare.js asks and draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import gradio as gr

from core import run_difference
from core.config import fact_of
from core.difference import Difference
from core.errors import UserError
from core.fact import Value
from core.moments import moment
from core.proof import Proof, Test
from core.run import Run
from core.run_difference import DataDifference, Outcome
from ui import fields, history_draw, pieces, plots, proof_draw, runs
from ui.page import Page
from ui.pieces import note, safe, show_bytes, show_seconds, tag

_STATIC = Path(__file__).parent / "static"
Pair = tuple[Run, Run]
Answer = dict[str, object]


class RunCompare(gr.HTML):
    """The dialog; it has no value. The document's event onecard-compare opens it for the `run` that it names."""

    def __init__(self, page: Page, **rest: object) -> None:
        t = page.t
        words = {"failed": t("versus.failed"), "drawing": t("versus.drawing"), "nochart": t("versus.nochart")}
        super().__init__(
            value="",
            html_template=_frame(page),
            js_on_load=pieces.with_labels(words, (_STATIC / "run_compare.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'run_compare.css').read_text('utf-8')}</style>",
            server_functions=_reading_functions(page),
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """It has no value."""
        return {"type": "string"}


def _frame(page: Page) -> str:
    t = page.t
    close, which = safe(t("history.close")), safe(t("versus.list"))
    return (
        '<dialog class="hi rc" aria-labelledby="rc-title"><header><h2 id="rc-title" data-is="title"></h2>'
        f'<span data-is="note"></span><button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button>'
        f'</header><div class="hi-both"><nav data-is="list" aria-label="{which}"></nav>'
        '<div class="hi-body" tabindex="-1"><div data-is="head" aria-live="polite"></div>'
        f'<section class="rc-chart" data-is="chart" hidden><h3>{safe(t("versus.curves"))}</h3>'
        '<div data-is="plot" role="img"></div>'
        f'<p class="rc-acts"><button type="button" class="hi-button" data-save="svg">{safe(t("versus.svg"))}</button>'
        f'<button type="button" class="hi-button" data-save="png">{safe(t("versus.png"))}</button>'
        f'<button type="button" class="hi-button" data-save="csv">{safe(t("versus.csv"))}</button></p></section>'
        '<div data-is="body"></div></div></div></dialog>'
    )


def _reading_functions(page: Page) -> list[Callable[[dict[str, object]], Answer]]:
    """What the browser asks for; they only read, and answer a question without sense with a sentence."""

    # Gradio sets an attribute on server functions, which a bound method forbids.
    def two(asked: dict[str, object]) -> Answer:
        try:
            return answer(page, asked)
        except UserError as error:
            said = note(page.of(error.text))
            return {"title": page.t("versus.title"), "note": "", "list": "", "head": said, "body": "", "chart": None}

    def points(asked: dict[str, object]) -> Answer:
        try:
            found = [page.workspace.run(str(asked.get(name) or "")) for name in ("run", "pick")]
        except UserError:
            return {"csv": ""}
        return {"csv": run_difference.losses_csv(found)}

    return [two, points]


def answer(page: Page, asked: Mapping[str, object]) -> Answer:
    """{title, note, list, head, body} as text and html, `chart` as plotly reads it, and the `pick` that was compared with.

    Raises DatasetError for a run that is not there.
    """
    run = page.workspace.run(str(asked.get("run") or ""))
    others = [other for other in page.workspace.runs() if other.id != run.id]
    near = [other for other in others if other.dataset == run.dataset and other.created < run.created]
    pick = next((other for other in others if other.id == asked.get("pick")), next(iter([*near, *others]), None))
    title = page.t("versus.of", title=run.title)
    if pick is None:
        rows = _rows_button(page, run, None)
        return {
            "title": title, "note": "", "list": "", "head": note(page.t("history.alone")) + rows, "body": "",
            "chart": None, "pick": "",
        }  # fmt: skip
    pair = (run, pick) if run.created <= pick.created else (pick, run)
    return {
        "title": title,
        "note": page.t("versus.note"),
        "list": history_draw.runs_list(page, run, others, pick.id, ()),
        "head": _head(page, pair),
        "body": "".join(draw(page, pair, run)),
        "chart": chart(page, pair, asked.get("dark") is True),
        "pick": pick.id,
    }


def chart(page: Page, pair: Sequence[Run], dark: bool) -> Answer | None:
    """Both curves as plotly's data and layout; None where neither run has a point."""
    names = titles(page, pair)
    curves = [
        plots.Curve(name, run_difference.losses(run), run_difference.losses(run, "evaluated"))
        for run, name in zip(pair, names, strict=True)
    ]
    if not any(curve.training for curve in curves):
        return None
    words = plots.Words(page.t("versus.axis.step"), page.t("versus.axis.loss"), page.t("versus.evaluation"))
    figure: Answer = json.loads(plots.compare_runs(curves, dark, words).to_json())
    return figure


def titles(page: Page, pair: Sequence[Run]) -> list[str]:
    """The runs' titles; with the time where they are the same."""
    if pair[0].title != pair[1].title:
        return [run.title for run in pair]
    return [f"{run.title} · {page.of(moment(run.created))}" for run in pair]


def draw(page: Page, pair: Pair, run: Run) -> list[str]:
    """The sections under the chart as html: settings, data, proof, end and speed."""
    t, heads = page.t, [safe(name) for name in titles(page, pair)]
    outcomes = run_difference.outcome(pair[0]), run_difference.outcome(pair[1])
    sections = (
        ("versus.settings", _settings(page, pair, heads)),
        ("versus.data", _data(page, pair, run)),
        ("versus.proof", _proofs(page, pair, heads)),
        ("versus.outcome", _outcomes(page, outcomes, heads)),
    )
    return [f"<section><h3>{safe(t(key))}</h3>{html}</section>" for key, html in sections]


def _head(page: Page, pair: Pair) -> str:
    """Both runs, the older first, each with the colour of its curve."""
    lines = "".join(
        f'<li><i class="rc-key rc-{place}" aria-hidden="true"></i><b>{safe(run.title)}</b>'
        f"<small>{safe(page.of(moment(run.created)))} · {safe(run.config.model)}</small>{runs.status_tag(page, run)}</li>"
        for place, run in zip(("first", "second"), pair, strict=True)
    )
    return f'<ol class="rc-pair">{lines}</ol>'


def _table(heads: Sequence[str], rows: Sequence[tuple[str, str, str]], label: str) -> str:
    """Rows of (name, first, second), as html, under the titles of both runs."""
    above = "".join(f'<th scope="col">{head}</th>' for head in heads)
    lines = "".join(
        f'<tr><th scope="row">{name}</th><td>{first}</td><td>{second}</td></tr>' for name, first, second in rows
    )
    return (
        f'<div class="rc-wide"><table class="rc-table"><caption class="rc-heard">{safe(label)}</caption>'
        f"<thead><tr><td></td>{above}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


# -- settings and data --


def _settings(page: Page, pair: Pair, heads: Sequence[str]) -> str:
    found = run_difference.changed_settings(*pair)
    if not found:
        return note(page.t("versus.settings.same"))
    rows = []
    for one in found:
        name = f"{safe(page.of(fact_of(one.name).label))}<small>{safe(one.name)}</small>"
        cells = [_value(page, one.name, value, one.default) for value in (one.first, one.second)]
        rows.append((name, cells[0], cells[1]))
    return _table(heads, rows, page.t("versus.settings"))


def _value(page: Page, name: str, value: Value, default: Value) -> str:
    said = fields.word(page.language, name, value)
    html = safe(said) if said else f"<em>{safe(page.t('versus.empty'))}</em>"
    return html + (f" {tag(page.t('versus.default'))}" if value == default else "")


def _data(page: Page, pair: Pair, run: Run) -> str:
    found, t = run_difference.data(*pair), page.t
    other = pair[1] if run is pair[0] else pair[0]
    button = _rows_button(page, run, other)
    if found.same:
        return note(t("versus.data.same", rows=f"{found.rows[0]:,}")) + button
    tags = _counts(page, found)
    said = t("versus.data.rows", first=f"{found.rows[0]:,}", second=f"{found.rows[1]:,}")
    return f'<p class="rc-line">{safe(said)} {tags}</p>{button}'


def _counts(page: Page, found: DataDifference) -> str:
    def counted(one: Difference) -> str:
        said = (
            (len(one.changed), "history.changed.tag", "warn"),
            (len(one.added), "history.added.tag", "ok"),
            (len(one.removed), "history.removed.tag", "bad"),
            (one.moved, "history.moved.tag", ""),
        )
        return "".join(tag(page.t(key, count=count), kind) for count, key, kind in said if count)

    html = counted(found.own) + (tag(page.t("history.card"), "base") if found.own.cards else "")
    mixed = counted(found.mixed)
    return html + (f" {safe(page.t('versus.data.mixed'))} {mixed}" if mixed else "")


def _rows_button(page: Page, run: Run, other: Run | None) -> str:
    pick = f' data-pick-rows="{safe(other.id)}"' if other is not None else ""
    return (
        f'<p class="rc-acts"><button type="button" class="hi-button" data-rows="{safe(run.id)}"{pick}>'
        f"{safe(page.t('versus.rows'))}</button></p>"
    )


# -- what came of it --


def _proofs(page: Page, pair: Pair, heads: Sequence[str]) -> str:
    found = [page.workspace.proofs.of(run.id) for run in pair]
    if not any(found):
        return note(page.t("versus.proof.none"))
    rows = [(safe(page.t("versus.verdict")), *[_verdict(page, proof) for proof in found])]
    kinds = {test.id: test.name for proof in found if proof for test in proof.tests}
    for kind, name in kinds.items():
        tests = [proof.test(kind) if proof else None for proof in found]
        if any(test is not None and test.n for test in tests):
            rows.append((safe(page.of(name)), *[_test(page, test) for test in tests]))
    said = note(page.t("versus.proof.other")) if len({_ruler(proof) for proof in found if proof}) > 1 else ""
    return said + _table(heads, [(row[0], row[1], row[2]) for row in rows], page.t("versus.proof"))


def _ruler(proof: Proof) -> tuple[str, str, str]:
    """What proofs must share to be compared number by number."""
    return proof.suite, proof.model, proof.quantisation


def _verdict(page: Page, proof: Proof | None) -> str:
    if proof is None:
        return f"<em>{safe(page.t('versus.proof.missing'))}</em>"
    return f"{proof_draw.light_sign(page, proof.light)}{safe(page.of(proof.headline))}"


def _test(page: Page, test: Test | None) -> str:
    if test is None or not test.n:
        return "–"
    before = (
        f"<small>{safe(page.t('versus.base', hits=test.before, n=test.n))}</small>" if test.before is not None else ""
    )
    return f"{proof_draw.light_sign(page, test.light)}{safe(page.of(test.count))}{before}"


def _outcomes(page: Page, pair: tuple[Outcome, Outcome], heads: Sequence[str]) -> str:
    """How both went, in one table; lines that neither knows are left out."""
    lines: list[tuple[str, Callable[[Outcome], str]]] = [
        ("versus.status", lambda one: _status(page, one)),
        ("versus.steps", lambda one: f"{one.step:,} / {one.steps:,}" if one.steps else ""),
        ("versus.loss", _losses),
        ("versus.best", lambda one: _best(page, one)),
        ("versus.hits", lambda one: f"{one.hits[0]} / {one.hits[1]}" if one.hits else ""),
        ("versus.adapter", lambda one: page.t("versus.at", step=one.adapter_step) if one.adapter_step else ""),
        ("versus.time", lambda one: show_seconds(one.seconds) if one.seconds is not None else ""),
        ("versus.speed", lambda one: _speed(page, one)),
        ("versus.memory", lambda one: show_bytes(one.peak_memory_bytes) if one.peak_memory_bytes else ""),
        ("versus.device", lambda one: one.device),
    ]
    rows = []
    for key, read in lines:
        first, second = (read(one) for one in pair)
        if first or second:
            rows.append((safe(page.t(key)), safe(first or "–"), safe(second or "–")))
    rows += [(safe(name), safe(one), safe(two)) for name, one, two in run_difference.changed_versions(*pair)]
    return _table(heads, rows, page.t("versus.outcome"))


def _status(page: Page, one: Outcome) -> str:
    word = page.t(runs.STATUS[one.status][0])
    return page.t("versus.reason", word=word, reason=page.of(one.reason)) if one.reason else word


def _losses(one: Outcome) -> str:
    if one.first_loss is None or one.last_loss is None:
        return ""
    return f"{one.first_loss:.4f} → {one.last_loss:.4f}"


def _best(page: Page, one: Outcome) -> str:
    if one.best_evaluation is None:
        return ""
    step, loss = one.best_evaluation
    return f"{loss:.4f} · {page.t('versus.at', step=step)}"


def _speed(page: Page, one: Outcome) -> str:
    if one.tokens_per_second is None or one.seconds_per_step is None:
        return ""
    return page.t("versus.speed.value", tokens=f"{one.tokens_per_second:,.0f}", seconds=f"{one.seconds_per_step:.3g}")

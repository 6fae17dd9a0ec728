"""The row makers' dialog: rows from the identity card, other wordings by the base model; looked through, then added.

Drawn and listened to by ui/static/makers.js. What the browser sends back is checked like any edit of the table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import gradio as gr

from core import models, own_probes
from core.dataset import Dataset, Identity, Row, placeholders
from core.errors import ModelError, UserError
from core.makers import card_rows, paraphrase
from core.makers.card_rows import Made, Wishes
from core.models import POCKET
from core.own_probes import OwnProbe
from core.text import LANGUAGES, Language, Text
from ui import locale, notify, pieces
from ui.data import DataTab, table_of
from ui.page import Page
from ui.pieces import note, safe
from ui.rows import cells, clean

_STATIC = Path(__file__).parent / "static"
_FRAME = """
<dialog class="mk" aria-labelledby="mk-title" data-mode="card">
  <header><h2 id="mk-title">{title}</h2><span>{note}</span>
    <button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <nav role="tablist" aria-label="{title}"><button type="button" role="tab" data-mode="card" aria-selected="true">{by_card}</button>
    <button type="button" role="tab" data-mode="model" aria-selected="false">{by_model}</button></nav>
  <div class="mk-body"><form class="mk-form" data-is="card" autocomplete="off">
    <label>{count}<output data-is="count"></output>
      <input type="range" name="count" min="{fewest}" max="{most}" step="10" value="100"></label>
    <label>{languages}<output data-is="languages"></output>
      <input type="range" name="chinese" min="0" max="100" step="10" value="50"></label>
    <label>{does_zh}<input type="text" name="does_zh" maxlength="{longest}" placeholder="{does_zh_hint}"></label>
    <label>{does_en}<input type="text" name="does_en" maxlength="{longest}" placeholder="{does_en_hint}"></label>
    <label>{tone}<select name="tone">{tones}</select></label>
    <button type="button" data-act="again">{again}</button></form>
  <form class="mk-form" data-is="model" autocomplete="off" hidden>
    <div data-is="who"></div>
    <label>{rows}<input type="text" name="rows" maxlength="500" placeholder="{rows_hint}"></label>
    <p class="mk-note" data-is="chosen"></p>
    <label>{each}<output data-is="each"></output><input type="range" name="each" min="1" max="{most_each}" value="3"></label>
    <button type="button" class="first" data-act="start">{start}</button>
    <button type="button" data-act="stop" hidden>{stop}</button></form>
  <section class="mk-list"><p data-is="said" role="status" hidden></p>
    <div class="mk-way" data-is="way" hidden><span></span><b class="oc-bar" role="progressbar"><i></i></b></div>
    <div data-is="notes"></div>
    <div class="mk-pick" data-is="pick" hidden><button type="button" data-act="all">{all}</button>
      <button type="button" data-act="none">{none}</button></div>
    <ul data-is="rows"></ul></section></div>
  <div class="mk-foot"><label class="mk-held" data-is="held"><input type="checkbox" checked><span></span></label>
    <button type="button" data-act="held" aria-expanded="false">{held_show}</button>
    <button type="button" class="first" data-act="add" disabled></button></div>
</dialog>"""
_HINTS = {
    "does_zh_hint": "makers.does_zh.hint", "does_en_hint": "makers.does_en.hint", "rows_hint": "makers.rows.hint",
    "held_show": "makers.held.show",
}  # fmt: skip
_KEYS = {
    "count": "makers.count", "languages": "makers.languages", "does_zh": "makers.does_zh", "does_en": "makers.does_en",
    "tone": "makers.tone", "again": "makers.again", "rows": "makers.rows", "each": "makers.each", "start": "makers.start",
    "stop": "makers.stop", "all": "makers.all", "none": "makers.none", "title": "makers.title", "note": "makers.note",
    "close": "makers.close", "by_card": "makers.by_card", "by_model": "makers.by_model",
}  # fmt: skip
_TONES = {
    "plain": "makers.tone.plain", "warm": "makers.tone.warm", "formal": "makers.tone.formal", "brief": "makers.tone.brief",
}  # fmt: skip


class Makers(gr.HTML):
    """Value: what the dialog shall do, as JSON: {open}, {done}, {said, level} or {way, reworded}.

    Events: open (also the document's onecard-makers, with `mode` and `rows`), put, reword, cancel. Two reading functions:
    `preview` of rows from the card, and `places`, the rows that would be reworded.
    """

    def __init__(self, page: Page, **rest: object) -> None:
        self.shown_on, t = page, page.t  # gradio has a `page` of its own
        self._stops: dict[str, threading.Event] = {}
        words = {
            "languages": t("makers.languages.value", zh="{zh}", en="{en}"), "held": t("makers.held", count="{count}"),
            "add": t("makers.add", count="{count}"), "adding": t("makers.adding"), "failed": t("makers.failed"),
            "stopping": t("makers.stopping"), "preparing": t("makers.preparing"),
        }  # fmt: skip
        super().__init__(
            value="",
            html_template=_frame(page),
            js_on_load=pieces.with_labels(words, (_STATIC / "makers.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'makers.css').read_text('utf-8')}</style>",
            server_functions=_reading_functions(page),
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}

    def wire(self, data: DataTab) -> None:
        """Connect the dialog to the table that it adds to, and to the button that opens it."""
        shown, quiet = self.shown_on.shown, {"show_progress": "hidden", "api_visibility": "private"}

        def on_add(request: gr.Request, event: gr.EventData, *held: object) -> dict[object, object]:
            return self.on_add(data, request, event, *held)

        for opened in (data.make.click, self.open):
            opened(shown(self.on_open), [data.shown], [self], **quiet)
        added = self.put(shown(on_add), data.held, [self, *data.opened], **quiet)
        added.then(**data.check)
        for event in (added, self.reword(shown(self.on_reword), None, [self], **quiet)):
            event.failure(self.on_failed, None, [self], **quiet)
        self.cancel(shown(self.on_cancel), None, None, concurrency_limit=None, **quiet)

    def on_failed(self) -> str:
        """A fault of ours: its toast lies under the dialog, and what was pressed must not wait for ever."""
        return _told({"said": self.shown_on.t("makers.failed"), "level": "bad", "way": None})

    def on_open(self, shown: str) -> str:
        """Show the dialog for the table that is open."""
        page = self.shown_on
        base = page.workspace.active.config.model if page.workspace.active else page.workspace.model
        who = note(page.t("makers.model", model=base.rstrip("/").rpartition("/")[2]))
        if base == POCKET:
            who += f'<p class="mk-weak">{safe(page.t("makers.weak"))}</p>'
        return _told({"open": shown, "who": who})

    def on_add(self, data: DataTab, request: gr.Request, event: gr.EventData, *held: object) -> dict[object, object]:
        """Put the ticked rows below the table's, and keep the held-out questions if that was ticked."""
        page, dataset = self.shown_on, table_of(held)
        try:
            rows, probes = _sent(page, dataset, event)
            why = _both("makers.history.card" if event.mode == "card" else "makers.history.model", count=len(rows))
            above = [row for row in dataset.rows if row != Row()]
            put = data.put_rows(request, [*above, *rows], why, *held)
        except UserError as error:
            return {self: _told({"said": error.of(page.language), "level": "bad"})}
        if not put.done:
            return {**put.shown, self: _told({"said": put.problem, "level": "bad"})}
        said = page.t("makers.added", count=len(rows))
        try:
            if probes:
                own_probes.save(page.workspace.home, [*own_probes.load(page.workspace.home), *probes])
                said += f" {page.t('makers.added.probes', count=len(probes))}"
        except UserError as error:  # the rows are in, whatever becomes of the questions
            return {**put.shown, self: _told({"said": f"{said} {error.of(page.language)}", "level": "bad"})}
        notify.say(said)
        return {**put.shown, self: _told({"done": True})}

    def on_reword(self, request: gr.Request, event: gr.EventData) -> Iterator[str]:
        """Other wordings of the chosen rows, as the base model gives them."""
        page, stop = self.shown_on, threading.Event()
        session = str(request.session_hash)
        self._stops.pop(session, threading.Event()).set()
        self._stops[session] = stop
        try:
            table = _table(page, event.dataset)
            chosen = paraphrase.choose(table.rows, str(event.rows)).rows
            tested = card_rows.kept_back(own_probes.load(page.workspace.home))
            yield _told({"way": {"what": page.t("makers.preparing"), "share": 0}})
            found, last = None, 0.0
            for found in paraphrase.run(
                page.workspace.answer, table.rows, chosen, _whole(event.each, 3), table.identity, tested, stop
            ):
                # Only the last one matters: the browser has more to do than to draw each.
                if (found.tokens or found.waiting) and time.monotonic() - last > 0.3:
                    last = time.monotonic()
                    yield _told({"way": _way(page, found)})
            if found is not None:
                yield _told({"reworded": _reworded(page, table, found)})
        except UserError as error:
            yield _told({"said": error.of(page.language), "level": "bad", "way": None})
        finally:
            stop.set()  # also when the page was closed

    def on_cancel(self, request: gr.Request) -> None:
        """End the rewording; what was found stays."""
        self._stops.get(str(request.session_hash), threading.Event()).set()


def _frame(page: Page) -> str:
    tones = "".join(f'<option value="{tone}">{safe(page.t(key))}</option>' for tone, key in _TONES.items())
    words = {place: safe(page.t(key)) for place, key in {**_KEYS, **_HINTS}.items()}
    return _FRAME.format(
        **words, tones=tones, fewest=card_rows.FEWEST_ROWS, most=card_rows.MOST_ROWS, longest=card_rows.LONGEST_DOES,
        most_each=paraphrase.MOST_EACH,
    )  # fmt: skip


def _reading_functions(page: Page) -> list[Callable[[dict[str, object]], dict[str, object]]]:
    """What the browser asks for as things are moved: they only read."""

    known = Known()

    def preview(asked: dict[str, object]) -> dict[str, object]:
        return preview_of(page, asked, known)

    def places(asked: dict[str, object]) -> dict[str, object]:
        return places_of(page, asked)

    return [preview, places]


class Known:
    """What the table asks that was looked at last: to read 50,000 rows takes a second, and a slider moves often."""

    def __init__(self) -> None:
        self._of: tuple[tuple[Row, ...], Identity] = ((), Identity())
        self._asked: frozenset[str] = frozenset()

    def questions(self, table: Dataset) -> frozenset[str]:
        """As `card_rows.questions` of a table that nobody changes in place."""
        rows, identity = self._of
        if rows is not table.rows or identity != table.identity:
            self._asked, self._of = card_rows.questions(table.rows, table.identity), (table.rows, table.identity)
        return self._asked


def preview_of(page: Page, asked: Mapping[str, object], known: Known | None = None) -> dict[str, object]:
    """Rows from the identity card of a stored table: {rows: cells, html, notes, held, held_html} or {problem}."""
    try:
        table = _table(page, asked.get("dataset"))
        made = _make(page, table, asked, (known or Known()).questions(table))
    except UserError as error:
        return {"problem": error.of(page.language)}
    return {
        "rows": [cells(row) for row in made.rows],
        "html": "".join(
            _item(row, table.identity, f'<b class="mk-q">{safe(row.instruction)}</b>') for row in made.rows
        ),
        "notes": "".join(note(page.of(text)) for text in made.notes),
        "held": len(made.held_out),
        "held_html": note(page.t("makers.held.note"))
        + "".join(f'<li class="mk-held-out">{safe(probe.question)}</li>' for probe in made.held_out),
    }


def places_of(page: Page, asked: Mapping[str, object]) -> dict[str, object]:
    """Which rows of a stored table would be reworded: {said, count, html}, count 0 where none would."""
    try:
        table = _table(page, asked.get("dataset"))
        chosen = paraphrase.choose(table.rows, str(asked.get("rows") or "")[:500])
    except UserError as error:
        return {"said": error.of(page.language), "count": 0, "html": ""}
    said = page.t("makers.chosen", count=len(chosen.rows))
    if chosen.left_out:
        said += page.t("makers.left_out", count=chosen.left_out)
    lines = ((i + 1, table.rows[i]) for i in chosen.rows)
    listed = (
        f'<li class="mk-to-do"><small>{number}</small>{_filled(row.instruction, row, table.identity)}</li>'
        for number, row in lines
    )
    return {"said": said, "count": len(chosen.rows), "html": "".join(listed)}


def _make(page: Page, table: Dataset, asked: Mapping[str, object], known: Collection[str]) -> Made:
    wishes = Wishes(
        _whole(asked.get("count"), 100), _whole(asked.get("chinese"), 50), _line(asked.get("does_zh")),
        _line(asked.get("does_en")), str(asked.get("tone") or "plain"), _whole(asked.get("seed"), 0),  # type: ignore[arg-type]
    )  # fmt: skip
    old: tuple[str, ...] = ()
    with suppress(ModelError):
        old = models.old_words(models.inspect(page.workspace.model))
    words = tuple(word for word in old if word not in table.identity.words)
    return card_rows.make(table.identity, wishes, known, own_probes.load(page.workspace.home), words)


def _sent(page: Page, dataset: Dataset, event: gr.EventData) -> tuple[tuple[Row, ...], tuple[OwnProbe, ...]]:
    """The rows and questions that a `put` brings. Raises UserError for any other shape, or for none."""
    if getattr(event, "dataset", None) != dataset.name:
        raise UserError(_both("makers.elsewhere"))
    mode, wishes = (getattr(event, name, None) for name in ("mode", "wishes"))
    if mode not in ("card", "model") or not isinstance(wishes, Mapping):
        raise UserError(_both("makers.odd"))
    known = card_rows.questions(dataset.rows, dataset.identity)
    rows = card_rows.without_asked(clean(getattr(event, "rows", None)), known, dataset.identity)
    if not rows:
        raise UserError(_both("makers.nothing"))
    wanted = mode == "card" and getattr(event, "probes", False) is True
    probes = _make(page, dataset, wishes, known).held_out if wanted else ()
    return rows, probes


def _reworded(page: Page, table: Dataset, found: paraphrase.Paraphrases) -> dict[str, object]:
    """What the browser gets at the end: rows and their html, one line on it, and why wordings were left out."""
    items = []
    for kept in found.kept:
        source = safe(page.t("makers.from", row=kept.source + 1, question=table.rows[kept.source].instruction))
        head = f'<small class="mk-from">{source}</small><b class="mk-q">{_filled(kept.row.instruction, kept.row, table.identity)}</b>'
        items.append(_item(kept.row, table.identity, head))
    key = "makers.stopped" if found.stopped else "makers.done"
    said = page.t(key, done=found.answered, total=found.asked, kept=len(found.kept))
    notes = ""
    if found.dropped:
        whys = [
            page.t("makers.reason", why=page.of(paraphrase.REASONS[why]), count=n) for why, n in found.counts.items()
        ]
        words = page.t(
            "makers.dropped",
            count=len(found.dropped),
            reasons="；".join(whys) if page.language == "zh" else "; ".join(whys),
        )
        lines = "".join(
            f"<li>{safe(item.text[:200])} <small>{safe(page.of(paraphrase.REASONS[item.why]))}</small></li>"
            for item in found.dropped
        )
        notes = f'<details class="mk-dropped"><summary>{safe(words)}</summary><ul>{lines}</ul></details>'
    return {"rows": [cells(kept.row) for kept in found.kept], "html": "".join(items), "said": said, "notes": notes}


def _way(page: Page, found: paraphrase.Paraphrases) -> dict[str, object]:
    words = page.t("makers.working", done=found.answered, total=found.asked, kept=len(found.kept))
    if found.waiting and page.workspace.active is not None:
        words = page.t("makers.turns")
    return {"what": words, "share": found.answered / max(1, found.asked)}


def _item(row: Row, identity: Identity, head: str) -> str:
    return (
        f'<li lang="{row.language}"><label><input type="checkbox" checked><span>{head}'
        f'<span class="mk-a">{_filled(row.output, row, identity)}</span></span></label></li>'
    )


def _filled(text: str, row: Row, identity: Identity) -> str:
    """`text` as html, each placeholder shown as what it stands for, its own spelling in the title."""
    language: Language = row.language
    # Escaped by parts: a placeholder's angle brackets would not be found after it.
    parts, rest = [], text
    for mark in placeholders(text):
        before, _, rest = rest.partition(mark)
        word = identity.resolve(mark, language)
        kind = ' class="open"' if word == mark else ""
        parts += [safe(before), f'<mark{kind} title="{safe(mark)}">{safe(word)}</mark>']
    return "".join(parts) + safe(rest)


def _table(page: Page, name: object) -> Dataset:
    return page.edits.stored(str(name or ""))


def _whole(value: object, default: int) -> int:
    try:
        return int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return default


def _line(value: object) -> str:
    """One line as the browser sent it; a half of a surrogate pair, as a cut paste leaves it, cannot be saved."""
    return " ".join(str(value or "").encode("utf-8", "replace").decode("utf-8").split())


def _both(key: str, **values: object) -> Text:
    return Text(*(locale.t(language, key, **values) for language in LANGUAGES))


def _told(value: Mapping[str, object]) -> str:
    return pieces.answer(**value)

"""Where a comparison is: the address has its columns and question, the browser tab keeps what was said.

A link opens its columns with the question ready to be asked; a reload of the same tab brings the answers back, too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gradio as gr

from core import comparison_kept, comparison_link
from core.comparison import MOST_COLUMNS, Session, Speaker
from core.comparison_link import Link, LinkedColumn
from ui import compare_columns, kept, notify, settling, talk
from ui.compare_columns import PROMPTED, Side
from ui.page import Page
from ui.talk import BASE, Turn

if TYPE_CHECKING:
    from ui.compare import CompareTab

Shown = dict[object, object]
_KEPT, _ROUNDS, _SET = "compare", "compare-rounds", "compare-set"
_READ = ", ".join(f"onecard.kept('{name}')" for name in (_KEPT, _ROUNDS, _SET))
_LOAD = f"() => [JSON.stringify([location.search, {_READ}])]"
_APPEND = f"watch('value', () => {{ if (props.value) onecard.append('{_ROUNDS}', props.value); }});"
_REPLACE = f"watch('value', () => {{ if (props.value) onecard.keep('{_SET}', [props.value]); }});"
_NOT_BLIND = "!all[2]"
_MOST_CHARACTERS = 1_500_000  # a browser tab keeps 2 million of each kind, quotes escaped (ui/static/place.js)
# The value is not the address while another tab is open: that one's is.
_SCRIPT = f"""
const names = {list(comparison_link.NAMES)!r};
let told = '';
const write = () => {{
  if (props.value || told) onecard.note(names, location.hash === '#compare' ? props.value : '');
  told ||= props.value;
}};
watch('value', write);
document.addEventListener('onecard-tab', () => {{ if (element.isConnected) write(); }});
document.addEventListener('onecard-columns', event => {{
  if (!element.isConnected) return;
  // Until the columns are there a question would be asked of those that are shown.
  onecard.opening('compare');
  trigger('open', {{query: event.detail.query}});
}});
"""


class Address(gr.HTML):
    """Value: the comparison as a query. Events: open, with the `query` of another one; rest, after columns changed."""

    def __init__(self, **rest: object) -> None:
        script = _SCRIPT + settling.listening(settling.COLUMNS, "compare")
        super().__init__(value="", html_template="", js_on_load=script, apply_default_css=False, **rest)

    def api_info(self) -> dict[str, object]:
        """The value is a query."""
        return {"type": "string"}


class Rounds(gr.HTML):
    """Value: rounds that the browser tab is to keep, as core.comparison_kept packs them."""

    def __init__(self, script: str, **rest: object) -> None:
        super().__init__(value="", html_template="", js_on_load=script, apply_default_css=False, **rest)

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}


class Place:
    """What opens a comparison, and keeps it. Stands outside of the tabs, as those are drawn only when they are opened."""

    def __init__(self, page: Page, tab: CompareTab) -> None:
        self.page, self.tab = page, tab
        self.address, self.told = Address(elem_id="compare-address"), gr.Textbox(visible=False)
        self.rounds, self.asked = (
            Rounds(_APPEND, elem_id="compare-rounds"),
            Rounds(_REPLACE, elem_id="compare-set-rounds"),
        )
        self.shown = gr.State(0)  # of what was opened: its change comes when all of that is on the page

    @property
    def _opened(self) -> list[gr.components.Component]:
        tab = self.tab
        parts = [part for side in tab.sides for part in (side.box, *side.settled, *side.answers, side.note)]
        return [
            *parts,
            tab.count,
            tab.add,
            tab.chosen,
            tab.system,
            tab.question,
            *tab.sampling,
            tab.set.table,
            self.shown,
        ]

    def wire(self, demo: gr.Blocks) -> None:
        """Open what the address or the tab has, and follow what becomes of it."""
        tab, shown = self.tab, self.page.shown
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        loaded = demo.load(shown(self.on_load), [self.told, tab.session], self._opened, js=_LOAD, **quiet)
        kept.loaded("compare", loaded)
        kept.loaded("compare", self.address.open(shown(self.on_open), [tab.session], self._opened, **quiet))
        for told in (tab.asking, *tab.voted):
            told.then(self.on_rounds, [tab.session], [self.rounds], **quiet)
        for ended in (tab.set.asked.then, tab.set.asked.failure):
            ended(shown(self.on_set), [tab.session], [self.asked], **quiet)
        settled = [part for side in tab.sides for part in side.settled]
        changes = [self.shown.change, tab.count.change, *(part.change for part in settled)]
        settling.tell(settling.COLUMNS, changes, [tab.asking.then])
        inputs = [tab.count, tab.blind, tab.question, tab.sides[0].chat, *settled]
        # One after the other: of two, the slower would put an older address over the newer.
        alone = {"trigger_mode": "always_last", "concurrency_limit": 1, **quiet}
        self.address.rest(shown(self.on_moved), inputs, [self.address], **alone)
        self.address.rest(shown(tab.heads.on_heads), tab.heads.inputs, tab.heads.notes, **alone)
        chats = [side.chat for side in tab.sides]
        changes = [tab.system.change, *(part.change for part in (self.address, *tab.sampling, *chats))]
        kept.keep(_KEPT, changes, [self.address, tab.system, tab.blind, *tab.sampling, *chats], _NOT_BLIND)

    def on_load(self, told: str, session: Session) -> Shown:
        """The page was opened: what its address says, what the tab kept, or else base beside newest adapter."""
        query, before, written, answered = kept.values(told, 4) or [""] * 4
        session.rounds = comparison_kept.unpack(kept.texts(written))
        of_set = comparison_kept.unpack(kept.texts(answered))
        session.questions = [one for one in of_set if one.columns == of_set[0].columns]
        table = {self.tab.set.table: self.tab.set.draw(session.questions) if session.questions else ""}
        mine = kept.values(before, 3 + len(self.tab.sampling) + MOST_COLUMNS)
        asked, last = comparison_link.read(kept.text(query)), comparison_link.read(kept.text(mine[0])) if mine else None
        wanted = asked if asked is not None and asked.columns else last
        if wanted is None or not wanted.columns:
            return {**self.tab.fresh(), self.tab.question: asked.question if asked else "", **table}
        if mine is None or wanted != last:
            return {**self.show(wanted), **table}
        histories = [kept.turns(value) for value in mine[3 + len(self.tab.sampling) :]]
        sampling = mine[3 : 3 + len(self.tab.sampling)]
        self._held(session, histories)
        return {
            **self.show(wanted, histories),
            **table,
            self.tab.system: kept.text(mine[1]),
            **self._sampling(sampling),
        }

    def on_open(self, request: gr.Request, event: gr.EventData, session: Session) -> object:
        """Another part of the page asks for a comparison: the conversations begin anew."""
        wanted = comparison_link.read(str(event.query))
        if wanted is None:
            return gr.skip()
        self.tab.stops.clear(request.session_hash)
        session.give_up()
        session.forget()
        return self.show(wanted)

    def on_rounds(self, session: Session) -> object:
        """What was asked since, for the browser tab to keep."""
        rounds = session.to_write()
        return comparison_kept.pack(rounds) if rounds else gr.skip()

    def on_set(self, session: Session) -> object:
        """The question set's last run, for the browser tab to keep."""
        packed = comparison_kept.pack(session.questions)
        if len(packed) <= _MOST_CHARACTERS:
            return packed
        notify.warn(self.page.t("set.too_long"))
        return comparison_kept.pack([])  # not an older one

    def _held(self, session: Session, histories: list[list[Turn]]) -> None:
        """The conversations that come back keep their columns, and the names of who gave their answers."""
        answers = max((sum(turn["role"] == "assistant" for turn in history) for history in histories), default=0)
        for one in session.rounds[-answers:] if answers else []:
            session.said([Speaker(column.adapter, column.strength, None, column.label) for column in one.columns])
        session.held = answers > 0

    def on_moved(self, count: int, blind: bool, typed: str, said: list[Turn], *settled: object) -> object:
        """Columns or question changed: so does the address. A blind round has none: it would tell who is who."""
        if blind:
            return gr.skip()
        columns = []
        for i in range(int(count)):
            pick, strength, own, prompt = settled[4 * i : 4 * i + 4]
            adapter = "" if pick in (BASE, PROMPTED, None) else str(pick)
            given = 1.0 if strength is None else float(str(strength))
            columns.append(LinkedColumn(adapter, given if adapter else 1.0, str(prompt or "") if own else None))
        asked = [talk.text_of(turn) for turn in said or [] if turn.get("role") == "user"]
        question = asked[-1] if asked else typed or ""
        return comparison_link.write(columns, question) if question or any(columns) else ""

    def show(self, wanted: Link, histories: list[list[Turn]] | None = None) -> Shown:
        """The columns of a link, with what they said. An adapter that is not here any more is the base, and that is told."""
        tab, offered = self.tab, compare_columns.choices(self.page)
        known = {value for _, value in offered}
        gone = sum(bool(column.adapter) and column.adapter not in known for column in wanted.columns)
        if gone:
            notify.warn(self.page.t("link.gone", count=gone))
        columns = [*wanted.columns, LinkedColumn()][: max(2, len(wanted.columns))]
        shown: Shown = {
            tab.count: len(columns),
            tab.add: gr.update(interactive=len(columns) < MOST_COLUMNS),
            tab.question: "" if histories and histories[0] else wanted.question,
            self.shown: time.monotonic_ns(),
        }
        picks = []
        for side in tab.sides:
            column = columns[side.index] if side.index < len(columns) else LinkedColumn()
            picks.append(self._settle(shown, side, column if column.adapter in known else LinkedColumn(), offered))
            shown |= {side.box: gr.update(visible=side.index < len(columns)), **side.clear(), side.note: ""}
            if histories and side.index < len(columns):
                shown[side.chat] = histories[side.index]
        # Whoever had the newest one in B sees the next one there as well.
        shown[tab.chosen] = picks[1] != talk.newest(self.page)
        return {**shown, tab.system: talk.system_of(self.page, *picks[1:2], *picks[:1], *picks[2:])}

    def _settle(self, shown: Shown, side: Side, column: LinkedColumn, offered: object) -> str:
        own = column.prompt is not None
        pick = column.adapter or (PROMPTED if own else BASE)
        shown |= side.settle(pick, column.strength, own, column.prompt or "", offered)
        return pick

    def _sampling(self, values: list[object]) -> Shown:
        """How tokens were chosen; a value out of its slider's range stays as it is."""
        shown: Shown = {}
        for field, value in zip(self.tab.sampling, values, strict=True):
            low, high = getattr(field, "minimum", None), getattr(field, "maximum", None)
            shown[field] = kept.number(value, low or 0, 2**31 if high is None else high, float(field.value or 0))
        return shown

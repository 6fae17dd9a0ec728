"""Who answers in Compare's columns, and who gave the answers that stand there: B follows the newest run until it has answered.

An answer never stands under another's name: while answers are there a newer adapter is offered, not put in their place,
and a line says who gave them wherever the column's head names somebody else by now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr

from core.comparison import Session, Speaker
from ui import compare_columns, talk
from ui.compare_columns import Wanted
from ui.page import Page
from ui.pieces import safe
from ui.talk import BASE

if TYPE_CHECKING:
    from ui.compare import CompareTab

Shown = dict[object, object]
SETTINGS = 4  # of a column, see Side.settled


class Heads:
    """The handlers of what the columns' heads say."""

    def __init__(self, page: Page, tab: CompareTab) -> None:
        self.page, self.tab = page, tab

    @property
    def notes(self) -> list[gr.components.Component]:
        """The lines above the conversations."""
        return [side.note for side in self.tab.sides]

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What `on_changed` and `on_heads` read."""
        tab = self.tab
        settled = [part for side in tab.sides for part in side.settled]
        return [tab.session, tab.count, tab.system, tab.chosen, tab.blind, *settled]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `on_changed` changes."""
        return [*(part for side in self.tab.sides for part in (*side.settled, side.tag, side.note)), self.tab.system]

    def wire(self) -> None:
        """Take a newer adapter when it is wanted. `on_heads` is asked by who knows when columns have changed."""
        tab, shown = self.tab, self.page.shown
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        outputs = list(dict.fromkeys([*tab.answers, *self.outputs, tab.chosen]))
        tab.sides[1].note.use(shown(self.on_newer), self.inputs, outputs, **quiet)
        # A conversation that further training comes from does not keep the new run away.
        tab.fix.more.click(self.on_more, [tab.session], None, **quiet)

    def on_changed(
        self,
        request: gr.Request,
        session: Session,
        count: int,
        system: str,
        chosen: bool,
        blind: bool,
        *settled: object,
    ) -> Shown:
        """Runs came or went: B follows the newest one until it was picked by hand or has answered.

        What is picked stays in any case while its answer is under way, and never longer than it exists.
        """
        offered = compare_columns.choices(self.page)
        known = [value for _, value in offered]
        picks = list(settled[::SETTINGS])
        now = [pick if pick in known else BASE for pick in picks]
        held = chosen or session.held or self.tab.stops.answering(request.session_hash)
        if not (held and picks[1] in known):
            now[1] = talk.newest(self.page)
        shown: Shown = {}
        values = list(settled)
        for side, before, after in zip(self.tab.sides, picks, now, strict=True):
            # The value of one that stays is the page's: this may have been asked before a person changed it.
            shown[side.pick] = gr.update(choices=offered)
            if after != before:
                shown |= side.settle(str(after), 1.0, False, "", offered)
                values[SETTINGS * side.index : SETTINGS * (side.index + 1)] = [after, 1.0, False, ""]
            if blind:
                shown.pop(side.tag, None)
        if now != picks:
            shown[self.tab.system] = self.system_of([str(pick) for pick in now])
        return shown | self.on_heads(session, count, system, chosen, blind, *values)

    def on_heads(
        self, session: Session, count: int, _system: str, chosen: bool, blind: bool, *settled: object
    ) -> Shown:
        """The notes as they are to be."""
        names = {value: name for name, value in talk.choices(self.page)}
        newest, notes = talk.newest(self.page), {}
        for side in self.tab.sides:
            pick, strength, own, _ = settled[SETTINGS * side.index : SETTINGS * (side.index + 1)]
            words = []
            if not blind and side.index < int(count) and isinstance(pick, str):
                given = 1.0 if strength is None else float(str(strength))
                head = compare_columns.speaker(self.page, Wanted(pick, given, bool(own), "", []), names)
                words += self._spoken(session.spoke(side.index), head)
                if side.index == 1 and not chosen and session.held and pick != newest:
                    words.append(self._offer(names.get(newest, newest)))
            notes[side.note] = f'<div class="oc-who" role="status">{"".join(words)}</div>' if words else ""
        return notes

    def on_newer(
        self, request: gr.Request, session: Session, count: int, _s: str, _chosen: bool, _blind: bool, *settled: object
    ) -> Shown:
        """The newer adapter is B, the conversations begin anew, and the last question is ready to be asked again."""
        tab, newest, last = self.tab, talk.newest(self.page), session.latest
        tab.stops.clear(request.session_hash)
        session.forget()
        picks = [str(pick or BASE) for pick in settled[::SETTINGS]]
        picks[1] = newest
        return {
            **tab.empty(),
            **tab.sides[1].settle(newest, 1.0, False, "", compare_columns.choices(self.page)),
            tab.question: last.question if last is not None else gr.skip(),
            tab.system: self.system_of(picks[: int(count)]),
            tab.chosen: False,
        }

    def on_more(self, session: Session) -> None:
        """Further training was begun from an answer here: the next run is what is wanted in B."""
        session.held = False

    def system_of(self, picks: Sequence[str]) -> str:
        """The training prompt of B's adapter, else of the first that has one."""
        return talk.system_of(self.page, *picks[1:2], *picks[:1], *picks[2:])

    def _spoken(self, spoken: list[tuple[Speaker, int]], head: Speaker) -> list[str]:
        """Who gave the answers, unless it is the one the head names."""
        if all(one.same(head) for one, _ in spoken):
            return []
        parts = ", ".join(self.page.t("who.part", name=one.label, count=count) for one, count in spoken)
        return [f"<span>{safe(self.page.t('who.spoke', names=parts))}</span>"]

    def _offer(self, name: str) -> str:
        t = self.page.t
        return (
            f"<span>{safe(t('who.newer', name=name))}</span>"
            f'<button type="button" title="{safe(t("who.use.note"))}">{safe(t("who.use"))}</button>'
        )

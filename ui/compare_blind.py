"""Blind mode of Compare: answers without names, a vote, then the names and how the columns stand.

Who stands where is known to the server alone until the vote: the page gets letters and texts, nothing else of a column.
"""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from core.comparison import Round, Session
from ui import talk
from ui.compare_columns import Side, draw_meter, draw_verdict
from ui.page import Page
from ui.pieces import note, safe, tag

Shown = dict[object, object]


class Blind:
    """The line above the columns, and what the columns show of a blind round."""

    def __init__(self, page: Page) -> None:
        self.page, t = page, page.t
        with gr.Row(visible=False, elem_classes="oc-banner oc-info", elem_id="blind-bar") as self.bar:
            self.note = gr.HTML(note(t("blind.note")), elem_id="blind-note", apply_default_css=False)
            self.tie = gr.Button(t("blind.tie"), size="sm", visible=False, elem_id="vote-tie", min_width=0)

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The line's parts."""
        return [self.bar, self.note, self.tie]

    def switch(self, sides: Sequence[Side], on: bool) -> Shown:
        """Columns lose their names, or get them back."""
        shown: Shown = {self.bar: gr.update(visible=on), self.note: note(self.page.t("blind.note"))}
        shown[self.tie] = gr.update(visible=False)
        for side in sides:
            shown |= side.clear()
            shown |= {part: gr.update(visible=not on) for part in (side.pick, side.tools, side.settings)}
            shown[side.name] = gr.update(value="", visible=on)
        return shown

    def begun(self, sides: Sequence[Side]) -> Shown:
        """A new round: no names, no votes, no verdicts."""
        shown: Shown = {self.note: note(self.page.t("blind.note")), self.tie: gr.update(visible=False)}
        for side in sides:
            shown |= {side.tag: side.draw_blind(), side.name: "", side.verdict: "", side.vote: gr.update(visible=False)}
        return shown

    def waiting(self, sides: Sequence[Side]) -> Shown:
        """All have answered: vote."""
        shown: Shown = {self.note: note(self.page.t("blind.ask")), self.tie: gr.update(visible=True)}
        for side in sides:
            shown |= {side.vote: gr.update(visible=True), side.meter: talk.idle_meter()}
        return shown

    def revealed(self, sides: Sequence[Side], one: Round, session: Session) -> Shown:
        """Who was who, and how often each was voted for."""
        shown: Shown = {self.note: self._standing(session), self.tie: gr.update(visible=False)}
        for side, column in zip(sides, one.places, strict=False):
            setup, answer = one.columns[column], one.answers[column]
            best = tag("★ " + self.page.t("blind.best"), "ok") if one.best == column else ""
            shown |= {
                side.tag: tag(side.letter, "tuned" if setup.adapter else "base"),
                side.name: f'<div class="oc-name"><span title="{safe(setup.label)}">{safe(setup.label)}</span>{best}</div>',
                side.verdict: draw_verdict(self.page, answer.verdict),
                side.meter: draw_meter(self.page, answer),
                side.vote: gr.update(visible=False),
            }
        return shown

    def _standing(self, session: Session) -> str:
        t, ranked = self.page.t, sorted(session.votes().items(), key=lambda pair: -pair[1][0])
        lines = "".join(
            f"<li><b>{safe(column.label)}</b> {safe(t('blind.votes', won=won, of=of))}</li>"
            for column, (won, of) in ranked
        )
        return f'<div class="oc-note">{safe(t("blind.standing"))}<ul class="oc-standing">{lines}</ul></div>'

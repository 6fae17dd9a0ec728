"""Which cards a run trains on: a control of the training form where there is more than one, else nothing to see."""

from __future__ import annotations

import gradio as gr

from core import launch
from ui.page import Page


def build(page: Page) -> gr.Dropdown:
    """The control. What another choice than the first brings with it is said once it is made."""
    found = launch.choices()
    control = gr.Dropdown(
        [(page.of(said), number) for said, number in found] or [("", 0)],
        value=0,
        label=page.t("cards.label"),
        visible=bool(found),
        elem_id="cards",
    )

    def explain(number: int) -> dict[str, object]:
        return gr.update(info=page.t("cards.note") if number else "")

    control.input(page.shown(explain), [control], [control], show_progress="hidden", api_visibility="private")
    return control

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

    def on_chosen(number: int) -> dict[str, object]:
        return gr.update(info=_explained(page, number))

    control.input(page.shown(on_chosen), [control], [control], show_progress="hidden", api_visibility="private")
    return control


def restored(page: Page, number: object) -> dict[str, object]:
    """The control with the choice that a browser tab kept, while there are the cards for it; else as it is."""
    known = [value for _, value in launch.choices()]
    if isinstance(number, bool) or number not in known:
        return gr.update()
    return gr.update(value=number, info=_explained(page, known[known.index(number)]))


def _explained(page: Page, number: int) -> str:
    return page.t("cards.note") if number else ""

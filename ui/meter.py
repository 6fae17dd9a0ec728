"""The line under a chat's answer: its time and length, and what is wrong with it, with a button that asks again otherwise."""

from __future__ import annotations

import json

import gradio as gr

from core import answer_faults
from core.generate import Reply, Sampling
from ui import talk
from ui.findings import FIXING
from ui.page import Page
from ui.pieces import MARKS, safe

Asked = tuple[str, float, int]
"""System prompt, temperature, longest answer: what a fault can change."""


class Meter(gr.HTML):
    """Value: html. Event: fix, with the `settings` to ask again with."""

    def __init__(self, value: str | None = None, **rest: object) -> None:
        super().__init__(value=value, js_on_load=FIXING, apply_default_css=False, **rest)

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}


def draw(page: Page, reply: Reply, sampling: Sampling, adapter: bool) -> str:
    """The line, and under it the fault of a whole answer."""
    line, fault = talk.meter(page, reply), answer_faults.of(reply, sampling, adapter)
    if fault is None:
        return line
    changes: list[tuple[str, list[list[object]]]] = []
    if fault.max_new_tokens is not None:
        changes.append((page.t("fault.longer", count=fault.max_new_tokens), [["length", fault.max_new_tokens]]))
    if fault.temperature is not None:
        changes.append((page.t("fault.warmer", value=f"{fault.temperature:g}"), [["temperature", fault.temperature]]))
    if fault.shorter:
        changes.append((page.t("fault.shorter"), [["shorter", True]]))
    buttons = "".join(
        f'<button type="button" class="oc-do" data-fix="{safe(json.dumps(settings))}">{safe(label)}</button>'
        for label, settings in changes
    )
    said = f'<span>{safe(page.of(fault.text))}<span class="oc-dos">{buttons}</span></span>'
    return f'{line}<ul class="oc-list oc-fault" role="status"><li class="warn"><i>{MARKS["warn"]}</i>{said}</li></ul>'


def changed(page: Page, event: gr.EventData, system: str, temperature: float, length: float) -> Asked:
    """The settings with what a pressed button changes; whatever else a browser sends changes nothing."""
    pairs = event.settings if isinstance(event.settings, list) else []
    asked = {str(pair[0]): pair[1] for pair in pairs if isinstance(pair, list) and len(pair) == 2}
    if asked.get("length") in (answer_faults.USUAL_TOKENS, answer_faults.MOST_TOKENS):
        length = int(asked["length"])
    if asked.get("temperature") == answer_faults.WARMER:
        temperature = answer_faults.WARMER
    short = page.of(answer_faults.SHORT)
    if asked.get("shorter") is True and short not in system:
        system = f"{system.strip()} {short}".strip()
    return system, float(temperature), int(length)

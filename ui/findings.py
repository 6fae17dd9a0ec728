"""What was found of a table and its settings, as a list: a button for each change that mends it, a link to its rows."""

from __future__ import annotations

import json
from collections.abc import Iterable

import gradio as gr

from core.advice import Finding
from core.config import parse
from core.fact import Value
from ui import fields
from ui.page import Page
from ui.pieces import MARKS, safe

_SCRIPT = """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button?.dataset.fix) trigger('fix', {settings: JSON.parse(button.dataset.fix)});
  if (button?.dataset.row) trigger('row', {row: Number(button.dataset.row)});
});
"""
_MOST_LINKS = 3


class FindingList(gr.HTML):
    """Value: the html of `draw`. Events: fix, with the `settings` to set; row, with the `row` of the table to show."""

    def __init__(self, value: str | None = None, **rest: object) -> None:
        super().__init__(value=value, js_on_load=_SCRIPT, apply_default_css=False, **rest)

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}


def draw(page: Page, findings: Iterable[Finding], hints: Iterable[tuple[str, str]] = (), fixes: bool = True) -> str:
    """The findings, then plain lines of (level, text); "" if there are none. `fixes`: with the buttons that mend."""
    lines = [_line(page, finding, fixes) for finding in findings]
    lines += [f'<li class="{level}"><i>{MARKS[level]}</i><span>{safe(text)}</span></li>' for level, text in hints]
    return f'<ul class="oc-list">{"".join(lines)}</ul>' if lines else ""


def wanted(event: gr.EventData) -> dict[str, Value]:
    """The settings that a pressed button asks for: of the visible ones only, and within their ranges."""
    asked = event.settings
    if not isinstance(asked, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in asked):
        return {}
    known = fields.visible_names()
    return {name: parse(name, value) for name, value in asked if name in known}


def row_of(event: gr.EventData) -> int:
    """The row that was clicked, from 0."""
    return max(0, event.row) if isinstance(event.row, int) else 0


def _line(page: Page, finding: Finding, fixes: bool) -> str:
    made = [
        f'<button type="button" class="oc-do" data-fix="{safe(json.dumps(fix.settings))}">{safe(page.of(fix.label))}</button>'
        for fix in (finding.fixes if fixes else ())
    ]
    if finding.level != "ok":
        made += [
            f'<button type="button" class="oc-do" data-row="{row}">{safe(page.t("finding.row", row=row + 1))}</button>'
            for row in finding.rows[:_MOST_LINKS]
        ]
    acts = f'<span class="oc-dos">{"".join(made)}</span>' if made else ""
    text = f"<span>{safe(page.of(finding.text))}{acts}</span>"
    return f'<li class="{finding.level}"><i>{MARKS[finding.level]}</i>{text}</li>'

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

FIXING = """
element.addEventListener('click', event => {
  const asked = event.target.closest('button')?.dataset.fix;
  if (asked) trigger('fix', {settings: JSON.parse(asked)});
});
"""
"""What a component needs to have the buttons of `draw` tell it: its event `fix`, with the `settings` to set."""
_SCRIPT = (
    FIXING
    + """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button?.dataset.row) trigger('row', {row: Number(button.dataset.row)});
  if (button?.dataset.look) {
    const {check} = button.closest('[data-check]').dataset;
    const [kind, act] = button.dataset.look.split(' ');
    document.dispatchEvent(new CustomEvent('onecard-doctor', {detail: {check, kind, act: act ?? ''}}));
  }
  if (button?.dataset.press) document.getElementById(button.dataset.press)?.click();
});
// The list is drawn anew after every edit: what was unfolded stays so.
let open = false;
element.addEventListener('toggle', event => { if (event.target.isConnected) open = event.target.open; }, true);
new MutationObserver(() => {
  const fold = element.querySelector('details');
  if (fold && fold.open !== open) fold.open = open;
}).observe(element, {childList: true, subtree: true});
"""
)
_MOST_LINKS = 3
_MAKES = ("languages", "paraphrases")  # kinds that the row makers mend, too
_MOST_OPEN = 4  # warnings; further ones are folded, the fifth alone would not save a line


class FindingList(gr.HTML):
    """Value: the html of `draw`. Events: fix, with the `settings` to set; row, with the `row` of the table to show.

    A list that was drawn for a check asks the doctor's dialog (ui/doctor.py) to show rows and mends. `script` is run, too.
    """

    def __init__(self, value: str | None = None, script: str = "", **rest: object) -> None:
        super().__init__(value=value, js_on_load=_SCRIPT + script, apply_default_css=False, **rest)

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}


def draw(page: Page, findings: Iterable[Finding], hints: Iterable[tuple[str, str]] = (), check: str = "") -> str:
    """The findings, then plain lines of (level, text); "" if there are none.

    `check`: by which the doctor's dialog knows the table that was looked at; with it rows and mends are buttons that open
    the dialog, without it the first rows are links.
    """
    found = list(findings)
    warned = [finding for finding in found if finding.level == "warn"]
    folded = warned[_MOST_OPEN:] if check and len(warned) > _MOST_OPEN + 1 else []
    lines = [_line(page, finding, bool(check)) for finding in found if finding not in folded]
    if folded:
        more = "".join(_line(page, finding, True) for finding in folded)
        title = safe(page.t("doctor.more", count=len(folded)))
        place = sum(finding.level != "ok" for finding in found) - len(folded)
        lines.insert(
            place,
            f'<li class="dr-more"><details><summary>{title}</summary><ul class="oc-list">{more}</ul></details></li>',
        )
    lines += [f'<li class="{level}"><i>{MARKS[level]}</i><span>{safe(text)}</span></li>' for level, text in hints]
    return f'<ul class="oc-list" data-check="{safe(check)}">{"".join(lines)}</ul>' if lines else ""


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


def _line(page: Page, finding: Finding, looking: bool) -> str:
    made = [
        f'<button type="button" class="oc-do" data-fix="{safe(json.dumps(fix.settings))}">{safe(page.of(fix.label))}</button>'
        for fix in finding.fixes
    ]
    made += _looks(page, finding) if looking else _links(page, finding)
    acts = f'<span class="oc-dos">{"".join(made)}</span>' if made else ""
    text = f"<span>{safe(page.of(finding.text))}{acts}</span>"
    return f'<li class="{finding.level}"><i>{MARKS[finding.level]}</i>{text}</li>'


def _looks(page: Page, finding: Finding) -> list[str]:
    """A button for each mend, and one for the rows."""
    offered = [("", f"{finding.kind} {act}", page.of(mend.label) + "…") for act, mend in enumerate(finding.mends)]
    if finding.rows and finding.kind:
        key = "doctor.look" if len(finding.rows) > 1 else "doctor.look.one"
        offered.append((" dr-look", finding.kind, page.t(key, count=f"{len(finding.rows):,}")))
    makes = f'<button type="button" class="oc-do" data-press="make-rows">{safe(page.t("makers.open"))}</button>'
    return [makes] * (finding.kind in _MAKES) + [
        f'<button type="button" class="oc-do{look}" data-look="{safe(asked)}">{safe(label)}</button>'
        for look, asked, label in offered
    ]


def _links(page: Page, finding: Finding) -> list[str]:
    if finding.level == "ok":
        return []
    return [
        f'<button type="button" class="oc-do" data-row="{row}">{safe(page.t("finding.row", row=row + 1))}</button>'
        for row in finding.rows[:_MOST_LINKS]
    ]

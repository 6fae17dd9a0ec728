"""The list of runs: newest first, state, hit score or proof; ways to compare, take along, open and remove. Knows no training."""

from __future__ import annotations

import json
from collections.abc import Sequence

import gradio as gr

from core.moments import moment
from core.run import Run
from core.taken import PASS_SHARE
from ui.page import Page
from ui.pieces import icon, note, safe, tag
from ui.proof_draw import light_tag

_SCRIPT = """
element.addEventListener('click', async event => {
  const button = event.target.closest('button[data-run]');
  if (!button) return;
  const id = button.dataset.run;
  const tell = {compare: 'onecard-compare', file: 'onecard-run-file'}[button.dataset.tell];
  if (tell) return document.dispatchEvent(new CustomEvent(tell, {detail: id ? {run: id} : {}}));
  if ('undo' in button.dataset) return trigger('restore');
  if (!button.dataset.ask) return trigger('open', {id});
  if (await onecard.confirm(JSON.parse(button.dataset.ask)) !== null) trigger('remove', {id});
});
// The shown run is in the address: a reload, a bookmark and a restart of the server come back to it.
let wanted = new URL(location).searchParams.get('run');
const note = () => {
  const id = element.querySelector('[aria-current]')?.dataset.run, address = new URL(location);
  if (!id) return;
  const other = wanted !== id && [...element.querySelectorAll('.oc-run')].some(one => one.dataset.run === wanted);
  const first = wanted;
  wanted = null;
  if (other) return trigger('open', {id: first});
  if (address.searchParams.get('run') === id) return;
  address.searchParams.set('run', id);
  history.replaceState(history.state, '', address);
};
new MutationObserver(note).observe(element, {childList: true, subtree: true});
"""
STATUS = {
    "new": ("run.new", ""),
    "running": ("run.running", "tuned"),
    "finished": ("run.finished", "ok"),
    "stopped": ("run.stopped", "warn"),
    "failed": ("run.failed", "bad"),
    "interrupted": ("run.interrupted", "warn"),
}


class RunList(gr.HTML):
    """Value: the html of `draw`. Events: open and remove, both with the run's `id`; restore the one deleted last."""

    def __init__(self, value: str | None = None, **rest: object) -> None:
        super().__init__(value=value, js_on_load=_SCRIPT, apply_default_css=False, **rest)

    def api_info(self) -> dict[str, object]:
        """The value is html."""
        return {"type": "string"}


def draw(page: Page, runs: Sequence[Run], selected: str | None) -> str:
    """The list as html, with `selected` marked."""
    words = safe(page.t("runs.open"))
    gone = page.workspace.library.removed.last("run")
    undone = deleted(page, gone.name, 'data-run="" data-undo') if gone is not None else ""
    brought = f'<button type="button" class="oc-do" data-run="" data-tell="file">{words}</button>'
    if not runs:
        return note(page.t("runs.none")) + undone + brought
    return f'<ul class="oc-runs">{"".join(_line(page, run, run.id == selected) for run in runs)}</ul>{undone}{brought}'


def deleted(page: Page, name: str, marks: str) -> str:
    """What was deleted last, with a button of the attributes `marks` that brings it back."""
    said, undo = safe(page.t("undo.deleted", title=name)), safe(page.t("undo.do"))
    return f'<p class="oc-note oc-undo" role="status">{said}<button type="button" class="oc-do" {marks}>{undo}</button></p>'


def status_tag(page: Page, run: Run) -> str:
    """The run's state as a coloured word."""
    key, kind = ("run.new", "tuned") if run.starting else STATUS[run.status]
    return tag(page.t(key), kind)


def _action(run: Run, tell: str, picture: str, name: str) -> str:
    """A button that opens a dialog about the run."""
    said = safe(name)
    return f'<button data-run="{safe(run.id)}" data-tell="{tell}" title="{said}" aria-label="{said}">{icon(picture)}</button>'


def _line(page: Page, run: Run, selected: bool) -> str:
    hits, proof = run.hits, page.workspace.proofs.of(run.id)
    score = tag(f"{hits[0]}/{hits[1]}", "ok" if hits[0] >= PASS_SHARE * hits[1] else "warn") if hits else ""
    if proof is not None:
        score = light_tag(page, proof.light)
    state = "" if run.status == "finished" and hits else status_tag(page, run)
    when = page.of(moment(run.created))
    actions = _action(run, "compare", "compare", page.t("runs.compare", title=run.title))
    if run.status != "running":
        actions += _action(run, "file", "download", page.t("runs.download", title=run.title))
        ask = {
            "title": page.t("runs.delete.ask", title=run.title),
            "ok": page.t("ask.delete"),
            "cancel": page.t("ask.cancel"),
            "grave": True,
        }
        name = safe(page.t("runs.delete", title=run.title))
        actions += (
            f'<button data-run="{safe(run.id)}" data-ask="{safe(json.dumps(ask))}" title="{name}" aria-label="{name}">'
            f"{icon('delete')}</button>"
        )
    current = ' aria-current="true"' if selected else ""
    return (
        f'<li><button class="oc-run" data-run="{safe(run.id)}"{current}><span><b>{safe(run.title)}</b>'
        f"<small>{when}</small></span><span>{score}{state}</span></button><span class='oc-acts'>{actions}</span></li>"
    )

"""The push dialog: an export goes to a hub after what is sent, where to, and who sees it were shown and confirmed.

Opened from the export dialog by the document's event onecard-publish; ui/static/publish.js listens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import gradio as gr

from core.errors import UserError
from core.hub import HUBS, HubName
from core.publish import push
from core.publish.push import Plan
from core.transfer import Transfer
from core.waiting import SILENT_SECONDS
from ui import pieces
from ui.page import Page
from ui.pieces import checklist, safe, show_seconds, show_size, tag

_STATIC = Path(__file__).parent / "static"
_FRAME = """
<dialog class="pb" aria-labelledby="pb-title">
  <header><h2 id="pb-title">{title}</h2><span data-is="who"></span>
    <button type="button" data-act="close" aria-label="{close}" title="{close}">✕</button></header>
  <div class="pb-body">
    <form autocomplete="off" data-is="form">
      <fieldset><legend>{hub}</legend><div class="pb-choices">{hubs}</div></fieldset>
      <p class="pb-note" data-is="account" role="status"></p>
      <label class="pb-field">{repo}<input type="text" name="repo" maxlength="200" spellcheck="false"></label>
      <fieldset><legend>{visibility}</legend><div class="pb-choices">
        <label><input type="radio" name="private" value="yes" checked><span><b>{private}</b><small>{private_note}</small></span></label>
        <label><input type="radio" name="private" value="no"><span><b>{public}</b><small>{public_note}</small></span></label>
      </div></fieldset>
      <div class="pb-acts"><button type="button" class="first" data-act="look">{look}</button></div>
    </form>
    <section data-is="check" hidden><h3>{check}</h3><div data-is="plan"></div>
      <div class="pb-acts"><button type="button" data-act="back">{back}</button>
        <button type="button" class="first" data-act="send"></button></div></section>
    <p class="pb-problem" data-is="said" role="alert" hidden></p>
    <div class="pb-way" data-is="way" hidden><span data-is="what" role="status"></span>
      <b class="oc-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100"><i></i></b>
      <button type="button" data-act="cancel">{cancel}</button></div>
    <p class="pb-done" data-is="done" role="status" hidden></p>
  </div>
</dialog>"""
_KEYS = {
    "title": "publish.title", "close": "publish.close", "hub": "publish.hub", "repo": "publish.repo",
    "visibility": "publish.visibility", "private": "publish.private", "private_note": "publish.private.note",
    "public": "publish.public", "public_note": "publish.public.note", "look": "publish.look", "check": "publish.check",
    "back": "publish.back", "cancel": "publish.cancel",
}  # fmt: skip
Asked = dict[str, object]


class PublishDialog(gr.HTML):
    """Value: {said} as JSON. Event: pressed, with `act` send or cancel, what the form says, and the confirmed plan's `seal`."""

    def __init__(self, page: Page, **rest: object) -> None:
        self.shown_on, t = page, page.t  # gradio has a `page` of its own
        words = {
            "asking": t("publish.asking"), "failed": t("publish.failed"), "cancelling": t("publish.cancelling"),
            "preparing": t("publish.preparing"), "done": t("publish.done"), "silent": t("publish.silent"),
            "patience": round(1000 * SILENT_SECONDS),
        }  # fmt: skip
        hubs = "".join(
            f'<label><input type="radio" name="hub" value="{name}"{" checked" if name == "hf" else ""}>'
            f"<span><b>{safe(page.of(label))}</b></span></label>"
            for name, label in HUBS.items()
        )
        super().__init__(
            value="",
            html_template=_FRAME.format(**{place: safe(t(key)) for place, key in _KEYS.items()}, hubs=hubs),
            js_on_load=pieces.with_labels(words, (_STATIC / "publish.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'publish.css').read_text('utf-8')}</style>",
            server_functions=_reading_functions(page),
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}

    def wire(self) -> None:
        """Connect the buttons; what they cannot do is said in the dialog, for a toast would lie under it."""
        shown, quiet = self.shown_on.shown, {"show_progress": "hidden", "api_visibility": "private"}
        self.pressed(shown(self.on_pressed), None, [self], trigger_mode="always_last", **quiet)

    def on_pressed(self, event: gr.EventData) -> str:
        """Send what was confirmed; or give up what is on its way, and nothing of it becomes visible."""
        pushes, said = self.shown_on.workspace.pushes, ""
        try:
            if event.act == "cancel":
                pushes.stop()
            else:
                form = _form({key: getattr(event, key) for key in ("export", "hub", "repo", "private")})
                pushes.start(*form, str(event.seal))
        except UserError as error:
            said = error.of(self.shown_on.language)
        return pieces.answer(said=said)


def _reading_functions(page: Page) -> list[Callable[[Asked], Asked]]:
    """What the browser asks for. They only read, here and at the hub."""

    def account(asked: Asked) -> Asked:
        return account_state(page, asked)

    def plan(asked: Asked) -> Asked:
        return plan_state(page, asked)

    def state(asked: Asked) -> Asked:
        return push_state(page, str(asked.get("export") or ""))

    return [account, plan, state]


def account_state(page: Page, asked: Asked) -> Asked:
    """Whose token is here for a hub, and the name that the repository could have."""
    export, hub, _, _ = _form(asked)
    try:
        who = push.account(hub)
    except UserError as error:
        return {"account": "", "said": error.of(page.language), "repo": ""}
    return {
        "account": page.t("publish.account", name=who.name), "said": "", "repo": f"{who.name}/{_ascii(export)}",
    }  # fmt: skip


def plan_state(page: Page, asked: Asked) -> Asked:
    """What a push would do, drawn, with the seal that its confirmation must bear."""
    try:
        plan = page.workspace.pushes.plan(*_form(asked))
    except UserError as error:
        return {"html": "", "seal": "", "said": error.of(page.language)}
    return {
        "html": drawn(page, plan), "seal": plan.seal, "said": "",
        "send": page.t("publish.send", hub=page.of(HUBS[plan.hub.name])),
    }  # fmt: skip


def push_state(page: Page, export: str) -> Asked:
    """How far the push of an export is, or how it ended."""
    pushes, t = page.workspace.pushes, page.t
    shown: Asked = {
        "active": pushes.active,
        "way": None,
        "said": "",
        "page": "",
        "busy": "",
        "stopping": pushes.stopping,
    }
    if pushes.name != export:
        return shown | {"busy": t("publish.busy", name=pushes.name) if pushes.active else ""}
    ended = pushes.ended
    if pushes.active or ended is None:
        now = pushes.now
        what = t("publish.preparing") if now is None else _way(page, now)
        if pushes.silent_seconds:
            what = t("hub.silent", seconds=f"{pushes.silent_seconds:.0f}")
        way = {"what": what, "share": now.share if now else 0}
        return shown | {"way": way if pushes.active else None}
    if ended.problem is not None:
        return shown | {"said": page.of(ended.problem)}
    return shown | ({"page": ended.found.page} if ended.found is not None else {"said": t("publish.cancelled")})


def _way(page: Page, now: Transfer) -> str:
    sizes = {"done": show_size(now.done), "total": show_size(now.total)}
    if now.bytes_per_second is None or now.seconds_left is None:
        return page.t("publish.sent", **sizes)
    rate = show_size(now.bytes_per_second)
    return page.t("publish.sending", **sizes, rate=rate, left=show_seconds(now.seconds_left))


def drawn(page: Page, plan: Plan) -> str:
    """Everything that is confirmed: hub, account, repository, who sees it, every file."""
    t, parcel = page.t, plan.parcel
    seen = tag(t("publish.private"), "ok") if plan.private else tag(t("publish.public"), "warn")
    who = t("publish.private.note" if plan.private else "publish.public.note")
    there = t("publish.there" if plan.there else "publish.new")
    size = t("publish.count", count=len(parcel.files), size=show_size(parcel.nbytes))
    rows = (
        (t("publish.hub"), safe(page.of(plan.hub.label))),
        (t("publish.row.account"), safe(plan.account)),
        (t("publish.row.repo"), f"{safe(plan.repository)} <small>{safe(there)}</small>"),
        (t("publish.visibility"), f"{seen} <small>{safe(who)}</small>"),
        (t("publish.row.files"), safe(size)),
    )  # fmt: skip
    facts = "".join(f"<dt>{safe(name)}</dt><dd>{value}</dd>" for name, value in rows)
    files = "".join(
        f"<li><span>{safe(file.name)}</span><em>{safe(show_size(file.nbytes))}</em></li>" for file in parcel.files
    )
    notes = [("warn", t("publish.told", file=name, value=value)) for name, value in parcel.told]
    if plan.licence is not None:
        notes.append(("note", page.of(plan.licence)))
    if parcel.left:
        notes.append(("note", t("publish.left", names=("、" if page.language == "zh" else ", ").join(parcel.left))))
    return f'<dl>{facts}</dl><ul class="pb-files">{files}</ul>{checklist(notes) if notes else ""}'


def _form(asked: Asked) -> tuple[str, HubName, str, bool]:
    """Export, hub, repository, private: whatever is missing or of another kind is as it is at first."""
    hub = cast(HubName, asked.get("hub") if asked.get("hub") in HUBS else "hf")
    return str(asked.get("export") or ""), hub, str(asked.get("repo") or ""), asked.get("private") != "no"


def _ascii(export: str) -> str:
    """A repository's name like the export's: hubs take ASCII only."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_.") else "-" for letter in export)
    return kept.strip("-._") or "my-adapter"

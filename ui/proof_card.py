"""The proof card: an adapter's lights, the answers behind them, a proof on its way, and the proof as a file.

On the Train tab it shows the chosen run's adapter; in its own dialog, opened from the library, any other. The browser
asks for changes (ui/static/proof_card.js); the html is ui.proof_draw's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from core import proof as proofs
from core import storage
from core.errors import ModelError, UserError
from core.workspace import AdapterChoice
from ui import pieces, proof_draw
from ui.page import Page
from ui.pieces import icon, safe

_STATIC = Path(__file__).parent / "static"
_FILES = {"png": "proof.picture", "md": "proof.markdown", "card": "proof.card"}
_BODY = """
<section class="pf" data-state="">
  <header class="pf-head"><h2>{title}</h2><span>{note}</span>
    <span class="pf-files" data-is="files" role="group" aria-label="{download}" hidden>{icon}{files}</span>
    <button type="button" class="pf-button" data-act="export" hidden>{export}</button>
    <button type="button" class="pf-button" data-act="prove" hidden></button>{close}</header>
  <p class="pf-problem" data-is="said" role="alert" hidden></p>
  <div class="pf-way" data-is="way" hidden><span data-is="what"></span>
    <b class="oc-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100"><i></i></b>
    <button type="button" class="pf-button" data-act="cancel">{cancel}</button></div>
  <p class="pf-note" data-is="note" hidden></p>
  <div class="pf-body" data-is="body"></div>
</section>"""


class ProofCard(gr.HTML):
    """Value: an adapter's id, or {adapter, said} as JSON. Events: prove and cancel, with the adapter's `id`.

    `dialog`: stands in a dialog of its own, which the document's event onecard-proof opens for the adapter it names.
    """

    def __init__(self, page: Page, *, dialog: bool = False, **rest: object) -> None:
        self.shown_on, t = page, page.t  # gradio has a `page` of its own
        buttons = "".join(
            f'<button type="button" data-file="{kind}" title="{safe(t("proof.download.title", kind=t(key)))}">'
            f"{safe(t(key))}</button>"
            for kind, key in _FILES.items()
        )
        close = (
            f'<button type="button" class="pf-close" data-act="close" aria-label="{safe(t("proof.close"))}">✕</button>'
        )
        body = _BODY.format(
            title=safe(t("proof.title")), note=safe(t("proof.note")), download=safe(t("proof.download")),
            icon=icon("download"), files=buttons, cancel=safe(t("proof.cancel")), export=safe(t("outside.open")),
            close=close if dialog else "",
        )  # fmt: skip
        words = {
            "now": t("proof.now"), "again": t("proof.again"), "starting": t("proof.starting"),
            "stopping": t("proof.stopping"), "failed": t("proof.failed"), "loading": t("proof.loading"),
        }  # fmt: skip
        super().__init__(
            value="",
            html_template=f'<dialog class="pf-dialog" aria-label="{safe(t("proof.title"))}">{body}</dialog>'
            if dialog
            else body,
            js_on_load=pieces.with_labels(words, (_STATIC / "proof_card.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'proof_card.css').read_text('utf-8')}</style>",
            server_functions=_reading_functions(page),
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is an adapter's id, or JSON."""
        return {"type": "string"}

    def wire(self) -> None:
        """Connect the buttons; what they cannot do is said in the card, for a toast would lie under its dialog."""
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        self.prove(self.shown_on.shown(self.on_prove), None, [self], **quiet)
        self.cancel(self.shown_on.shown(self.on_cancel), None, [self], **quiet)

    def on_prove(self, event: gr.EventData) -> str:
        """Begin the proof of an adapter."""
        return self._after(str(event.id), lambda: self.shown_on.workspace.proofs.start(str(event.id)))

    def on_cancel(self, event: gr.EventData) -> str:
        """End the proof on its way; the last one stays."""
        return self._after(str(event.id), self.shown_on.workspace.proofs.stop)

    def _after(self, adapter: str, work: Callable[[], object]) -> str:
        said = ""
        try:
            work()
        except UserError as error:
            said = error.of(self.shown_on.language)
        return pieces.answer(adapter=adapter, said=said)


def _reading_functions(page: Page) -> list[Callable[[dict[str, object]], dict[str, object]]]:
    """What the browser asks for, again and again: `state`, `answers` and `file`. They only read."""

    def state(asked: dict[str, object]) -> dict[str, object]:
        return card_state(page, str(asked.get("adapter") or ""), str(asked.get("seen") or ""))

    def answers(asked: dict[str, object]) -> dict[str, object]:
        return {"html": _answers(page, str(asked.get("adapter") or ""), str(asked.get("test") or ""))}

    def file(asked: dict[str, object]) -> dict[str, object]:
        return _file(page, str(asked.get("adapter") or ""), str(asked.get("kind") or ""))

    return [state, answers, file]


def card_state(page: Page, adapter: str, seen: str) -> dict[str, object]:
    """What the card shows now; the proof's html only if the browser has not `seen` it.

    offer: now, again or "" for no button. way: {what, share} of the proof on its way, or null.
    """
    workspace, choice = page.workspace, _choice(page, adapter)
    shown: dict[str, object] = {"offer": "", "note": "", "said": "", "way": None, "seen": "", "title": "", "out": False}
    if choice is None or choice.folder is None:
        return shown | {"note": _not_yet(page, adapter), "html": ""}
    proof = workspace.proofs.of(choice.id)
    title = choice.name if choice.run is None else page.of(choice.label)
    shown |= {"title": title, "seen": "none", "out": choice.problem is None}
    if (way := workspace.proofs.progress()) is not None:
        under_way, done, total, what = way
        if under_way == choice.id:
            words = page.t("proof.progress", what=page.of(what), done=done, total=total) if done else page.of(what)
            shown["way"] = {"what": words, "share": done / total if total else 0}
        else:
            other = _choice(page, under_way)
            shown["note"] = page.t("proof.other", name=other.name if other else under_way)
    elif choice.source == "run" and choice.run is not None and choice.run.live:
        shown["note"] = _not_yet(page, adapter)
    else:
        shown["offer"] = "now" if proof is None else "again"
        if proof is None:
            shown["note"] = page.t("proof.offer")
    failed = workspace.proofs.failed(choice.id)
    shown["said"] = page.of(failed) if failed and shown["way"] is None else ""
    if proof is not None:
        shown["seen"] = f"{choice.id} {proof.created}"
    if shown["seen"] != seen:
        shown["html"] = proof_draw.draw(page, proof) if proof is not None else ""
    return shown


def _not_yet(page: Page, adapter: str) -> str:
    """Why there is nothing to prove."""
    active = page.workspace.active
    if active is not None and active.id == adapter:
        return page.t("proof.training.prove" if active.config.prove == "true" else "proof.training")
    return page.t("proof.empty")


def _choice(page: Page, adapter: str) -> AdapterChoice | None:
    return page.workspace.library.find(adapter) if adapter else None


def _answers(page: Page, adapter: str, test_id: str) -> str:
    proof = page.workspace.proofs.of(adapter)
    test = next((test for test in proof.tests if test.id == test_id), None) if proof else None
    if proof is None or test is None:
        return ""
    try:
        words = page.workspace.identity_words(adapter)
    except ModelError:
        words = ((), ())
    return proof_draw.draw_answers(page, test, words, proof.system)


def _file(page: Page, adapter: str, kind: str) -> dict[str, object]:
    """A proof as a file: {name, type, content}; the picture is an SVG, which the browser turns into a PNG."""
    proof, choice = page.workspace.proofs.of(adapter), _choice(page, adapter)
    if proof is None or choice is None or kind not in _FILES:
        return {}
    name = storage.slug(choice.name, "adapter")
    if kind == "png":
        return {"name": f"{name}-proof.png", "type": "image/svg+xml", "content": proofs.picture(proof, page.language)}
    if kind == "md":
        return {"name": f"{name}-proof.md", "type": "text/markdown", "content": proofs.markdown(proof, page.language)}
    return {"name": f"{name}-README.md", "type": "text/markdown", "content": proofs.model_card(proof)}

"""The end of the export dialog: how to run an adapter in other programs, and vLLM started, followed and stopped here.

Stands in the dialog of ui.exporting, which opens it by the document's event onecard-export; ui/static/serving.js listens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from core import vllm
from core.errors import ModelError, UserError
from core.export.elsewhere import adapter_commands, ask, messages
from core.library import AdapterChoice
from core.text import LANGUAGES, Text
from ui import address, export_draw, keys, locale, pieces
from ui.page import Page
from ui.pieces import safe

_STATIC = Path(__file__).parent / "static"
_PLACE = "127.0.0.1"
SHORTEST, LONGEST = 256, 10_000_000
# In the command that is shown, where the key was made for this one vLLM.
_MADE = "VLLM_API_KEY"


class ServingPanel(gr.HTML):
    """Value: {adapter, said} as JSON. Events: start (the adapter's `id`, `port`, `length`, `companions`) and stop."""

    def __init__(self, page: Page, **rest: object) -> None:
        self.shown_on, t = page, page.t  # gradio has a `page` of its own
        words = {"failed": t("serving.failed")}
        super().__init__(
            value="",
            html_template='<section class="sv" hidden><div data-is="body"></div>'
            '<p class="ex-problem" data-is="said" role="alert" hidden></p>'
            f'<details class="ex-more" data-is="log" hidden><summary>{safe(t("serving.log"))}</summary><pre tabindex="0"></pre>'
            "</details></section>",
            js_on_load=pieces.with_labels(words, (_STATIC / "serving.js").read_text("utf-8")),
            head=f"<style>{(_STATIC / 'serving.css').read_text('utf-8')}</style>",
            server_functions=_reading_functions(page),
            apply_default_css=False,
            **rest,
        )

    def api_info(self) -> dict[str, object]:
        """The value is JSON."""
        return {"type": "string"}

    def wire(self) -> None:
        """Connect the buttons; what they cannot do is said beside them, for a toast would lie under the dialog."""
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        self.start(self.shown_on.shown(self.on_start), None, [self], **quiet)
        self.stop(self.shown_on.shown(self.on_stop), None, [self], **quiet)

    def on_start(self, event: gr.EventData) -> str:
        """Give the card to vLLM and start it."""
        page, asked, said = self.shown_on, str(event.id), ""
        try:
            port = free_port(getattr(event, "port", None))
            also = getattr(event, "companions", False) is True
            length = context_length(getattr(event, "length", None))
            page.workspace.lending.start(asked, page.workspace.model, port, also, keys.for_vllm(), length)
        except UserError as error:
            said = error.of(page.language)
        return pieces.answer(adapter=asked, said=said)

    def on_stop(self, event: gr.EventData) -> str:
        """End vLLM; asked once more, at once."""
        self.shown_on.workspace.lending.server.stop(wait=False)
        return pieces.answer(adapter=str(event.id), said="")


def free_port(asked: object) -> int:
    """The port as a number. Raises UserError for what is none, or is somebody else's."""
    if type(asked) is not int or not 1024 <= asked <= 65535:
        raise UserError(_both("serving.port.odd"))
    try:
        address.listen(_PLACE, asked).close()
    except UserError:
        raise UserError(_both("serving.port.taken", address.holder(asked), port=asked)) from None
    return asked


def context_length(asked: object) -> int:
    """Tokens of a conversation, 0 where nothing is asked for. Raises UserError for what is no length."""
    if asked is None:
        return 0
    if type(asked) is not int or not SHORTEST <= asked <= LONGEST:
        raise UserError(_both("serving.length.odd", least=SHORTEST, most=LONGEST))
    return asked


def _reading_functions(page: Page) -> list[Callable[[dict[str, object]], dict[str, object]]]:
    """What the browser asks for, again and again. It only reads."""

    def serving(asked: dict[str, object]) -> dict[str, object]:
        return panel_state(page, str(asked.get("adapter") or ""), str(asked.get("seen") or ""))

    return [serving]


def panel_state(page: Page, adapter: str, seen: str) -> dict[str, object]:
    """What the panel shows now: its html only if the browser has not `seen` it, the log always."""
    server = page.workspace.lending.server
    choice = page.workspace.library.find(adapter)
    if choice is None or choice.folder is None or choice.body is None:
        return {"seen": "", "html": "", "log": "", "running": False}
    moment = f"{adapter} {server.state} {server.pid}"
    shown: dict[str, object] = {
        "seen": moment, "log": "\n".join(server.lines), "running": server.running,
        "failed": page.of(server.failure) if server.failure is not None else "",
    }  # fmt: skip
    if moment != seen:
        shown["html"] = _body(page, choice)
    return shown


def _body(page: Page, choice: AdapterChoice) -> str:
    t, model = page.t, choice.run.config.model if choice.run is not None else page.workspace.model
    return (
        f'<h3>{safe(t("serving.title"))}</h3><p class="ex-note">{safe(t("serving.note"))}</p>'
        f"{_commands(page, choice, model)}{_vllm(page, choice, model)}"
    )


def _commands(page: Page, choice: AdapterChoice, model: str) -> str:
    assert choice.folder is not None and choice.body is not None
    try:
        found = adapter_commands(choice.body, choice.folder, model, choice.name, choice.system, page.language)
    except ModelError as error:
        return f'<p class="ex-note">{safe(error.of(page.language))}</p>'
    return export_draw.how_to_run(page, found)


def _vllm(page: Page, choice: AdapterChoice, model: str) -> str:
    server = page.workspace.lending.server
    if server.running:
        return _running(page, choice)
    why = vllm.problem(choice.body) if choice.body is not None else None
    if why is None:
        try:
            vllm.found_or_refused()
        except UserError as error:
            why = error.text
    if why is not None:
        return f'<p class="sv-line">{safe(page.of(why))}</p>'
    try:
        companions = len(page.workspace.lending.companions(choice, model))
    except ModelError as error:  # its base is gone
        return f'<p class="sv-line">{safe(error.of(page.language))}</p>'
    return _form(page, choice, companions)


def _form(page: Page, choice: AdapterChoice, companions: int) -> str:
    t, run = page.t, choice.run
    also = (
        f'<label class="ex-tick"><input type="checkbox" name="companions">{safe(t("serving.companions", count=companions))}'
        "</label>"
        if companions
        else ""
    )
    four = (
        f'<p class="ex-note">{safe(t("serving.four", plugin=page.of(vllm.BNB_PLUGIN)))}</p>'
        if run is not None and run.config.quant_method == "bnb"
        else ""
    )
    return (
        f'<form class="sv-form" autocomplete="off"><button type="submit">{safe(t("serving.start"))}</button>'
        f'<label>{safe(t("serving.port"))}<input type="number" name="port" min="1024" max="65535" step="1" value="8000" '
        f'required></label><label title="--max-model-len">{safe(t("serving.length"))}<input type="number" name="context" '
        f'min="{SHORTEST}" max="{LONGEST}" step="1" placeholder="{safe(t("serving.length.whole"))}"></label>{also}'
        f'</form><p class="ex-note">{safe(t("serving.lent"))}</p>{four}'
    )


def _running(page: Page, choice: AdapterChoice) -> str:
    t, lending = page.t, page.workspace.lending
    server, call = lending.server, lending.call
    stop = t("serving.kill" if server.state == "stopping" else "serving.stop")
    button = f'<button type="button" data-is="stop">{safe(stop)}</button>'
    served = page.workspace.library.find(lending.adapter)
    folders = call.adapters.items() if call is not None else ()
    mine = next((name for name, folder in folders if folder == choice.folder), "")
    other = (
        f'<p class="ex-note">{safe(t("serving.other", name=served.name))}</p>'
        if served is not None and not mine
        else ""
    )
    if server.state != "ready" or call is None:
        what = t("serving.stopping") if server.state == "stopping" else t("serving.starting", pid=server.pid)
        return f'<div class="sv-line" role="status"><span>{safe(what)}</span>{button}</div>{other}'
    names = [*call.adapters, *call.names]
    asked = choice if mine else served
    held = keys.variable_of(lending.key)
    question = ask(call.port, mine or names[0], messages(asked.system if asked else "", page.language), held or _MADE)
    if not held:
        question = f"export {_MADE}={lending.key}\n{question}"
    key = t("serving.key.set", name=held) if held else t("serving.key.made")
    copy = f'<button type="button" data-act="copy">{safe(t("outside.copy"))}</button>'
    return (
        f'<div class="sv-line" role="status"><span>{safe(t("serving.ready"))} <code>http://{_PLACE}:{call.port}/v1</code></span>'
        f'{button}</div><p class="ex-note">{safe(t("serving.models", names=", ".join(names)))}</p>{other}'
        f'<p class="ex-note">{safe(key)}</p>'
        f'<div class="sv-ask"><pre><code>{safe(question)}</code></pre>{copy}</div>'
    )


def _both(key: str, holder: tuple[str, str] = ("", ""), **values: object) -> Text:
    """A sentence of the table in both languages; `holder` goes into its {holder}."""
    zh, en = (locale.t(language, key, holder=who, **values) for language, who in zip(LANGUAGES, holder, strict=True))
    return Text(zh, en)

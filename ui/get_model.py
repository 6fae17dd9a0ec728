"""Below the model picker: a hub's model that is not on this disk, its download, and which hub is asked."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from gradio.events import Dependency

from core.download import missing_bytes
from core.downloads import downloads_of, elsewhere
from core.hub import HUBS, Offer
from core.waiting import silent
from ui import notify
from ui.page import Page
from ui.pieces import checklist, note, safe, show_bytes
from ui.transfers import bar, in_words

Shown = dict[object, object]


class GetModel:
    """The offer, the bar and the two buttons. A model that has arrived is handed to the picker's own handler."""

    def __init__(self, page: Page) -> None:
        t, self.page, self._downloads = page.t, page, downloads_of(page.workspace.home)
        self.name, self.arrived = gr.State(""), gr.State("")
        self.panel = gr.HTML(elem_id="get-model", apply_default_css=False, visible=False)
        self.start = gr.Button(t("get.start"), visible=False, size="sm", variant="primary", elem_id="get-start")
        self.cancel = gr.Button(t("get.cancel"), visible=False, size="sm", elem_id="get-cancel")
        self.timer = gr.Timer(1.0, active=False)
        with gr.Accordion(t("hub.title"), open=False, elem_classes="oc-quiet"):
            hubs = [(page.of(label), name) for name, label in HUBS.items()]
            self.hub = gr.Radio(hubs, label=t("hub.which"), elem_id="hub")
            self.endpoint = gr.Textbox(label=t("hub.endpoint"), info=t("hub.endpoint.note"), elem_id="hub-endpoint")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What every handler here answers for."""
        return [self.panel, self.start, self.cancel, self.timer, self.name, self.arrived]

    def wire(
        self, demo: gr.Blocks, use: Callable[[str], list[object]], used: list[gr.components.Component]
    ) -> Dependency:
        """`use(name)` chooses a model that is here and answers for the components `used`; the event of its arrival."""
        shown, quiet, state = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}, self.outputs

        def on_arrived(name: str) -> list[object]:
            # A state's first value counts as a change, too.
            return use(name) if name else [gr.skip() for _ in used]

        # Without `arrived`, whose first value would count as a change: two events on every page that opens.
        loaded = [self.hub, self.endpoint, *(part for part in state if part is not self.arrived)]
        demo.load(shown(self.on_load), None, loaded, **quiet)
        self.start.click(shown(self.on_start), [self.name], state, **quiet)
        self.cancel.click(shown(self.on_cancel), None, state, **quiet)
        self.timer.tick(shown(self.on_tick), None, state, **quiet)
        arrival = self.arrived.change(shown(on_arrived), [self.arrived], used, **quiet)
        # Another hub brings its own address; an address is kept when it is entered.
        self.hub.input(shown(self.on_hub), [self.hub], [self.endpoint], **quiet)
        gr.on(
            [self.endpoint.submit, self.endpoint.blur], shown(self.on_hub), [self.hub, self.endpoint],
            [self.endpoint], **quiet,
        )  # fmt: skip
        return arrival

    def elsewhere(self, name: str | None) -> bool:
        """Whether `name` is a hub's model that is not on this disk: to be offered, not to be refused."""
        return elsewhere(name or "")

    def on_load(self) -> Shown:
        """The hub in use, and a download under way that another page may have started."""
        hub, told = self._downloads.hub, self._show()
        del told[self.arrived]
        quiet = not (self._downloads.active or self._downloads.asking or self._downloads.outcome)
        return {self.hub: hub.name, self.endpoint: hub.endpoint, **({} if quiet else told)}

    def on_typed(self, name: str | None) -> Shown:
        """Another model was entered: offer it if it is elsewhere, which asks the hub; what it refuses is a toast."""
        if self._downloads.active:
            return self._show()
        if self.elsewhere(name):
            with notify.told(self.page.language):
                return self._show(self._downloads.ask(name or ""))
        self._downloads.forget()
        nothing = dict.fromkeys((self.panel, self.start, self.cancel), gr.update(visible=False))
        return {**nothing, self.timer: gr.skip(), self.name: "", self.arrived: gr.skip()}

    def on_start(self, name: str) -> Shown:
        """Begin the download."""
        self._downloads.start(name)
        return self._show()

    def on_cancel(self) -> Shown:
        """Stop it, or the asking for it; what came is kept."""
        if self._downloads.asking:
            self._downloads.forget()
            return self._show()
        self._downloads.cancel()
        self._downloads.wait(2)
        return self._show()

    def on_tick(self) -> Shown:
        """A second later; a model that has arrived is chosen."""
        outcome = self._downloads.outcome
        here = outcome is not None and outcome.here and not self._downloads.active
        with notify.told(self.page.language):
            offer = self._downloads.answer()
            if offer is not None or self._downloads.asking:
                return self._show(offer)
        return {**self._show(), self.arrived: outcome.name if outcome is not None and here else gr.skip()}

    def on_hub(self, name: str, endpoint: str = "") -> str:
        """Ask another hub or mirror from now on; its address as it is kept."""
        return self._downloads.choose(name, endpoint).endpoint

    def _show(self, offer: Offer | None = None) -> Shown:
        """What there is to say now: the bar, how the download ended, the offer, or nothing."""
        asking, outcome = self._downloads.asking, self._downloads.outcome
        active = self._downloads.active or asking
        html = self._offered(offer) if offer is not None else self._drawn()
        again = outcome.name if outcome is not None and not outcome.here and not active else ""
        name = offer.name if offer is not None else again
        return {
            self.panel: gr.update(value=html, visible=bool(html)),
            self.start: gr.update(visible=bool(name) and not active),
            self.cancel: gr.update(visible=active, value=self.page.t("publish.cancel" if asking else "get.cancel")),
            self.timer: gr.Timer(active=active),
            self.name: name,
            self.arrived: gr.skip(),
        }

    def _offered(self, offer: Offer) -> str:
        size, left = show_bytes(offer.nbytes), missing_bytes(offer)
        words = self.page.t("get.offer", name=offer.name, hub=self.page.of(offer.hub.label), size=size)
        return note(words + (self.page.t("get.rest", size=show_bytes(left)) if left < offer.nbytes else ""))

    def _drawn(self) -> str:
        t, now, outcome = self.page.t, self._downloads.now, self._downloads.outcome
        if asked := self._downloads.asking:
            late = self.page.of(silent(self._downloads.hub.label, self._downloads.silent_seconds))
            return note(t("get.late", name=asked, late=late))
        if now is not None:
            words = in_words(self.page, "transfer.download", now)
            return f'<div class="oc-get"><span>{safe(words)}</span>{bar(words, now.share)}</div>'
        if self._downloads.active:
            return note(t("get.checking"))
        if outcome is None:
            return ""
        if outcome.here:
            return checklist([("ok", t("get.done", name=outcome.name))])
        problem = (
            self.page.of(outcome.problem) if outcome.problem is not None else t("get.cancelled", name=outcome.name)
        )
        return checklist([("bad" if outcome.problem is not None else "warn", problem)])

"""Tab 4: a conversation with the base model or any adapter, also while a run trains."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from core.generate import Column, Sampling
from core.served import ServedWorkspace
from ui import kept, keys, meter, snippets, talk
from ui.chatbot import Chatbot, edited
from ui.fix import FixBar, is_answer
from ui.library import open_button
from ui.page import Page
from ui.pieces import heading, leading, next_step, note
from ui.talk import Turn

Shown = dict[object, object]
_KEPT = "chat"


class ChatTab:
    """The tab's components and handlers."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.stops = talk.Stops()
        t = page.t
        with gr.Row(elem_classes="oc-columns"):
            with gr.Column(scale=7, min_width=420):
                self.chat = Chatbot(
                    elem_id="chat", elem_classes="oc-chat", label=t("chat.title"), height="calc(100dvh - 218px)",
                    min_height=300, placeholder=t("chat.empty"), editable="all", **talk.CHATBOT,
                )  # fmt: skip
                self.fix = FixBar(page, [self.chat], key="chat")
                self.meter = meter.Meter(talk.idle_meter(), elem_id="chat-meter")
                self.question = gr.Textbox(
                    show_label=False, label=t("chat.ask"), placeholder=t("chat.ask"), submit_btn=True, lines=1,
                    max_lines=8, container=False, elem_id="chat-ask", elem_classes="oc-ask",
                )  # fmt: skip
            with gr.Column(scale=3, min_width=290):
                self._build_settings()

    def _build_settings(self) -> None:
        t = self.page.t
        self.chosen = gr.State(False)  # whether the model was picked by hand
        with gr.Column(elem_classes="oc-card"):
            with gr.Row(elem_classes="oc-head-row"):
                heading(t("chat.settings"))
                open_button(self.page, elem_id="chat-library")
            # As the tab is opened with, mostly: what stays tells of no change.
            newest, offered = talk.newest(self.page), talk.choices(self.page)
            self.pick = gr.Dropdown(offered, value=newest, label=t("chat.model"), elem_id="chat-model", min_width=120)
            self.system = gr.Textbox(
                talk.system_of(self.page, newest), label=t("talk.system"), info=t("talk.system.note"), lines=2,
                max_lines=8, elem_id="chat-system",
            )  # fmt: skip
            self.temperature = gr.Slider(
                0, 1.5, 0.7, step=0.05, label=t("chat.temperature"), info=t("chat.temperature.note"),
                elem_id="chat-temperature",
            )  # fmt: skip
            self.length = gr.Slider(16, 4096, 512, step=16, label=t("chat.length"), elem_id="chat-length")
            self.clear = gr.Button(t("chat.clear"), size="sm", elem_id="chat-clear")
            with gr.Accordion(
                t("code.title"), open=False, elem_id="chat-code", elem_classes="oc-advanced"
            ) as self.code:
                self.snippets = snippets.Snippets(elem_id="chat-snippets")
        self.hint = gr.HTML(note(t("chat.hint")) + note(t("fix.hint")), apply_default_css=False)
        next_step(t("next.export", library=leading(t("next.library"), click="chat-library")))
        self.told = gr.Textbox(visible=False)

    @property
    def settings(self) -> list[gr.components.Component]:
        """What an answer depends on besides the conversation."""
        return [self.pick, self.system, self.temperature, self.length]

    @property
    def edited(self) -> list[gr.components.Component]:
        """What an edit in the conversation changes."""
        return list(dict.fromkeys([self.chat, self.meter, self.question, *self.fix.outputs]))

    def wire(self, demo: gr.Blocks) -> None:
        """Connect the tab to itself; the frame calls `on_changed` when runs come or go."""
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        answers = [self.chat, self.meter, self.question, *self.fix.closed]
        mine = [self.chat, *self.settings]
        kept.loaded(
            "chat", demo.load(shown(self.on_load), [self.told], [*mine, self.chosen], js=kept.reading(_KEPT), **quiet)
        )
        kept.keep(_KEPT, [part.change for part in mine], mine)
        self.pick.input(shown(self.on_pick), [self.pick], [self.system, self.chosen, self.pick], **quiet)
        again = (
            gr.on(
                [self.question.submit], shown(self.on_ask), [self.question, self.chat, *self.settings], answers, **quiet
            ),
            self.chat.retry(shown(self.on_retry), [self.chat, *self.settings], answers, **quiet),
            self.chat.edit(shown(self.on_edit), [self.chat, *self.settings], self.edited, **quiet),
            self.meter.fix(shown(self.on_again), [self.chat, *self.settings], [*answers, *self.settings[1:]], **quiet),
        )
        for event in again:
            # Both: gradio runs no `then` after an error.
            event.then(self.on_done, None, answers, **quiet)
            event.failure(self.on_failed, None, answers, **quiet)
        self.question.stop(self.on_stop, None, None, queue=False, api_visibility="private")
        self.chat.undo(shown(self.on_undo), [self.chat], answers, **quiet)
        gr.on(
            [self.clear.click, self.chat.clear], self.on_clear, [self.pick, self.system, self.chosen],
            [self.chat, self.meter, self.pick, self.system, *self.fix.closed], **quiet,
        )  # fmt: skip
        changes = [self.code.expand, self.pick.change, self.system.blur, self.temperature.change, self.length.change]
        gr.on(changes, shown(self.on_code), self.settings, [self.snippets], trigger_mode="always_last", **quiet)

    def on_load(self, told: str = "") -> Shown:
        """The page was opened: offer the newest finished run, or what this browser tab had before it was loaded anew."""
        newest, offered = talk.newest(self.page), talk.choices(self.page)
        shown: Shown = {
            self.pick: gr.update(choices=offered, value=newest),
            self.system: talk.system_of(self.page, newest),
        }
        mine = kept.values(told, 1 + len(self.settings))
        if mine is None:
            return shown
        history, pick, system, temperature, length = mine
        shown[self.chat] = kept.turns(history)
        if pick not in [adapter for _, adapter in offered]:
            return shown
        return {
            **shown,
            self.pick: gr.update(choices=offered, value=pick),
            self.system: kept.text(system, talk.system_of(self.page, str(pick))),
            self.temperature: kept.number(temperature, 0, 1.5, 0.7),
            self.length: kept.number(length, 16, 4096, 512),
            self.chosen: pick != newest,
        }

    @property
    def following(self) -> list[gr.components.Component]:
        """What `on_changed` reads."""
        return [self.pick, self.system, self.chosen, self.chat]

    def on_changed(self, pick: str, system: str, chosen: bool, history: list[Turn]) -> Shown:
        """Runs came or went: the newest one, until a model was picked by hand or a conversation began.

        That stays while it exists: in the middle of a conversation nobody else answers. A newer one is told of.
        """
        offered, newest = talk.choices(self.page), talk.newest(self.page)
        names = {run_id: name for name, run_id in offered}
        kept = pick if (chosen or history) and pick in names else newest
        prompt = system if kept == pick else talk.system_of(self.page, kept)
        later = self.page.t("who.newer", name=names[newest]) if history and not chosen and kept != newest else ""
        return {self.pick: gr.update(choices=offered, value=kept, info=later), self.system: prompt}

    def on_use(self, adapter: str) -> Shown:
        """An adapter was chosen in the library."""
        offered = gr.update(choices=talk.choices(self.page), value=adapter)
        return {self.pick: offered, self.system: talk.system_of(self.page, adapter), self.chosen: True}

    def on_pick(self, pick: str) -> Shown:
        """Another model: its training prompt becomes the system prompt, and this page keeps it."""
        return {self.system: talk.system_of(self.page, pick), self.chosen: True, self.pick: gr.update(info="")}

    def on_ask(self, request: gr.Request, question: str, history: list[Turn], *settings: object) -> Iterator[Shown]:
        """Send a message."""
        if not question.strip():
            yield gr.skip()  # a generator that yields nothing empties its outputs
        else:
            yield from self._answer(request, talk.asked(talk.plain(history), question), *settings)

    def on_retry(
        self, request: gr.Request, event: gr.RetryData, history: list[Turn], *settings: object
    ) -> Iterator[Shown]:
        """Answer the same message again."""
        yield from self._answer(request, talk.plain(history[: int(event.index) + 1]), *settings)

    def on_again(
        self, request: gr.Request, event: gr.EventData, history: list[Turn], pick: str, *settings: object
    ) -> Iterator[Shown]:
        """Ask the last question again, with what the button under a poor answer changes."""
        system, temperature, length = meter.changed(self.page, event, *settings)  # type: ignore[arg-type]
        before = talk.plain(history)
        while before and before[-1]["role"] != "user":
            before.pop()
        yield {self.system: system, self.temperature: temperature, self.length: length}
        if before:
            yield from self._answer(request, before, pick, system, temperature, length)

    def on_edit(
        self, request: gr.Request, event: gr.EditData, history: list[Turn], *settings: object
    ) -> Iterator[Shown]:
        """Answer a message that was changed; what came after it is dropped. A changed answer can become a row."""
        if is_answer(history, event.index):
            yield self.fix.begin(0, event, history, str(settings[0] or ""), str(settings[1] or ""))
            return
        before, (_, new) = talk.plain(history[: int(event.index)]), edited(str(event.previous_value), str(event.value))
        yield from self._answer(request, talk.asked(before, new), *settings)

    def on_undo(self, event: gr.UndoData, history: list[Turn]) -> Shown:
        """Take the last message back into the input."""
        index = int(event.index)  # counts gradio's turns, thoughts among them
        before, taken = talk.plain(history[:index]), talk.text_of(history[index])
        return {self.chat: before, self.question: taken, self.meter: talk.idle_meter(), **self.fix.hide()}

    def on_code(self, request: gr.Request, pick: str, system: str, temperature: float, length: float) -> str:
        """The settings as programs have them, at the address under which this page was opened."""
        # A browser names the page's address itself; behind a proxy only that one is right.
        address = request.headers.get("origin") or f"http://{request.headers['host']}"
        question = {"role": "user", "content": self.page.t("ask.who")}
        example = snippets.Example(
            address=address,
            model=ServedWorkspace(self.page.workspace).name_of(pick or None),
            messages=talk.messages(system or "", [question]),
            temperature=float(temperature),
            max_tokens=int(length),
            key=keys.variable(keys.access_here()),
        )
        return snippets.draw(self.page, example, keys.access_here())

    def _answer(
        self, request: gr.Request, history: list[Turn], pick: str, system: str, temperature: float, length: float
    ) -> Iterator[Shown]:
        sampling = Sampling(temperature=float(temperature), max_new_tokens=int(length))
        column = Column(talk.messages(system or "", history), pick or None)
        busy = gr.update(value="", submit_btn=False, stop_btn=True)
        stop = self.stops.begin(request.session_hash)
        try:
            yield {self.chat: history, self.meter: talk.meter(self.page, None), self.question: busy, **self.fix.hide()}
            for (reply,) in self.page.workspace.answer([column], sampling, stop):
                if stop.cleared:
                    break
                line = meter.draw(self.page, reply, sampling, bool(pick))
                yield {self.chat: talk.answered(history, reply), self.meter: line}
            if stop.cleared:
                yield self._empty()
        finally:
            stop.set()

    def on_done(self, request: gr.Request) -> Shown:
        """The input takes the next message."""
        ready = {self.question: gr.update(submit_btn=True, stop_btn=False)}
        return ready | self._empty() if self.stops.finish(request.session_hash) else ready

    def on_failed(self, request: gr.Request) -> Shown:
        """The toast says why there is no answer; nobody is thinking any more."""
        return self.on_done(request) | {self.meter: talk.idle_meter()}

    def on_stop(self, request: gr.Request) -> None:
        """Stop this page's answer; what is there stays."""
        self.stops.stop(request.session_hash)

    def on_clear(self, request: gr.Request, pick: str, system: str, chosen: bool) -> Shown:
        """Begin a new conversation, with the newest one if none was picked; an answer under way does not come back."""
        self.stops.clear(request.session_hash)
        return self._empty() | self.on_changed(pick, system, chosen, [])

    def _empty(self) -> Shown:
        return {self.chat: [], self.meter: talk.idle_meter(), **self.fix.hide()}

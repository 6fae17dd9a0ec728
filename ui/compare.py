"""Tab 3: one question, two models, answered side by side by one batched decode."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from core.generate import Column, Reply, Sampling
from ui import talk
from ui.chips import Chips
from ui.page import Page
from ui.pieces import tag
from ui.talk import BASE, Turn

Shown = dict[object, object]
_ANSWER = 512


class CompareTab:
    """The tab's components and handlers; A is the left column, B the right one."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.stops = talk.Stops()
        self.chosen = gr.State(False)  # whether B was picked by hand
        with gr.Row(elem_classes="oc-pair", equal_height=True):
            with gr.Column(min_width=300):
                self.pick_a, self.verdict_a, self.chat_a, self.meter_a = self._build_column("a")
            with gr.Column(min_width=300):
                self.pick_b, self.verdict_b, self.chat_b, self.meter_b = self._build_column("b")
        self._build_input()

    def _build_column(self, side: str) -> tuple[gr.Dropdown, gr.HTML, gr.Chatbot, gr.HTML]:
        t, label = self.page.t, {"a": "compare.a", "b": "compare.b"}[side]
        with gr.Row(elem_classes="oc-column-head"):
            gr.HTML(tag(side.upper(), {"a": "base", "b": "tuned"}[side]), apply_default_css=False, min_width=0)
            pick = gr.Dropdown([], label=t(label), show_label=False, elem_id=f"pick-{side}", min_width=120)
            verdict = gr.HTML(elem_id=f"verdict-{side}", apply_default_css=False, min_width=0)
        chat = gr.Chatbot(
            elem_id=f"chat-{side}", elem_classes="oc-chat", label=t(label), height="calc(100dvh - 338px)",
            min_height=260, placeholder=t("compare.empty"), **talk.CHATBOT,
        )  # fmt: skip
        meter = gr.HTML(talk.idle_meter(), elem_id=f"meter-{side}", apply_default_css=False)
        return pick, verdict, chat, meter

    def _build_input(self) -> None:
        t = self.page.t
        with gr.Row(elem_classes="oc-ask-head"):
            self.chips = Chips(_questions(self.page), label=t("compare.questions"), elem_id="questions")
            self.clear = gr.Button(t("compare.clear"), size="sm", elem_id="compare-clear", min_width=0)
        self.question = gr.Textbox(
            show_label=False, label=t("compare.ask"), placeholder=t("compare.ask"), submit_btn=True, lines=1, max_lines=6,
            container=False, elem_id="compare-ask", elem_classes="oc-ask",
        )  # fmt: skip
        with gr.Accordion(t("talk.system"), open=False, elem_classes="oc-advanced oc-system"):
            self.system = gr.Textbox(
                label=t("talk.system"), show_label=False, info=t("talk.system.note"), lines=1, max_lines=4,
                elem_id="compare-system",
            )  # fmt: skip

    @property
    def picks(self) -> list[gr.components.Component]:
        """The two pickers and the system prompt that follows them."""
        return [self.pick_a, self.pick_b, self.system]

    @property
    def answers(self) -> list[gr.components.Component]:
        """What an answer changes."""
        sides = [self.chat_a, self.chat_b, self.meter_a, self.meter_b, self.verdict_a, self.verdict_b]
        return [*sides, self.question]

    def wire(self, demo: gr.Blocks) -> None:
        """Connect the tab to itself; the frame calls `on_changed` when runs come or go."""
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        demo.load(shown(self.on_load), None, self.picks, **quiet)
        for pick, handler in ((self.pick_a, self.on_pick), (self.pick_b, self.on_pick_b)):
            pick.input(shown(handler), [self.pick_a, self.pick_b], [self.system, self.chosen], **quiet)
        inputs = [self.question, self.chat_a, self.chat_b, *self.picks]
        asking = gr.on([self.question.submit, self.chips.submit], shown(self.on_ask), inputs, self.answers, **quiet)
        # Both: gradio runs no `then` after an error.
        asking.then(self.on_done, None, self.answers, **quiet)
        asking.failure(self.on_failed, None, self.answers, **quiet)
        self.question.stop(self.on_stop, None, None, queue=False, api_visibility="private")
        gr.on([self.clear.click, self.chat_a.clear, self.chat_b.clear], self.on_clear, None, self.answers, **quiet)

    def on_load(self) -> Shown:
        """The page was opened: the base on the left, the newest finished run on the right."""
        offered, newest = talk.choices(self.page), talk.newest(self.page)
        return {
            self.pick_a: gr.update(choices=offered, value=BASE),
            self.pick_b: gr.update(choices=offered, value=newest),
            self.system: talk.system_of(self.page, newest),
        }

    def on_changed(self, pick_a: str, pick_b: str, system: str, chosen: bool) -> Shown:
        """Runs came or went: B follows the newest one until it was picked by hand; what was picked stays while it exists."""
        offered = talk.choices(self.page)
        known = [run_id for _, run_id in offered]
        kept_a = pick_a if pick_a in known else BASE
        kept_b = pick_b if chosen and pick_b in known else talk.newest(self.page)
        return {
            self.pick_a: gr.update(choices=offered, value=kept_a),
            self.pick_b: gr.update(choices=offered, value=kept_b),
            self.system: system if (kept_a, kept_b) == (pick_a, pick_b) else talk.system_of(self.page, kept_b, kept_a),
        }

    def on_pick(self, pick_a: str, pick_b: str) -> tuple[str, object]:
        """Another model: its training prompt becomes the system prompt."""
        return talk.system_of(self.page, pick_b, pick_a), gr.skip()

    def on_pick_b(self, pick_a: str, pick_b: str) -> tuple[str, object]:
        """Another model for B: from now on this page keeps it while it exists."""
        return talk.system_of(self.page, pick_b, pick_a), True

    def on_ask(
        self, request: gr.Request, event: gr.EventData, question: str, chat_a: list[Turn], chat_b: list[Turn],
        pick_a: str, pick_b: str, system: str,
    ) -> Iterator[Shown]:  # fmt: skip
        """Ask both columns; a chip brings its own question."""
        question = (getattr(event, "_data", None) or {}).get("question") or question
        if not question.strip():
            yield gr.skip()  # a generator that yields nothing empties its outputs
            return
        histories = [talk.asked(talk.plain(chat_a), question), talk.asked(talk.plain(chat_b), question)]
        adapters = [pick_a or None, pick_b or None]
        columns = [Column(talk.messages(system, h), a) for h, a in zip(histories, adapters, strict=True)]
        stop = self.stops.begin(request.session_hash)
        try:
            yield self._begun(histories)
            for replies in self.page.workspace.answer(columns, Sampling(max_new_tokens=_ANSWER), stop):
                if stop.cleared:
                    break
                yield self._so_far(histories, replies, question, judge=pick_b or pick_a)
            if stop.cleared:
                yield self._empty()
        finally:
            stop.set()

    def _so_far(self, histories: list[list[Turn]], replies: list[Reply], question: str, judge: str) -> Shown:
        texts = [talk.answered(h, reply) for h, reply in zip(histories, replies, strict=True)]
        shown: Shown = {self.chat_a: texts[0], self.chat_b: texts[1]}
        shown |= {self.meter_a: talk.meter(self.page, replies[0]), self.meter_b: talk.meter(self.page, replies[1])}
        for place, reply in zip((self.verdict_a, self.verdict_b), replies, strict=True):
            shown[place] = talk.verdict(self.page, judge, question, reply.text) if reply.done else ""
        return shown

    def _begun(self, histories: list[list[Turn]]) -> Shown:
        starting = talk.meter(self.page, None)
        return {
            self.chat_a: histories[0],
            self.chat_b: histories[1],
            **{self.meter_a: starting, self.meter_b: starting, self.verdict_a: "", self.verdict_b: ""},
            self.question: gr.update(value="", submit_btn=False, stop_btn=True),
        }

    def on_done(self, request: gr.Request) -> Shown:
        """The input takes the next question."""
        ready = {self.question: gr.update(submit_btn=True, stop_btn=False)}
        return ready | self._empty() if self.stops.finish(request.session_hash) else ready

    def on_failed(self, request: gr.Request) -> Shown:
        """The toast says why there is no answer; nobody is thinking any more."""
        return self.on_done(request) | {self.meter_a: talk.idle_meter(), self.meter_b: talk.idle_meter()}

    def on_stop(self, request: gr.Request) -> None:
        """Stop this page's answer; what is there stays."""
        self.stops.stop(request.session_hash)

    def on_clear(self, request: gr.Request) -> Shown:
        """Begin both conversations anew; an answer under way is stopped and does not come back."""
        self.stops.clear(request.session_hash)
        return self._empty()

    def _empty(self) -> Shown:
        line = talk.idle_meter()
        return {
            **{self.chat_a: [], self.chat_b: [], self.meter_a: line, self.meter_b: line},
            **{self.verdict_a: "", self.verdict_b: ""},
        }


def _questions(page: Page) -> list[str]:
    keys = ("ask.who", "ask.maker", "ask.other", "ask.introduce", "ask.fact", "ask.code")
    t = page.t
    return [t(key) for key in keys]

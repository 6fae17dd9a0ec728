"""Tab 3: one question, up to six columns, answered side by side by one batched decode."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import gradio as gr

from core import comparison, comparison_file, token_view
from core.comparison import MOST_COLUMNS, Session, Setup, Speaker
from core.generate import Reply, Sampling
from ui import compare_columns, compare_rounds, notify, pieces, talk
from ui.chips import Chips
from ui.compare_blind import Blind
from ui.compare_columns import PROMPTED, Side, Wanted
from ui.compare_export import Export, handed_over
from ui.compare_heads import SETTINGS, Heads
from ui.compare_rounds import Asking
from ui.compare_set import QuestionSet
from ui.fix import FixBar
from ui.library import open_button
from ui.page import Page
from ui.pieces import note
from ui.talk import BASE

Shown = dict[object, object]
_FIRST = 2  # columns of a fresh page
_FOCUS = "() => { document.querySelector('#compare-ask textarea')?.focus(); }"
_UNFOLD = "pick => {{ if (pick === '{pick}') onecard.unfold(document.querySelector('#{side}'), true); }}"
_ASKED_BY_CHIP = "question"


class CompareTab:
    """The tab's components and handlers; A is the first column, B the one that follows the newest run."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.stops = talk.Stops()
        self.chosen = gr.State(False)  # whether B was picked by hand
        self.count = gr.State(_FIRST)
        self.session = gr.State(Session())
        self.hidden, self.heads = Blind(page), Heads(page, self)
        with gr.Row(elem_classes="oc-pair"):
            self.sides = [Side(page, i, shown=i < _FIRST) for i in range(MOST_COLUMNS)]
        self.legend = gr.HTML(
            compare_rounds.legend(page), visible=False, elem_id="token-legend", apply_default_css=False
        )
        self.fix = FixBar(page, [side.chat for side in self.sides], key="compare")
        self._build_input()
        self._build_more()

    def _build_input(self) -> None:
        t, self.stock = self.page.t, _questions(self.page)
        with gr.Row(elem_classes="oc-ask-head"):
            self.chips = Chips(self.stock, label=t("compare.questions"), elem_id="questions")
            self.add = gr.Button(t("compare.add"), size="sm", elem_id="compare-add", min_width=0)
            self.clear = gr.Button(t("compare.clear"), size="sm", elem_id="compare-clear", min_width=0)
        self.question = gr.Textbox(
            show_label=False, label=t("compare.ask"), placeholder=t("compare.ask"), submit_btn=True, lines=1, max_lines=6,
            container=False, elem_id="compare-ask", elem_classes="oc-ask",
        )  # fmt: skip

    def _build_more(self) -> None:
        """The line below the input: what unfolds, then what is switched on, then the files."""
        t, kind = self.page.t, "oc-advanced oc-tool"
        with gr.Row(elem_classes="oc-tools", elem_id="compare-tools"):
            with gr.Accordion(
                t("talk.system"), open=False, elem_classes=f"{kind} oc-system", elem_id="compare-system-box"
            ):
                self.system = gr.Textbox(
                    label=t("talk.system"), show_label=False, info=t("talk.system.note"), lines=1, max_lines=4,
                    elem_id="compare-system",
                )  # fmt: skip
            with gr.Accordion(t("sampling.title"), open=False, elem_classes=kind, elem_id="compare-sampling"):
                self.sampling = compare_rounds.sampling_fields(self.page)
            with gr.Accordion(t("set.title"), open=False, elem_classes=kind, elem_id="compare-set"):
                self.set = QuestionSet(self.page, self.stock)
            self.library = open_button(self.page, elem_id="compare-library")
            self.blind = gr.Checkbox(
                False, label=t("blind.title"), elem_id="compare-blind", container=False, min_width=0
            )
            self.probabilities = gr.Checkbox(
                False, label=t("tokens.title"), elem_id="compare-probabilities", container=False, min_width=0
            )
            self.export = Export(self.page, elem_id="compare-export", min_width=0)
        pieces.next_step(t("next.compare.note", chat=pieces.leading(t("next.chat"), go="chat")))

    # What the frame and its neighbours use

    @property
    def pick_b(self) -> gr.Dropdown:
        """The picker of the column that follows the newest run."""
        return self.sides[1].pick

    @property
    def picks(self) -> list[gr.components.Component]:
        """The pickers and the system prompt that follows them."""
        return [*(side.pick for side in self.sides), self.system]

    @property
    def taken(self) -> list[gr.components.Component]:
        """What `on_use` changes."""
        return [*self.sides[1].settled, self.sides[1].tag, self.system, self.chosen]

    @property
    def answers(self) -> list[gr.components.Component]:
        """What an answer changes."""
        return [
            *(part for side in self.sides for part in side.answers),
            self.question,
            *self.hidden.outputs,
            *self.fix.closed,
            self.pick_b,
        ]

    @property
    def situation(self) -> list[gr.components.Component]:
        """What an answer depends on."""
        return [
            self.session,
            self.count,
            self.system,
            *self.sampling,
            *(part for side in self.sides for part in side.inputs),
        ]

    def wire(self) -> None:
        """Connect the tab to itself; the frame calls `heads.on_changed` when runs come or go, ui.compare_place opens it."""
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        inputs = [self.question, self.blind, self.probabilities, *self.situation]
        asked = [self.question.submit, self.chips.submit]
        self.asking = asking = gr.on(asked, shown(self.on_ask), inputs, self.answers, **quiet)
        # Both: gradio runs no `then` after an error.
        asking.then(self.on_done, None, self.answers, **quiet)
        asking.failure(self.on_failed, None, self.answers, **quiet)
        self.question.stop(self.on_stop, None, None, queue=False, api_visibility="private")
        clears = [self.clear.click, *(side.chat.clear for side in self.sides)]
        heads = self.heads
        cleared = gr.on(clears, self.on_clear, [self.session], [*self.answers, *heads.notes], **quiet)
        # B was kept by its answers: without them it follows again.
        cleared.then(shown(heads.on_changed), heads.inputs, heads.outputs, **quiet)
        self.set.wire(self.situation, self._read_set, self.blind)
        self.probabilities.input(
            shown(self.on_probabilities), [self.probabilities, self.session, self.count],
            [*(side.tokens for side in self.sides), self.legend], **quiet,
        )  # fmt: skip
        self.export.export(shown(self.on_export), [self.session], [self.export], **quiet)
        self._wire_columns()
        self._wire_blind()
        heads.wire()

    def _wire_columns(self) -> None:
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        picks = [side.pick for side in self.sides]
        everything = [part for side in self.sides for part in [side.box, *side.settled, *side.answers]]
        settled = [part for side in self.sides for part in side.settled]
        self.add.click(shown(self.on_add), [self.count, *settled], [self.count, self.add, *everything], **quiet)
        kept = [part for side in self.sides for part in [*side.inputs, side.meter, side.verdict]]
        for side in self.sides:
            own, i = [*side.settled, side.tag], side.index
            picked = side.pick.input(
                shown(self._picker(i)), [self.count, self.system, *picks], [*own, self.system, self.chosen], **quiet
            )
            picked.then(
                None,
                [side.pick],
                None,
                js=_UNFOLD.format(side=side.box.elem_id, pick=PROMPTED),
                api_visibility="private",
            )
            edited = [side.chat, *side.settled, self.system, self.blind]
            side.chat.edit(shown(compare_columns.editor(self.fix, i)), edited, self.fix.outputs, **quiet)
            changed = [side.strength.release, side.strength.input, side.own.input]
            gr.on(changed, side.on_settings, side.settled, [side.tag, side.prompt], trigger_mode="always_last", **quiet)
            side.tools.remove(
                shown(self._remover(i)), [self.session, self.count, *kept], [self.count, self.add, *everything], **quiet
            )

    def _wire_blind(self) -> None:
        shown, quiet = self.page.shown, {"show_progress": "hidden", "api_visibility": "private"}
        heads = [part for side in self.sides for part in (side.tools, side.settings, side.tag, side.note)]
        heads += [side.pick for side in self.sides if side.pick is not self.pick_b]
        settled = [part for side in self.sides for part in side.settled]
        self.blind.input(
            shown(self.on_blind),
            [self.blind, self.session, self.count, *settled],
            [*self.answers, *heads, self.add, self.library],
            **quiet,
        )
        self.voted: list[object] = []
        buttons = [*((side.vote, side.index) for side in self.sides), (self.hidden.tie, None)]
        for button, place in buttons:
            voted = button.click(shown(self._voter(place)), [self.session], self.answers, **quiet)
            self.voted.append(voted)
            voted.then(None, None, None, js=_FOCUS, api_visibility="private")

    # Columns

    def fresh(self) -> Shown:
        """The base on the left, the newest finished run on the right."""
        offered, newest = compare_columns.choices(self.page), talk.newest(self.page)
        shown: Shown = {side.pick: gr.update(choices=offered, value=BASE) for side in self.sides}
        return {
            **shown,
            **self.sides[1].settle(newest, 1.0, False, "", offered),
            self.system: talk.system_of(self.page, newest),
        }

    def on_use(self, adapter: str) -> Shown:
        """An adapter was chosen in the library: it is B from now on."""
        offered = compare_columns.choices(self.page)
        shown = self.sides[1].settle(adapter, 1.0, False, "", offered)
        return {**shown, self.system: talk.system_of(self.page, adapter), self.chosen: True}

    def _picker(self, index: int) -> object:
        def on_pick(count: int, system: str, *picks: str) -> Shown:
            """Another model: its training prompt becomes the system prompt; the base told who to be gets its own."""
            pick, side, shown = picks[index], self.sides[index], list(picks[:count])
            prompt = compare_columns.control_prompt(self.page, [p for p in shown if p]) if pick == PROMPTED else ""
            changed = side.settle(pick, 1.0, pick == PROMPTED, prompt)
            del changed[side.pick]  # it is as the person set it
            chosen = {self.chosen: True} if index == 1 else {}
            return {**changed, self.system: system if pick == PROMPTED else self.heads.system_of(shown), **chosen}

        return on_pick

    def on_add(self, count: int, *settled: object) -> object:
        """One more column: the base told who to be, the honest control; then adapters not here yet; then half of one."""
        if count >= MOST_COLUMNS:
            return gr.skip()
        picks = [str(pick or BASE) for pick in settled[: count * SETTINGS : SETTINGS]]
        control = compare_columns.control_prompt(self.page, [pick for pick in picks if pick])
        offered, fresh = compare_columns.choices(self.page), PROMPTED not in picks and bool(control)
        rest = [value for _, value in offered if value not in (BASE, PROMPTED, *picks)]
        pick = PROMPTED if fresh else next(iter(rest), talk.newest(self.page))
        side, strength = self.sides[count], 1.0 if fresh or rest or pick == BASE else 0.5
        return {
            self.count: count + 1,
            self.add: gr.update(interactive=count + 1 < MOST_COLUMNS),
            side.box: gr.update(visible=True),
            **side.clear(),
            **side.settle(pick, strength, fresh, control if fresh else "", offered),
        }

    def _remover(self, index: int) -> object:
        def on_remove(request: gr.Request, session: Session, count: int, *values: object) -> object:
            """A column goes; those after it move up with what they said."""
            if count <= _FIRST or index >= count or self.stops.answering(request.session_hash):
                return gr.skip()
            each = [list(values[7 * i : 7 * i + 7]) for i in range(count)]
            del each[index]
            session.leave(index)
            last, shown = self.sides[count - 1], {self.count: count - 1, self.add: gr.update(interactive=True)}
            shown |= {last.box: gr.update(visible=False), **last.settle(BASE, 1.0, False, ""), **last.clear()}
            for side, (pick, strength, own, prompt, history, meter, verdict) in zip(self.sides, each, strict=False):
                if side.index >= index:
                    shown |= side.settle(str(pick or BASE), float(strength or 0), bool(own), str(prompt or ""))
                    shown |= {side.chat: talk.plain(history), side.meter: meter, side.verdict: verdict, side.tokens: ""}
            return shown

        return on_remove

    # Answers

    def _read(self, *situation: object) -> tuple[Session, list[Setup], Sampling, list[Wanted]]:
        session, count, system, *rest = situation
        sampling = compare_rounds.sampling(rest[: len(self.sampling)])
        wanted = compare_columns.read(self.page, count, rest[len(self.sampling) :])
        names = {value: name for name, value in talk.choices(self.page)}
        setups = [compare_columns.setup(self.page, one, str(system or ""), names) for one in wanted]
        return session, setups, sampling, wanted

    def _read_set(self, *situation: object) -> tuple[Session, list[Setup], Sampling]:
        return self._read(*situation)[:3]

    def on_ask(
        self,
        request: gr.Request,
        event: gr.EventData,
        question: str,
        blind: bool,
        probabilities: bool,
        *situation: object,
    ) -> Iterator[Shown]:
        """Ask every column; a chip brings its own question."""
        question = (getattr(event, "_data", None) or {}).get(_ASKED_BY_CHIP) or question
        if not question.strip():
            yield gr.skip()  # a generator that yields nothing empties its outputs
            return
        session, setups, sampling, wanted = self._read(*situation)
        asking = Asking(
            question, setups, [talk.asked([] if blind else one.history, question) for one in wanted], sampling,
            compare_columns.words_of(self.page, setups),
            comparison.shuffled(len(setups)) if blind else tuple(range(len(setups))), blind, time.time(), wanted,
        )  # fmt: skip
        yield from self._answer(request.session_hash, asking, session, probabilities)

    def _answer(self, visit: str, asking: Asking, session: Session, probabilities: bool) -> Iterator[Shown]:
        columns = [
            setup.column(talk.messages("", history))
            for setup, history in zip(asking.setups, asking.histories, strict=True)
        ]
        wanted = replace(asking.sampling, logprobs=token_view.LOGPROBS if probabilities else None)
        stop, replies = self.stops.begin(visit), []
        try:
            session.give_up()
            yield self._begun(asking)
            for replies in self.page.workspace.answer(columns, wanted, stop):
                if stop.cleared:
                    break
                yield self._so_far(asking, replies)
            if stop.cleared:
                yield self.empty()
            else:
                session.add(asking.round(replies, self.page.workspace.model))
                if not asking.blind:
                    session.said(
                        [
                            Speaker(one.adapter, one.strength, head.own, one.label)
                            for one, head in zip(asking.setups, asking.heads, strict=True)
                        ]
                    )
                if stop.cleared:  # meanwhile
                    session.forget()
                yield self._finished(asking, replies, session, probabilities)
        finally:
            stop.set()

    def _placed(self, asking: Asking) -> list[tuple[Side, int]]:
        """Each side with the column that stands there."""
        return list(zip(self.sides, asking.order, strict=False))

    def _begun(self, asking: Asking) -> Shown:
        shown: Shown = {self.question: gr.update(value="", submit_btn=False, stop_btn=True), **self.fix.hide()}
        for side, column in self._placed(asking):
            shown |= side.show(asking.histories[column], None)
        if not asking.blind and len(asking.heads) > 1:
            # As it was asked: a run that ended since may have given the column another head.
            side, asked = self.sides[1], asking.heads[1]
            shown[side.pick] = gr.update(value=asked.pick, choices=compare_columns.choices(self.page))
            shown[side.tag] = side.draw_tag(asked.pick, asked.strength, asked.own)
        return shown | (self.hidden.begun(self.sides[: len(asking.order)]) if asking.blind else {})

    def _so_far(self, asking: Asking, replies: Sequence[Reply]) -> Shown:
        shown: Shown = {}
        for side, column in self._placed(asking):
            reply, verdict = replies[column], ""
            if reply.done and not asking.blind:
                said = comparison.judge(asking.question, reply.text, asking.words[column])
                verdict = compare_columns.draw_verdict(self.page, said)
            shown |= side.show(asking.histories[column], reply, verdict)
            if asking.blind and reply.first_token_seconds is not None:
                shown[side.meter] = talk.idle_meter()  # a column could be known by its pace
        return shown

    def _finished(self, asking: Asking, replies: Sequence[Reply], session: Session, probabilities: bool) -> Shown:
        shown = self._so_far(asking, replies)
        sides = self.sides[: len(asking.order)]
        if asking.blind:
            shown |= self.hidden.waiting(sides)
        return shown | (
            compare_rounds.tokens(self.page, self.sides, session.latest, len(sides)) if probabilities else {}
        )

    def on_done(self, request: gr.Request) -> Shown:
        """The input takes the next question."""
        ready = {self.question: gr.update(submit_btn=True, stop_btn=False)}
        return ready | self.empty() if self.stops.finish(request.session_hash) else ready

    def on_failed(self, request: gr.Request) -> Shown:
        """The toast says why there is no answer; nobody is thinking any more."""
        return self.on_done(request) | {side.meter: talk.idle_meter() for side in self.sides}

    def on_stop(self, request: gr.Request) -> None:
        """Stop this page's answer; what is there stays."""
        self.stops.stop(request.session_hash)

    def on_clear(self, request: gr.Request, session: Session) -> Shown:
        """Begin the conversations anew; an answer under way is stopped and does not come back."""
        self.stops.clear(request.session_hash)
        session.give_up()
        session.forget()
        return self.empty() | dict.fromkeys(self.heads.notes, "")

    def empty(self) -> Shown:
        """No conversation in any column."""
        shown: Shown = {self.hidden.note: note(self.page.t("blind.note")), self.hidden.tie: gr.update(visible=False)}
        shown |= self.fix.hide()
        for side in self.sides:
            shown |= side.clear()
        return shown

    # Probabilities, blind rounds, files

    def on_probabilities(self, on: bool, session: Session, count: int) -> Shown:
        """Show the last answers' probabilities, or the conversation again."""
        tokens = compare_rounds.tokens(self.page, self.sides, session.latest if on else None, int(count))
        return {**tokens, self.legend: gr.update(visible=on)}

    def on_blind(self, request: gr.Request, on: bool, session: Session, count: int, *settled: object) -> Shown:
        """Every question stands alone from now on, and its answers have no names until a vote."""
        self.stops.clear(request.session_hash)
        session.give_up()
        session.forget()
        shown = self.hidden.switch(self.sides[: int(count)], on)
        for i, side in enumerate(self.sides[: int(count)]):
            pick, strength, own, _ = settled[SETTINGS * i : SETTINGS * (i + 1)]
            shown[side.tag] = (
                side.draw_blind() if on else side.draw_tag(str(pick or BASE), float(strength or 0), bool(own))
            )
        # An adapter of the library would become B: not while B is only a place.
        return {**shown, self.add: gr.update(visible=not on), self.library: gr.update(visible=not on)}

    def _voter(self, place: int | None) -> object:
        def on_vote(session: Session) -> object:
            """The vote tells who was who."""
            one = session.vote(place)
            return gr.skip() if one is None else self.hidden.revealed(self.sides, one, session)

        return on_vote

    def on_export(self, event: gr.EventData, session: Session) -> object:
        """Everything that this page compared, as a file."""
        if not session.told:
            notify.warn(self.page.t("export.nothing"))
            return gr.skip()
        kind = "json" if event.kind == "json" else "md"
        return handed_over(*comparison_file.write(session, kind, self.page.language))


def _questions(page: Page) -> list[str]:
    keys = ("ask.who", "ask.maker", "ask.other", "ask.introduce", "ask.fact", "ask.code")
    t = page.t
    return [t(key) for key in keys]

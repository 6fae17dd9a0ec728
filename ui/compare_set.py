"""The question set of Compare: a list of questions put to every column, and the table of their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import gradio as gr

from core import comparison
from core.comparison import LETTERS, MOST_QUESTIONS, Answer, Round, Session, Setup
from core.dataset import Message
from core.errors import DatasetError
from core.generate import Sampling
from core.text import Text
from ui import compare_columns, notify, talk, transfers
from ui.page import Page
from ui.pieces import note, safe, show_seconds, tag

Shown = dict[object, object]
_AT_ONCE = 24  # rows of one batch: more of them would make everybody else's answers slow
_REDRAWN_SECONDS = 0.5
_KNOWN_SECONDS = 1.5  # before that a pace is a guess
_FILTER = "on => { document.querySelector('#set-table').dataset.only = on ? 'yes' : ''; }"


@dataclass(frozen=True)
class Way:
    """How far a run of the set is: answers that are whole, of all there will be, after so many seconds."""

    whole: int
    answers: int
    columns: int
    seconds: float

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.whole / self.answers

    @property
    def per_minute(self) -> float | None:
        """Questions a minute, each asked of every column; None while that is not known."""
        known = self.whole and self.seconds >= _KNOWN_SECONDS
        return 60 * self.whole / self.columns / self.seconds if known else None

    @property
    def seconds_left(self) -> float | None:
        """At that pace."""
        pace = self.per_minute
        return 60 * (self.answers - self.whole) / self.columns / pace if pace else None


class QuestionSet:
    """The list, its buttons and the table. `situation` reads the columns and the sampling of the tab."""

    def __init__(self, page: Page, stock: Sequence[str]) -> None:
        self.page, self.stops, t = page, talk.Stops(), page.t
        self.list = gr.Textbox(
            "\n".join(stock), label=t("set.list"), info=t("set.list.note"), lines=4, max_lines=12, elem_id="set-list"
        )
        with gr.Row(elem_classes="oc-set-acts"):
            self.run = gr.Button(t("set.run"), size="sm", variant="primary", elem_id="set-run", min_width=0)
            self.stop = gr.Button(t("set.stop"), size="sm", visible=False, elem_id="set-stop", min_width=0)
            self.only = gr.Checkbox(False, label=t("set.only"), elem_id="set-only", container=False, min_width=0)
        self.table = gr.HTML("", elem_id="set-table", apply_default_css=False)

    def wire(
        self,
        situation: list[gr.components.Component],
        read: Callable[..., tuple[Session, list[Setup], Sampling]],
        blind: gr.Checkbox,
    ) -> None:
        """Connect it; `read` makes the session, the columns and the sampling of the tab's components `situation`."""
        self._read = read
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        outputs = [self.table, self.run, self.stop]
        self.asked = running = self.run.click(
            self.page.shown(self.on_run), [self.list, blind, *situation], outputs, **quiet
        )
        running.then(self.on_done, None, [self.run, self.stop], **quiet)
        running.failure(self.on_done, None, [self.run, self.stop], **quiet)
        self.stop.click(self.on_stop, None, None, queue=False, api_visibility="private")
        self.only.input(None, [self.only], None, js=_FILTER, api_visibility="private")

    def on_run(self, request: gr.Request, text: str, blind: bool, *situation: object) -> Iterator[Shown]:
        """Ask every question of every column, each for itself; the table fills as answers come."""
        questions = _checked(comparison.questions_of(text or ""))
        if blind:
            notify.warn(self.page.t("set.blind"))
        if blind or not questions:
            yield gr.skip()
            return
        session, setups, sampling = self._read(*situation)
        stop = self.stops.begin(request.session_hash)
        done: list[Round] = []
        begun, answers = time.monotonic(), len(questions) * len(setups)
        yield {
            self.run: gr.update(visible=False),
            self.stop: gr.update(visible=True),
            self.table: self._draw_way(Way(0, answers, len(setups), 0.0)) + self._draw(setups, []),
        }
        try:
            many, drawn = max(1, _AT_ONCE // len(setups)), 0.0
            for at in range(0, len(questions), many):
                part: list[Round] = []
                for part in self._asked(questions[at : at + many], setups, sampling, stop):
                    if time.monotonic() - drawn > _REDRAWN_SECONDS:
                        drawn = time.monotonic()
                        rounds = [*done, *part]
                        whole = sum(bool(answer.finish) for one in rounds for answer in one.answers)
                        way = Way(whole, answers, len(setups), drawn - begun)
                        yield {self.table: self._draw_way(way) + self._draw(setups, rounds)}
                done += part
                if stop.is_set():
                    break
            left = stop.is_set() and len(done) < len(questions)
            words = self.page.t("set.stopped", done=len(done), count=len(questions)) if left else ""
            yield {self.table: (note(words) if words else "") + self._draw(setups, done)}
        finally:
            stop.set()
            session.questions = done  # also when something failed: an older run is not what the page shows

    def _asked(
        self, questions: Sequence[str], setups: Sequence[Setup], sampling: Sampling, stop: talk.Stop
    ) -> Iterator[list[Round]]:
        """A few questions in one batch; the rounds so far."""
        words = compare_columns.words_of(self.page, setups)
        asked, model = time.time(), self.page.workspace.model
        columns = [setup.column([Message("user", question)]) for question in questions for setup in setups]
        for replies in self.page.workspace.answer(columns, replace(sampling, logprobs=None), stop):
            rounds = []
            for i, question in enumerate(questions):
                theirs = replies[i * len(setups) : (i + 1) * len(setups)]
                answers = tuple(
                    Answer.of(reply, comparison.judge(question, reply.text, known) if reply.done else "")
                    for reply, known in zip(theirs, words, strict=True)
                )
                rounds.append(Round(question, tuple(setups), answers, sampling, model, asked, "questions"))
            yield rounds

    def on_done(self) -> Shown:
        """It may be run again."""
        return {self.run: gr.update(visible=True), self.stop: gr.update(visible=False)}

    def on_stop(self, request: gr.Request) -> None:
        """Stop this page's run; what is there stays."""
        self.stops.stop(request.session_hash)

    def _draw_way(self, way: Way) -> str:
        """Done of all, questions a minute and the time left, as a sentence and as a bar."""
        t, parts = self.page.t, [self.page.t("set.way", done=way.whole, count=way.answers)]
        if way.per_minute is not None and way.seconds_left is not None:
            parts.append(
                t("set.pace", pace=f"{way.per_minute:.0f}" if way.per_minute >= 10 else f"{way.per_minute:.1f}")
            )
            parts.append(t("transfer.left", time=show_seconds(way.seconds_left)))
        words = " · ".join(parts)
        return f'<div class="oc-set-way"><span>{safe(words)}</span>{transfers.bar(words, way.share)}</div>'

    def draw(self, rounds: Sequence[Round]) -> str:
        """The table of a run that is over."""
        cut = any(answer.finish == "cancelled" for one in rounds for answer in one.answers)
        return (note(self.page.t("talk.stopped")) if cut else "") + self._draw(rounds[0].columns, rounds)

    def _draw(self, setups: Sequence[Setup], rounds: Sequence[Round]) -> str:
        t = self.page.t
        if not rounds:
            return note(t("talk.starting"))
        finished = [one for one in rounds if all(answer.finish for answer in one.answers)]
        differing = sum(one.differs for one in finished)
        heads = "".join(
            f'<th scope="col">{tag(LETTERS[i], "tuned" if setup.adapter else "base")} <span>{safe(setup.label)}</span>'
            f"<small>{self._counts(rounds, i)}</small></th>"
            for i, setup in enumerate(setups)
        )
        rows = "".join(self._row(one) for one in rounds)
        summary = note(t("set.summary", count=len(rounds), differing=differing))
        same = f'<p class="oc-same">{safe(t("set.same"))}</p>' if not differing and len(finished) == len(rounds) else ""
        return (
            f'{summary}<div class="oc-set" tabindex="0" role="region" aria-label="{safe(t("set.title"))}"><table><thead><tr>'
            f'<th scope="col">{safe(t("set.question"))}</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{same}'
        )

    def _row(self, one: Round) -> str:
        cells = "".join(
            f'<td><div dir="auto">{safe(answer.text) or "…"}</div>{compare_columns.draw_verdict(self.page, answer.verdict)}</td>'
            for answer in one.answers
        )
        kind = "differs" if one.differs else "same"
        return f'<tr class="{kind}"><th scope="row">{safe(one.question)}</th>{cells}</tr>'

    def _counts(self, rounds: Sequence[Round], column: int) -> str:
        counted = comparison.counts(rounds, column)
        words = {"hit": "verdict.hit", "old": "verdict.old"}
        return " · ".join(
            f"{safe(self.page.t(key))} {counted[kind]}" for kind, key in words.items() if counted.get(kind)
        )


def _checked(questions: list[str]) -> list[str]:
    if len(questions) > MOST_QUESTIONS:
        raise DatasetError(
            Text(
                zh=f"问题集有 {len(questions)} 个问题，最多 {MOST_QUESTIONS} 个。请删去一些。",
                en=f"The question set has {len(questions)} questions; the limit is {MOST_QUESTIONS}. Take some out.",
            )
        )
    return questions

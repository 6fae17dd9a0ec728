"""Asking a run's questions while it trains: the base once before, the adapter again and again, each kept. Trains nothing.

What is asked is core.pinned's work, what follows from it core.taken's, where adapters are kept core.probed's.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from core import probed, proof_sets, taken
from core.adapters import WEIGHTS
from core.base_answers import BaseAnswers
from core.checkpoints import TrainerState
from core.dataset import Message
from core.engine import Engine
from core.errors import UserError
from core.generate import Column, Sampling, stream
from core.pinned import Question
from core.run import Run, Tell
from core.taken import Pace, Point

# Long enough for a sentence; the questions that are only counted name the identity early or not at all.
_SHOWN, _COUNTED = 48, 32
_FIRST_GUESS = 0.5  # seconds a probing takes, about right for a 7B on a card; where the base's answers were on disk
_PINNED_PART = 0.5  # of the time for asking between steps
_DEARER = 1.5  # an adapter's probing against the base's: it is read against the base, and saved


class Probing:
    """The questions of one run. `state` holds the base's answers, what asking took, and the points so far.

    `budget`: the drift that is within bounds, nats a token.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        asked: Sequence[Question],
        pace: Pace,
        budget: float,
        state: TrainerState,
        tell: Tell,
    ) -> None:
        self._engine, self._run, self._asked, self._pace, self._budget = engine, run, asked, pace, budget
        self._state, self._tell = state, tell
        self._all = False  # whether there is time to ask everything
        if len(state.base_answers) != len(asked):
            state.base_answers = []
        probed.tidy(run.folder)

    @property
    def points(self) -> list[Point]:
        """What was found so far, a point a probing."""
        return [Point.of(point) for point in self._state.points]

    def due(self, seconds: float) -> bool:
        """Whether to ask now, `seconds` into the run: the settings want it, it was not done, and it fits into the time.

        The pinned questions get half of the time, so that enough is left to ask everything. Once that passed, it is asked
        again in any case if the same would end the run.
        """
        state, whole = self._state, taken.whole(self.points)
        if not (self._asked and self._pace.due(state.step)) or state.probed_step == state.step:
            return False
        step, without = state.step, seconds - state.probe_seconds
        ends = self._run.config.stop_when_taken == "true" and bool(whole) and whole[-1].taken
        self._all = ends and self._pace.worth(step, without, state.probe_cost)
        self._all = self._all or self._pace.affordable(step, without, state.live_seconds, state.probe_cost)
        return self._all or self._pace.affordable(step, without, state.pinned_seconds, state.pinned_cost, _PINNED_PART)

    def before(self, stop: threading.Event | None) -> None:
        """Ask the base, unless its answers are known, and tell them as those of step 0. Set `stop` gives it up."""
        if not self._asked or self._state.base_answers:
            return
        begun, known = time.perf_counter(), BaseAnswers(self._engine, self._run.cache)
        conversations = [question.asked.messages for question in self._asked]
        limits = [self._limit(question) for question in self._asked]
        try:
            asked = known.missing(conversations, limits)
            said = known.ask(conversations, limits, lambda done: None, stop or threading.Event())
        except (UserError, RuntimeError) as error:  # questions are asked beside the training: they must not end it
            self._tell("unanswered", step=0, reason=str(error))
            return
        if said is None:
            return
        self._state.base_answers = [answer.text for answer in said]
        seconds = self._took(begun)
        shown = sum(question.shown for question in self._asked) / len(self._asked)
        self._state.probe_cost = _DEARER * seconds if asked == len(self._asked) else _FIRST_GUESS
        self._state.pinned_cost = self._state.probe_cost * shown
        answers, hits, total = self._judged(0, dict(enumerate(self._state.base_answers)))
        self._tell_probed(Point(0, hits, total, None), answers, seconds, None, live=False)

    def ask(self, card: Mapping[str, object], stop: threading.Event | None, saved: Path | None = None) -> None:
        """Ask the adapter as it is now, keep it, and tell what was found; `card` describes it.

        The pinned questions first, and the others if those pass and there is time. `saved`: the folder of a run that is
        over, which holds the adapter already; everything is asked then. Set `stop` ends it without an event; questions
        that could not be answered are told as that, and the run goes on.
        """
        self.before(stop)
        state, last = self._state, saved is not None
        if not state.base_answers:
            return
        begun = time.perf_counter()
        drift, kept = self._drift(stop)
        after = self._after(kept, last, stop)
        if after is None:
            return
        answers, hits, total = self._judged(state.step, after)
        whole = len(after) == len(self._asked)
        point = Point(state.step, hits, total, drift, whole and drift is not None and drift <= self._budget)
        state.points = [*(old for old in state.points if old[0] != state.step), point.listed]
        folder = self._keep(card, saved)
        state.probed_step = state.step
        seconds = self._took(begun)
        if not last:
            state.live_seconds += seconds
        if whole:
            state.probe_cost = seconds
        else:
            state.pinned_seconds, state.pinned_cost = state.pinned_seconds + seconds, seconds
        self._tell_probed(point, answers, seconds, folder, live=not last)
        if point.identity_holds and whole and self._run.last("acquired") is None:
            self._tell("acquired", step=point.step, hits=point.hits, total=point.total)

    def _after(self, kept: set[int], last: bool, stop: threading.Event | None) -> dict[int, str] | None:
        """The adapter's answers by the question's place: of all, or of the pinned ones while these do not pass."""
        found: dict[int, str] = {}
        for shown in (True, False):
            if not (shown or last):
                _, hits, total = self._judged(self._state.step, found)
                if not self._all or (total and not Point(self._state.step, hits, total, None).identity_holds):
                    break
            places = [index for index, question in enumerate(self._asked) if question.shown == shown]
            said = self._answers([index for index in places if index not in kept], stop)
            if said is None:
                return None
            found |= {index: said.get(index, self._state.base_answers[index]) for index in places}
        return found

    def _took(self, begun: float) -> float:
        """Count what a probing took."""
        seconds = time.perf_counter() - begun
        self._state.probe_seconds += seconds
        return seconds

    def _limit(self, question: Question) -> int:
        return _SHOWN if question.shown else _COUNTED

    def _answers(self, indices: Sequence[int], stop: threading.Event | None) -> dict[int, str] | None:
        """The adapter's answers to some of the questions, in one batch; None if there are none to go by."""
        columns = [Column(self._asked[index].asked.messages, self._run.id) for index in indices]
        each = [Sampling(max_new_tokens=self._limit(self._asked[index])) for index in indices]
        try:
            replies = list(stream(self._engine, columns, each, stop))[-1]
        except (UserError, RuntimeError) as error:
            self._tell("unanswered", step=self._state.step, reason=str(error))
            return None
        if stop is not None and stop.is_set():
            return None
        return {index: reply.text for index, reply in zip(indices, replies, strict=True)}

    def _drift(self, stop: threading.Event | None) -> tuple[float | None, set[int]]:
        """How far the general answers have moved: mean KL to the base over the base's own answers, nats a token.

        And the questions whose answer has stayed the same: every token of it is still the likeliest, so that they need
        not be asked.
        """
        from core.score import score

        resident, general = self._engine.resident, [i for i, asked in enumerate(self._asked) if not asked.identity]
        if resident is None or not general:
            return None, set()
        talks = [
            (*self._asked[index].asked.messages, Message("assistant", self._state.base_answers[index]))
            for index in general
        ]
        try:
            examples = [resident.encoder.example(talk) for talk in talks]
            scored = score(self._engine, self._run.id, examples, stop)
        except (UserError, RuntimeError) as error:
            self._tell("unanswered", step=self._state.step, reason=str(error))
            return None, set()
        values = [value for found in scored for value in found.drift]
        drift = math.fsum(values) / len(values) if values and len(scored) == len(general) else math.nan
        kept = {index for index, found in zip(general, scored, strict=False) if found.same and all(found.same)}
        return (drift if math.isfinite(drift) else None), kept

    def _judged(self, step: int, texts: Mapping[int, str]) -> tuple[list[dict[str, object]], int, int]:
        """Answers by the question's place, with verdict and marks, and hits of how many identity questions."""
        answers, before = list[dict[str, object]](), self._state.base_answers if step else None
        for index, text in sorted(texts.items()):
            question = self._asked[index]
            answer = proof_sets.judge(question.asked, text, before[index] if before else None)
            answers.append(
                {
                    "question": question.text,
                    "text": answer.text,
                    "kind": question.asked.item.kind,
                    "verdict": answer.verdict,
                    "marks": [vars(mark) for mark in answer.marks],
                    "shown": question.shown,
                }
            )
        identity = [answer for answer in answers if answer["kind"] == "identity"]
        return answers, sum(answer["verdict"] == "hit" for answer in identity), len(identity)

    def _tell_probed(
        self, point: Point, answers: Sequence[dict[str, object]], seconds: float, folder: str | None, live: bool
    ) -> None:
        self._tell(
            "probed",
            step=point.step,
            seconds=seconds,
            live=live,
            hits=point.hits,
            total=point.total,
            drift=point.drift,
            taken=point.taken,
            adapter=folder,
            answers=list(answers),
        )

    def _keep(self, card: Mapping[str, object], saved: Path | None) -> str | None:
        """Keep the adapter as it is now, and make room for it; its folder inside the run, None if that failed."""
        state, run = self._state, self._run
        name = probed.name(state.step)
        try:
            if saved is None:
                self._engine.save_adapter(run.id, run.folder / name, card)
            else:
                probed.link(saved, run.folder / name)
            size = (run.folder / name / WEIGHTS).stat().st_size
        except (UserError, OSError) as error:  # a full disk must not end what has its own checkpoints
            probed.remove(run.folder, [state.step])  # one of before the run went on is not what was asked
            self._tell("unkept", step=state.step, reason=str(error))
            return None
        self._make_room(probed.room(size))
        return name

    def _make_room(self, most: int) -> None:
        """Keep at most so many. What a run left that goes on from an earlier step stays until it comes there again."""
        run, now = self._run, self._state.step
        there = [step for step, _ in probed.saved(run.folder)]
        known = {point.step for point in self.points}
        older = [step for step in there if step not in known]
        spare = [point for point in self.points if point.step in there and point.step != now]
        leaving = [step for step in older if step <= now]
        older = [step for step in older if step > now]
        while len(spare) + len(older) + 1 > most:
            if older:
                leaving.append(older.pop())
            else:
                spare.remove(least := taken.least(spare))
                leaving.append(least.step)
        probed.remove(run.folder, leaving)

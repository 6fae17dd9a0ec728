"""Asking the fixed questions while a run trains: the base once, the adapter again and again. Trains nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from core import probes
from core.engine import Engine
from core.errors import UserError
from core.generate import Column, Sampling, stream
from core.probes import Probe
from core.run import Tell

_SAMPLING = Sampling(max_new_tokens=64)


class Probing:
    """The questions of one run. `base_answers` is empty until the base was asked."""

    def __init__(self, engine: Engine, name: str, asked: Sequence[Probe], base_answers: list[str], tell: Tell) -> None:
        self._engine, self._name, self._probes, self._tell = engine, name, asked, tell
        self.base_answers = base_answers

    def ask(self, step: int, stop: threading.Event | None) -> None:
        """Tell the adapter's answers after `step`, and before them, the first time, the base's as step 0's.

        The base is asked now and not before the first step, which need not wait for it: rows of no adapter are the
        base's own. Both are asked in one batch. Set `stop` ends it without an event; questions that could not be answered
        are told as that, and the run goes on.
        """
        if not self._probes:
            return
        asked = [self._name] if self.base_answers else [None, self._name]
        begun = time.perf_counter()
        columns = [Column(probe.messages, adapter) for adapter in asked for probe in self._probes]
        try:
            replies = list(stream(self._engine, columns, _SAMPLING, stop))[-1]
        except (UserError, RuntimeError) as error:  # questions are asked beside the training: they must not end it
            self._tell("unanswered", step=step, reason=str(error))
            return
        seconds, texts = time.perf_counter() - begun, [reply.text for reply in replies]
        if stop is not None and stop.is_set():
            return
        if not self.base_answers:
            self.base_answers, texts = texts[: len(self._probes)], texts[len(self._probes) :]
            self._show(0, self.base_answers, None, seconds)
        self._show(step, texts, self.base_answers, seconds)

    def _show(self, step: int, texts: Sequence[str], before: Sequence[str] | None, seconds: float) -> None:
        answers = []
        for index, (probe, text) in enumerate(zip(self._probes, texts, strict=True)):
            answer = probes.judge(probe, text, before[index] if before else None)
            answers.append(
                {
                    "question": answer.question,
                    "text": answer.text,
                    "kind": answer.kind,
                    "verdict": answer.verdict,
                    "marks": [vars(mark) for mark in answer.marks],
                }
            )
        identity = [answer for answer in answers if answer["kind"] == "identity"]
        hits = sum(answer["verdict"] == "hit" for answer in identity)
        self._tell("probed", step=step, seconds=seconds, hits=hits, total=len(identity), answers=answers)

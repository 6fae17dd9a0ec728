"""Asking the fixed questions while a run trains: the base once, the adapter again and again. Trains nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from core import probes
from core.engine import Engine
from core.errors import WontFitError
from core.generate import Column, Reply, Sampling, stream
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
        base's own. Each is asked in a batch of its own (mixed, both took twice as long on a card). Set `stop` ends it
        without an event.
        """
        if not self._probes:
            return
        if not self.base_answers:
            texts, seconds = self._texts(None, stop)
            if stop is not None and stop.is_set():
                return
            self.base_answers = texts
            self._show(0, texts, None, seconds)
        texts, seconds = self._texts(self._name, stop)
        if stop is None or not stop.is_set():
            self._show(step, texts, self.base_answers, seconds)

    def _texts(self, adapter: str | None, stop: threading.Event | None) -> tuple[list[str], float]:
        """Every question's answer, and the seconds it took."""
        begun = time.perf_counter()
        replies = self._replies([Column(probe.messages, adapter) for probe in self._probes], stop)
        return [reply.text for reply in replies], time.perf_counter() - begun

    def _replies(self, columns: Sequence[Column], stop: threading.Event | None) -> list[Reply]:
        """All at once, or in two halves where the card's memory is too small for that."""
        try:
            return list(stream(self._engine, columns, _SAMPLING, stop))[-1]
        except WontFitError:
            if len(columns) == 1:
                raise
        half = len(columns) // 2
        return [*self._replies(columns[:half], stop), *self._replies(columns[half:], stop)]

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

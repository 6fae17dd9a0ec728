"""A process of a run over several cards that does not lead: it computes its share of each step and tells nobody else.

Decides nothing and writes nothing: what is due when, every event and every file is the leader's (train.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from core.engine import Engine
from core.errors import ModelError, UserError, WontFitError
from core.optimizer import FlatOptimizer
from core.orders import End, Load, Measure, Prepare, Step
from core.preparation import flattened, free_memory, resident_of
from core.ranks import Ranks
from core.rehearsal import Rehearsal
from core.run import Event
from core.step import Stepper
from core.text import Text


def follow(ranks: Ranks, engine: Engine) -> None:
    """Carry out what the leader orders until it orders the end. Raises RankLostError if the leader is gone."""
    work: _Work | None = None
    while not isinstance(order := ranks.hear(), End):
        if isinstance(order, Load):
            with _answered(ranks) as answer:
                config = order.config
                engine.load(config.model, config.quant_method, config.torch_dtype)
                answer.append(free_memory(engine, config))
        elif isinstance(order, Prepare):
            with _answered(ranks):
                if work is not None:
                    work.end()
                work = _Work(engine, ranks, order)
        elif work is not None:
            work.carry_out(order)


@contextlib.contextmanager
def _answered(ranks: Ranks) -> Iterator[list[object]]:
    """Answer with what the block puts into the list, or with what went wrong in it: the leader ends the run then."""
    answer: list[object] = []
    try:
        yield answer
    except UserError as error:
        ranks.answer(problem=error)
    else:
        ranks.answer(answer[0] if answer else None)


class _Work:
    """The run as this process knows it: examples, adapter, optimizer."""

    def __init__(self, engine: Engine, ranks: Ranks, order: Prepare) -> None:
        self._engine, self._order, self._rehearsal = engine, order, Rehearsal(order.anchors, order.config)
        self._flat = flattened(engine, order.name, order.config, order.plan)
        self._optimizer = FlatOptimizer(self._flat, order.config)
        handle, resident = engine.handle(order.name), resident_of(engine)
        if self._flat.layout(handle) != order.layout:
            raise ModelError(
                Text(
                    "这张卡上的模型和第一张卡的不同，不能一起训练。请让每台机器用同一个基座、同一版程序。",
                    "The model on this card is not the leader's, so they cannot train together. Use the same base and the same "
                    "version of OneCard on every machine.",
                )
            )
        with engine.turn():
            resident.backend.load_adapter_state(handle, order.adapter)
            self._optimizer.restore(order.tensors, order.numbers)
        self._stepper = Stepper(
            engine, handle, order.config, self._flat, self._optimizer, order.plan, order.scale, order.clean_steps, _silent,
            ranks,
        )  # fmt: skip

    def carry_out(self, order: object) -> None:
        """A step or a measurement. What the leader knows as well, and ends the run for, is passed over here."""
        with contextlib.suppress(WontFitError):
            if isinstance(order, Step):
                chosen = [self._order.training[index] for index in order.chosen]
                anchors = self._rehearsal.draw(order.step, sum(example.answer_tokens for example in chosen))
                self._stepper.launch(order.step, [*chosen, *anchors], order.rate)
            elif isinstance(order, Measure):
                self._stepper.measure_part(order.step, self._order.held_out, order.first)

    def end(self) -> None:
        """Take the adapter out again: another run follows."""
        with self._engine.turn() as resident:
            resident.backend.finish(self._engine.handle(self._order.name))
            self._flat.release()
            self._optimizer.release()
        self._engine.detach(self._order.name)


def _silent(kind: str, **fields: object) -> Event:
    return {"type": kind, **fields}

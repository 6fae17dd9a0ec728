"""One training run, from frozen rows to an adapter on disk, or from its newest checkpoint on; events as it goes.

The loop: what is due after which step. How a step is taken, what a checkpoint holds and how questions are asked have
modules of their own.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import cast

from core import adapters, checkpoints, endings, estimate, models, probed, rehearsal, spread, taken
from core.dataset import Row
from core.device import memory_used
from core.device_errors import device_errors
from core.encode import Example
from core.engine import Engine
from core.errors import DivergedError, UserError, WontFitError
from core.export.make import versions
from core.models import Progress
from core.orders import Load, Step
from core.preparation import Examples, Prepared, fill, prepared, resident_of
from core.ranks import ALONE, Ranks
from core.run import Run
from core.schedule import divide, learning_rate_at, step_rows
from core.start_checks import check as check
from core.start_checks import check_again as check_again
from core.step import Launched
from core.taken import Point
from core.truncation import fit_rows, kept, what_was_cut

_LONG = 0.25  # seconds; below, reading a step only after launching the next one saves a hundredth and more of its time


def train(
    engine: Engine, run: Run, stop: threading.Event, progress: Progress | None = None, ranks: Ranks = ALONE
) -> None:
    """Carry out `run`, or go on with it if it has events: load its base model, train, save, probe.

    Appends every event up to finished or stopped. Raises UserError kinds for what a person can mend; the adapter is
    taken out of the model again when it fails. `ranks`: the cards that share it, led by this process.
    """
    config, again = run.config, bool(run.events)
    if ranks.spread_out:
        spread.check(config)
    run.append("loading", model=config.model)
    with engine.held(run.id):
        try:
            with ranks.everywhere(Load(config)) as free:
                told = models.until(stop, progress)
                engine.load(config.model, config.quant_method, config.torch_dtype, told, holder=run.id)
        except models.Stopped:  # gigabytes may have been left to read, and there is nothing to save yet
            run.append("stopped", step=checkpoints.newest_step(run), adapter="adapter" if run.adapter else None)
            return
        try:
            with device_errors("starting"):
                examples = _examples(engine, run)
                anchors = rehearsal.answered(engine, run, examples.training, run.append, stop)
                least = min((cast(int, each) for each in free), default=sys.maxsize)
                making = prepared(engine, run, examples, anchors, again, stop, ranks, least)
                with making as ready, device_errors("training"):
                    _Trainer(engine, run, examples, ready).run_steps(stop)
        except BaseException:
            engine.detach(run.id)
            raise


def _examples(engine: Engine, run: Run) -> Examples:
    """Those of the run's frozen rows, those that are left out for their length aside."""
    encoder, config = resident_of(engine).encoder, run.config

    def encoded(rows: list[Row], of: str) -> list[tuple[Example, ...]]:
        fitted = fit_rows(encoder, [row.messages(config.system) for row in rows], config)
        if (cut := what_was_cut(fitted)) and of not in run.truncated:
            run.append("truncated", set=of, **cut)
        examples = [one.examples for one in fitted]
        return [examples[i] for i in kept(examples)]

    training, held_out = divide(encoded(run.rows, "training"), config)
    held_out += encoded(run.evaluation_rows, "evaluation")
    return Examples([one for row in training for one in row], [one for row in held_out for one in row])


@dataclass
class _Since:
    """What has happened since the last point of the curve."""

    loss: float = 0.0
    rehearsal: float = 0.0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    norm: float = 0.0
    epoch: float = 0.0


@dataclass(frozen=True)
class _UnderWay:
    """A step that was launched and not counted yet. `step` counts from 1."""

    launched: Launched
    step: int
    tokens: int
    rate: float
    epoch: float


class _Trainer:
    """The loop over steps, and what is due between them.

    A step is counted, and told, when the next one has been launched, or before anything else is done with the weights.
    """

    def __init__(self, engine: Engine, run: Run, examples: Examples, ready: Prepared) -> None:
        self._engine, self._run, self._config = engine, run, run.config
        self._training, self._held_out = examples.training, examples.held_out
        self._stepper, self._probing, self._flat, self._optimizer = (
            ready.stepper, ready.probing, ready.flat, ready.optimizer
        )  # fmt: skip
        self._state, self._card, self._tell = ready.state, ready.card, ready.tell
        self._rehearsal, self._ranks = ready.rehearsal, ready.ranks
        self._steps = run.config.steps(len(self._training))
        self._saved_step, self._saved_at = self._state.step, time.perf_counter()
        self._begun = time.perf_counter() - self._state.seconds
        self._taken = self._broken = False
        self._best: Point | None = None  # whose adapter is the run's
        self._since = _Since()
        self._under_way: _UnderWay | None = None
        self._seconds = math.inf  # of the step counted last
        self._counted_at = time.perf_counter()
        self._waited = 0.0  # for turns, since then

    def _tell_started(self) -> None:
        """The run's first event with numbers: what will be done, on what, and how."""
        resident, config, plan = resident_of(self._engine), self._config, self._stepper.plan
        plain = resident.backend.plain_reason(self._engine.handle(self._run.id))
        self._tell(
            "started",
            steps=self._steps,
            rows=len(self._training),
            held_out=len(self._held_out),
            rows_per_step=config.rows_per_step,
            tokens=sum(len(example) for example in self._training),
            model=config.model,
            device=self._engine.device.name,
            cards=self._ranks.size,
            versions=versions(),
            trainable_parameters=estimate.adapter_parameters(resident.info, config),
            max_tokens=plan.max_tokens,
            recompute=bool(plan.recompute),
            memory_bytes=plan.memory_bytes,
            plain_zh=plain.zh if plain else None,
            plain_en=plain.en if plain else None,
        )

    def run_steps(self, stop: threading.Event) -> None:
        """All optimizer steps that are left, or until `stop`; then save, evaluate, probe and close the run."""
        state = self._state
        if not state.step:
            self._tell_started()
            self._probing.before(stop)
        self._counted_at = time.perf_counter()
        order = islice(step_rows(len(self._training), self._config), state.step, None)
        _reset_peak(self._engine)
        with self._good_steps_kept():
            if state.step and self._evaluation_due and self._evaluate(stop):  # it was stopped just before
                self._prune()
            if state.step and self._probing.due(self._elapsed):
                self._ask(stop)
            while not (self._over or stop.is_set()):
                epoch, chosen = next(order)
                self._step(epoch, chosen)
                if not (self._over or stop.is_set()):
                    self._now_and_then(stop)
            self._settle()
            if self._since.steps:
                self._log()
            self._check_weights()
            self._close(stop)
        if not self._over:
            self._ranks.check()  # the launcher ends all processes in order when one is gone: nobody asked for this stop
        self._tell_end()

    @property
    def _over(self) -> bool:
        return self._state.step >= self._steps or self._stale or self._taken

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun

    @property
    def _stale(self) -> bool:
        """Whether the evaluation loss has not become better for as long as the settings allow."""
        limit = self._config.early_stop_interval
        return bool(limit) and self._state.evaluations_without_improvement >= limit

    @property
    def _evaluation_due(self) -> bool:
        step = self._state.step
        return bool(self._held_out) and step % self._config.eval_steps == 0 and self._state.evaluated_step != step

    @contextlib.contextmanager
    def _good_steps_kept(self) -> Iterator[None]:
        """Save what was learned when a step diverges or memory runs out.

        The update that broke never reached the weights: they are good, unless they are what is broken.
        """
        try:
            yield
        except (DivergedError, WontFitError):
            with contextlib.suppress(DivergedError):  # the first error is the one to tell
                self._settle()
            if self._state.step and not self._broken and self._flat.finite():
                self._checkpoint()
            raise

    def _check_weights(self) -> None:
        """Raise DivergedError if the last update left weights that are no numbers: nothing may ask or keep them."""
        if not self._flat.finite():
            raise DivergedError(endings.broken_weights(self._state.step, self._saved_step), self._state.step)

    def _step(self, epoch: float, chosen: Sequence[int]) -> None:
        step, examples = self._state.step, [self._training[index] for index in chosen]
        rate = learning_rate_at(step, self._steps, self._config)
        self._ranks.tell(Step(step, tuple(chosen), rate))
        anchors = self._rehearsal.draw(step, sum(example.answer_tokens for example in examples))
        launched = self._stepper.launch(step, [*examples, *anchors], rate)
        self._waited += launched.waited
        self._state.step += 1
        before = self._under_way
        tokens = sum(len(example) for example in examples)
        self._under_way = _UnderWay(launched, step + 1, tokens, rate, epoch)
        if before is not None:
            self._count(before)
        # A long step gains nothing by being read later, and its point of the curve would come late.
        if launched.ready or self._seconds > _LONG:
            self._settle()

    def _settle(self) -> None:
        """Wait for the step under way, if any, and count it."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            self._count(under_way)

    def _count(self, under_way: _UnderWay) -> None:
        since = self._since
        try:
            taken = under_way.launched.result()
        except DivergedError:
            # Neither it nor what was launched after it has changed the weights.
            self._state.step, self._under_way = under_way.step - 1, None
            raise
        self._seconds = taken.seconds
        now = time.perf_counter()
        # All that a step takes, what the host does between two included, but for the wait for the turn.
        since.seconds += max(taken.seconds, now - self._counted_at - self._waited)
        self._counted_at, self._waited = now, 0.0
        since.loss += taken.loss
        since.rehearsal += taken.rehearsal
        since.steps += 1
        since.tokens += under_way.tokens
        since.rate, since.norm, since.epoch = under_way.rate, taken.norm, under_way.epoch
        if under_way.step % self._config.logging_steps == 0 or under_way.step == 1:
            self._log(under_way.step)

    def _log(self, step: int = 0) -> None:
        """A point of the curve at `step` (the last one): means over the steps since the point before."""
        since, self._since = self._since, _Since()
        self._tell(
            "step",
            step=step or self._state.step,
            epoch=round(since.epoch, 4),
            loss=since.loss / since.steps,
            drift=self._rehearsal.divergence(since.rehearsal / since.steps),
            learning_rate=since.rate,
            grad_norm=since.norm,
            tokens=since.tokens,
            tokens_per_second=since.tokens / since.seconds,
            seconds=since.seconds / since.steps,
            peak_memory_bytes=_peak(self._engine),
        )

    def _now_and_then(self, stop: threading.Event) -> None:
        config, step = self._config, self._state.step
        late = config.save_seconds and time.perf_counter() - self._saved_at >= config.save_seconds
        probe, save = self._probing.due(self._elapsed), late or step % config.save_steps == 0
        if self._evaluation_due or probe or save:
            self._settle()
            self._check_weights()
        better = self._evaluation_due and self._evaluate(stop)
        if self._over:
            return
        if probe:
            self._ask(stop)
        if (better or save) and not self._over:
            self._checkpoint()
        if self._under_way is None:  # what was done just now is no part of the next step
            self._counted_at = time.perf_counter()

    def _ask(self, stop: threading.Event) -> None:
        """Ask the fixed questions; the run is over if the identity has been taken on and the settings end it then."""
        self._probing.ask(self._card_now(), stop)
        self._taken = self._config.stop_when_taken == "true" and taken.taken(self._probing.points)

    def _evaluate(self, stop: threading.Event) -> bool:
        """Measure the evaluation loss; whether it is the best so far.

        Given up, without an event, when the run is stopped meanwhile. Raises DivergedError for a loss that is no number:
        what gives one is not kept.
        """
        state, loss = self._state, self._stepper.measure(self._state.step, self._held_out, stop)
        if loss is None:
            return False
        if not math.isfinite(loss):
            self._broken = True
            raise DivergedError(endings.broken_evaluation(state.step, self._saved_step), state.step)
        state.evaluated_step = state.step
        better = not state.best_step or loss < state.best_loss
        state.evaluations_without_improvement = 0 if better else state.evaluations_without_improvement + 1
        if better:
            state.best_step, state.best_loss = state.step, loss
        state.evaluation_loss = loss
        self._tell("evaluated", step=state.step, loss=loss, best=better)
        return better

    def _checkpoint(self) -> None:
        """Save all that going on from here takes, unless it is saved already."""
        state = self._state
        if self._saved_step == state.step:
            return
        state.seconds = self._elapsed
        state.scale, state.clean_steps = self._stepper.scale, self._stepper.clean_steps
        state.plan, state.cards = asdict(self._stepper.plan), self._ranks.size
        tensors, numbers = self._optimizer.tensors(), self._optimizer.numbers()
        layout = self._flat.layout(self._engine.handle(self._run.id))
        path = checkpoints.save(self._engine, self._run, state, layout, tensors, numbers, self._card_now())
        self._saved_step, self._saved_at = state.step, time.perf_counter()
        self._tell("saved", step=state.step, path=path, best=state.best_step == state.step)
        self._prune()

    def _card_now(self) -> dict[str, object]:
        """What an adapter folder saved now says of itself."""
        state = self._state
        card = {**self._card, "step": state.step, "best": state.best_step == state.step}
        if state.evaluated_step == state.step and state.evaluation_loss is not None:
            card["evaluation_loss"] = state.evaluation_loss
        return card

    def _prune(self) -> None:
        state = self._state
        checkpoints.prune(self._run, self._config.save_total_limit, state.best_step, state.best_loss)

    def _close(self, stop: threading.Event) -> None:
        state = self._state
        if not state.step:  # stopped before the first step: an adapter that changes nothing is not worth keeping
            self._engine.detach(self._run.id)
            return
        # Measured first: what answers no number must not take the place of an earlier adapter.
        better = self._held_out and state.evaluated_step != state.step and self._evaluate(stop)
        folder = self._run.folder / "adapter"
        self._engine.save_adapter(self._run.id, folder, self._card_now())
        self._tell("saved", step=state.step, path="adapter")
        if not self._over:
            self._checkpoint()
        if better:
            self._prune()  # none of the checkpoints is the best any more
        if state.probed_step != state.step:
            self._probing.ask(self._card_now(), None, folder)
        if self._over and self._config.stop_when_taken == "true":
            self._take_best()

    def _take_best(self) -> None:
        """Of the adapters that were asked and kept, the best becomes the run's, on disk and in the model."""
        run = self._run
        self._best = taken.best(self._probing.points, {step for step, _ in probed.saved(run.folder)})
        if self._best is None or self._best.step == self._state.step:
            return
        try:
            run.choose(self._best.step)
        except (UserError, OSError) as error:  # the last step's is saved, and stays
            self._tell("unkept", step=self._best.step, reason=str(error))
            self._best = None
        else:
            fill(self._engine, run.id, adapters.read(run.folder / "adapter"))

    def _tell_end(self) -> None:
        state = self._state
        fields: dict[str, object] = {}
        if state.best_step:
            fields = {"best_step": state.best_step, "best_loss": state.best_loss}
        reasons = []
        if self._stale and state.step < self._steps:
            reasons.append(endings.stale(self._config.early_stop_interval, state))
        if self._best is not None:
            reasons.append(endings.taken(self._best, state.step, self._taken))
            fields |= {"chosen_step": self._best.step, "hits": self._best.hits, "drift": self._best.drift}
        if reasons:
            fields |= {"reason_zh": "".join(r.zh for r in reasons), "reason_en": " ".join(r.en for r in reasons)}
        self._tell(
            "finished" if self._over else "stopped",
            step=state.step,
            seconds=self._elapsed,
            probe_seconds=state.probe_seconds,
            adapter="adapter" if state.step else None,
            **fields,
        )


def _reset_peak(engine: Engine) -> None:
    if engine.device.kind == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()


def _peak(engine: Engine) -> int:
    if engine.device.kind == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return memory_used(engine.device)

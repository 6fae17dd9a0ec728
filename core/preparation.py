"""What a run needs before its next step: plan, adapter, optimizer, questions; from a checkpoint where it goes on.

Takes no step itself, and lets go of everything at the end.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from core import adapters, checkpoints, estimate, models, pinned, rehearsal, spread
from core.adapters import Adapter
from core.board import Board
from core.checkpoints import Checkpoint, TrainerState
from core.config import TrainConfig
from core.dataset import Identity
from core.device import BESIDE_EMBEDDING, give_back, has_room, memory_allowed
from core.device_errors import device_errors
from core.encode import Example
from core.engine import Engine, Resident
from core.errors import ModelError, WontFitError
from core.estimate import Plan
from core.fused.sizes import Depth, Way
from core.orders import Prepare
from core.probing import Probing
from core.proof_parts import LIMITS
from core.proof_sets import Suite
from core.ranks import ALONE, Ranks
from core.rehearsal import Rehearsal
from core.run import Event, Run, Tell
from core.step import Stepper
from core.taken import Pace
from core.text import Text

if TYPE_CHECKING:
    from core.flat import FlatAdapter
    from core.optimizer import FlatOptimizer


@dataclass(frozen=True)
class Examples:
    """A run's rows as the model reads them: those that steps are made of, and those of the evaluation loss."""

    training: Sequence[Example]
    held_out: Sequence[Example]


@dataclass(frozen=True)
class Prepared:
    """A run ready for the step after `state.step`. `card` is what its adapter folders say of themselves."""

    stepper: Stepper
    probing: Probing
    rehearsal: Rehearsal
    flat: FlatAdapter
    optimizer: FlatOptimizer
    state: TrainerState
    card: dict[str, object]
    tell: Tell
    ranks: Ranks


@contextlib.contextmanager
def prepared(
    engine: Engine,
    run: Run,
    examples: Examples,
    anchors: Sequence[Example],
    again: bool,
    stop: threading.Event | None = None,
    ranks: Ranks = ALONE,
    free_bytes: int = sys.maxsize,
) -> Iterator[Prepared]:
    """Attach the run's adapter to the resident model, fresh or, `again`, from the newest checkpoint there is.

    `anchors`: the guard's, see rehearsal.answered; `stop` ends what they need. `free_bytes`: of the fullest of the other
    cards, if `ranks` are on several. Gradients and event files are let go of at
    the end; the adapter stays. Raises ModelError for a checkpoint that does not fit the model, WontFitError if there is no
    way to run a step.
    """
    from core.optimizer import FlatOptimizer

    config, resident = run.config, resident_of(engine)
    found, damaged = checkpoints.newest(run) if again else (None, [])
    state = found.state if found else TrainerState(scale=2.0**12 if resident.dtype == "float16" else 1.0)
    plan = _plan(engine, run, examples.training, anchors, state, ranks, free_bytes)
    # Its checkpoint is all that a run needs which once went on from another adapter: that one may be gone.
    begins = replace(config, adapters=str(found.folder)) if found and config.adapters else config
    flat, handle = flattened(engine, run.id, begins, plan), engine.handle(run.id)
    optimizer: FlatOptimizer | None = None
    try:
        optimizer = FlatOptimizer(flat, config)
        if found:
            _restore(engine, run, found, flat, optimizer)
        with _telling(run, state.step) as tell:
            stepper = Stepper(
                engine, handle, config, flat, optimizer, plan, state.scale, state.clean_steps, tell, ranks
            )
            guard = rehearsal.prepared(engine, run, anchors, stop)
            if ranks.size > 1:
                with ranks.everywhere(_order(engine, run, begins, examples, guard, stepper, flat, optimizer)):
                    pass
            probing = _probing(engine, run, config.steps(len(examples.training)), state, tell, ranks)
            if again:
                tell(
                    "resumed",
                    step=state.step,
                    cards=ranks.size,
                    damaged=damaged,
                    max_tokens=plan.max_tokens,
                    recompute=bool(plan.recompute),
                    memory_bytes=plan.memory_bytes,
                )
            yield Prepared(stepper, probing, guard, flat, optimizer, state, _card(run, resident), tell, ranks)
    finally:
        with engine.turn():
            resident.backend.finish(handle)
            flat.release()
            if optimizer is not None:
                optimizer.release()
            _back_to_rest(run, resident, plan)
        give_back()


def _order(
    engine: Engine,
    run: Run,
    begins: TrainConfig,
    examples: Examples,
    guard: Rehearsal,
    stepper: Stepper,
    flat: FlatAdapter,
    optimizer: FlatOptimizer,
) -> Prepare:
    """What the other cards need for the same steps: all of it, so that they need neither the run's folder nor chance."""
    handle = engine.handle(run.id)
    with engine.turn() as resident:
        adapter, _ = resident.backend.adapter_state(handle)
        return Prepare(
            name=run.id,
            config=begins,
            training=tuple(examples.training),
            held_out=tuple(examples.held_out),
            anchors=tuple(guard.anchors),
            plan=stepper.plan,
            scale=stepper.scale,
            clean_steps=stepper.clean_steps,
            layout=flat.layout(handle),
            adapter={key: tensor.detach().to("cpu", copy=True) for key, tensor in adapter.items()},
            tensors=optimizer.tensors(),
            numbers=optimizer.numbers(),
        )


def flattened(engine: Engine, name: str, config: TrainConfig, plan: Plan) -> FlatAdapter:
    """Attach the adapter `name` that `config` begins with, the base settled as `plan` wants it; its flat form."""
    from core.flat import FlatAdapter

    resident = resident_of(engine)
    with engine.turn():
        resident.backend.rest()  # what answers left for the next one is planned with
        resident.backend.settle(plan.way)
    engine.create_adapter(name, config)
    with engine.turn():
        # Named through the model: what is trained, and in which order, is the backend's to say.
        parameters = resident.backend.adapter_parameters(engine.handle(name))
        return FlatAdapter.of(cast(Any, resident.backend).model, parameters)


def _back_to_rest(run: Run, resident: Resident, plan: Plan) -> None:
    """Put the base where answers are fastest. Embeddings that had to make room stay away where memory is short."""
    needed = estimate.embedding_bytes(resident.info) + BESIDE_EMBEDDING
    if plan.host_embeddings and (run.config.max_memory_gb or not has_room(needed)):
        return
    with contextlib.suppress(WontFitError), device_errors():
        resident.backend.settle(Way())


def _card(run: Run, resident: Resident) -> dict[str, object]:
    config, identity = run.config, Identity.parse(run.config.model_name, run.config.model_author)
    return {
        "run": run.id,
        "system": config.system,
        "base_model": config.model,
        "identity": vars(identity),
        "new_words": list(identity.words),
        "old_words": list(models.old_words(resident.info)),
    }


def _probing(engine: Engine, run: Run, steps: int, state: TrainerState, tell: Tell, ranks: Ranks) -> Probing:
    """The run's questions, how often to ask them, and the drift that the proof would pass. None for a base spread out."""
    config, info = run.config, resident_of(engine).info
    identity = Identity.parse(config.model_name, config.model_author)
    suite: Suite = "pocket" if models.is_pocket(info.name) else "full"
    asked = pinned.questions(identity, models.old_words(info), config.system, run.rows, suite)
    asked = () if ranks.spread_out else asked
    pace = Pace(config.probe_steps, steps, config.probe_share)
    return Probing(engine, run, asked, pace, LIMITS[suite].drift.green, state, tell)


def fill(engine: Engine, name: str, adapter: Adapter) -> None:
    """Put the weights of a folder into the attached adapter `name`. Raises ModelError if they do not fit."""
    handle = engine.handle(name)
    with engine.turn() as resident:
        expected, _ = resident.backend.adapter_state(handle)
        shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
        resident.backend.load_adapter_state(handle, adapters.check_tensors(adapter, shapes, resident.info))


def resident_of(engine: Engine) -> Resident:
    """What is loaded, by one who has loaded it and holds it."""
    assert engine.resident is not None
    return engine.resident


def _plan(
    engine: Engine,
    run: Run,
    training: Sequence[Example],
    anchors: Sequence[Example],
    state: TrainerState,
    ranks: Ranks,
    free_bytes: int,
) -> Plan:
    """How steps are run: as before where the run goes on, unless there is less memory now, or another number of cards."""
    resident, config = resident_of(engine), run.config
    if ranks.size > 1:  # what one card has of a step
        rows = math.ceil(config.rows_per_step / ranks.size)
        config = replace(config, per_device_train_batch_size=1, gradient_accumulation_steps=rows)
    lengths, beside = ([(len(e), e.answer_tokens) for e in some] for some in (training, anchors))
    beside = sorted(beside, reverse=True)[: rehearsal.anchors_per_step(config)]
    free, away = min(free_bytes, free_memory(engine, config)), 0
    if ranks.spread_out:
        base_bytes = estimate.resident_bytes(resident.info, config, engine.device)
        width = estimate.width(config, engine.device)
        away = spread.saved_bytes(resident.info, base_bytes, ranks.size, width)
    plan = estimate.plan(resident.info, config, engine.device, lengths, free + away, resident.backend.fast, beside)
    plan = replace(plan, memory_bytes=plan.memory_bytes - away)
    before = _plan_of(state.plan) if state.plan and state.cards == ranks.size else plan
    return before if before.memory_bytes <= max(plan.memory_bytes, free) else plan


def free_memory(engine: Engine, config: TrainConfig) -> int:
    """Bytes that a run may take of this process's card, its resident base included."""
    return memory_allowed(engine.device, estimate.resident_bytes(resident_of(engine).info, config, engine.device))


def _plan_of(saved: dict[str, Any]) -> Plan:
    return Plan(**{**saved, "recompute": Depth(**saved["recompute"])})


def _restore(engine: Engine, run: Run, found: Checkpoint, flat: FlatAdapter, optimizer: FlatOptimizer) -> None:
    """Put a checkpoint's adapter and optimizer back. Raises ModelError if they do not fit the model as it is now."""
    handle = engine.handle(run.id)
    with engine.turn():
        try:
            if found.layout != flat.layout(handle):
                raise ValueError
            optimizer.restore(found.tensors, found.numbers)
        except ValueError:
            raise ModelError(
                Text(
                    zh=f"检查点 {found.folder} 与现在的模型或程序版本不符，不能从它继续。请用同样的设置重新开始。",
                    en=f"The checkpoint {found.folder} does not fit the model or program as they are now, so the run "
                    "cannot go on from it. Start again with the same settings.",
                )
            ) from None
    fill(engine, run.id, adapters.read(found.folder))


@contextlib.contextmanager
def _telling(run: Run, step: int) -> Iterator[Tell]:
    """A function that appends an event to the run, and to its TensorBoard file if the settings ask for one."""
    shown = Board(run.folder, step) if run.config.report_to == "tensorboard" else None

    def tell(kind: str, **fields: object) -> Event:
        event = run.append(kind, **fields)
        if shown is not None:
            shown.show(event)
        return event

    try:
        yield tell
    finally:
        if shown is not None:
            shown.close()

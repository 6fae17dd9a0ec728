"""What a run needs before its next step: plan, adapter, optimizer, questions; from a checkpoint where it goes on.

Takes no step itself, and lets go of everything at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from core import adapters, checkpoints, estimate, models, probes
from core.board import Board
from core.checkpoints import Checkpoint, TrainerState
from core.dataset import Identity
from core.device import give_back, memory_allowed, memory_errors
from core.encode import Example
from core.engine import Engine, Resident
from core.errors import ModelError, WontFitError
from core.estimate import Plan
from core.fused.sizes import Depth, Way
from core.probing import Probing
from core.run import Event, Run, Tell
from core.step import Stepper
from core.text import Text

if TYPE_CHECKING:
    from core.flat import FlatAdapter
    from core.optimizer import FlatOptimizer


@dataclass(frozen=True)
class Prepared:
    """A run ready for the step after `state.step`. `card` is what its adapter folders say of themselves."""

    stepper: Stepper
    probing: Probing
    flat: FlatAdapter
    optimizer: FlatOptimizer
    state: TrainerState
    card: dict[str, object]
    tell: Tell


@contextlib.contextmanager
def prepared(engine: Engine, run: Run, training: Sequence[Example], again: bool) -> Iterator[Prepared]:
    """Attach the run's adapter to the resident model, fresh or, `again`, from the newest checkpoint there is.

    Gradients and event files are let go of at the end; the adapter stays. Raises ModelError for a checkpoint that does
    not fit the model, WontFitError if there is no way to run a step.
    """
    from core.flat import FlatAdapter
    from core.optimizer import FlatOptimizer

    config, resident = run.config, resident_of(engine)
    found, damaged = checkpoints.newest(run) if again else (None, [])
    state = found.state if found else TrainerState(scale=2.0**12 if resident.dtype == "float16" else 1.0)
    plan = _plan(engine, run, training, state)
    with engine.turn():
        resident.backend.rest()  # what answers left for the next one is planned with
        resident.backend.settle(plan.way)
    # Its checkpoint is all that a run needs which once went on from another adapter: that one may be gone.
    engine.create_adapter(run.id, replace(config, adapters=str(found.folder)) if found and config.adapters else config)
    handle = engine.handle(run.id)
    with engine.turn():
        # Named through the model: what is trained, and in which order, is the backend's to say.
        flat = FlatAdapter.of(cast(Any, resident.backend).model, resident.backend.adapter_parameters(handle))
    optimizer: FlatOptimizer | None = None
    try:
        optimizer = FlatOptimizer(flat, config)
        if found:
            _restore(engine, run, found, flat, optimizer)
        identity, old = Identity.parse(config.model_name, config.model_author), models.old_words(resident.info)
        card: dict[str, object] = {
            "run": run.id,
            "system": config.system,
            "base_model": config.model,
            "new_words": list(identity.words),
            "old_words": list(old),
        }
        with _telling(run, state.step) as tell:
            stepper = Stepper(engine, handle, config, flat, optimizer, plan, state.scale, state.clean_steps, tell)
            asked = probes.load_probes(identity, old, config.system)
            probing = Probing(engine, run.id, asked, state.base_answers, tell)
            if again:
                tell(
                    "resumed",
                    step=state.step,
                    damaged=damaged,
                    max_tokens=plan.max_tokens,
                    recompute=bool(plan.recompute),
                    memory_bytes=plan.memory_bytes,
                )
            yield Prepared(stepper, probing, flat, optimizer, state, card, tell)
    finally:
        with engine.turn():
            resident.backend.finish(handle)
            flat.release()
            if optimizer is not None:
                optimizer.release()
            with contextlib.suppress(WontFitError), memory_errors():
                resident.backend.settle(Way())  # embeddings that had to make room answer faster on the card
        give_back()


def resident_of(engine: Engine) -> Resident:
    """What is loaded, by one who has loaded it and holds it."""
    assert engine.resident is not None
    return engine.resident


def _plan(engine: Engine, run: Run, training: Sequence[Example], state: TrainerState) -> Plan:
    """How steps are run: as before where the run goes on, unless there is less memory now."""
    resident, config = resident_of(engine), run.config
    lengths = [(len(example), example.answer_tokens) for example in training]
    free = memory_allowed(engine.device, estimate.resident_bytes(resident.info, config, engine.device))
    plan = estimate.plan(resident.info, config, engine.device, lengths, free, resident.backend.fast)
    before = _plan_of(state.plan) if state.plan else plan
    return before if before.memory_bytes <= max(plan.memory_bytes, free) else plan


def _plan_of(saved: dict[str, Any]) -> Plan:
    return Plan(**{**saved, "recompute": Depth(**saved["recompute"])})


def _restore(engine: Engine, run: Run, found: Checkpoint, flat: FlatAdapter, optimizer: FlatOptimizer) -> None:
    """Put a checkpoint's adapter and optimizer back. Raises ModelError if they do not fit the model as it is now."""
    handle = engine.handle(run.id)
    with engine.turn() as resident:
        expected, _ = resident.backend.adapter_state(handle)
        shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
        tensors = adapters.check_tensors(adapters.read(found.folder), shapes, resident.info)
        try:
            if found.layout != flat.layout(handle):
                raise ValueError
            optimizer.restore(found.tensors, found.numbers)
        except ValueError:
            raise ModelError(
                Text(
                    zh=f"检查点 {found.folder} 与现在的模型或程序版本不符,不能从它继续。请用同样的设置重新开始。",
                    en=f"The checkpoint {found.folder} does not fit the model or program as they are now, so the run "
                    "cannot go on from it. Start again with the same settings.",
                )
            ) from None
        resident.backend.load_adapter_state(handle, tensors)


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

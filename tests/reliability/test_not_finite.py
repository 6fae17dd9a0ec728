"""Numbers that are none, put in at every place a run computes one: it stops, names the step, keeps what was good, publishes nothing."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core import checkpoints
from core.batch import PackedBatch
from core.config import TrainConfig, build
from core.dataset import Message, Row
from core.engine import Engine
from core.errors import DivergedError, ModelError
from core.fused.sizes import Way
from core.generate import Column, Sampling, stream
from core.job import Job
from core.plain import PlainBackend
from core.run import Run
from core.train import train
from core.workspace import Workspace

ROWS = [Row(f"question {i} " + "x" * (3 * i), "", f"answer {i}" * (1 + i % 3)) for i in range(10)]
STEPS = 6  # two epochs of ten rows, four a step


class Poisoned(PlainBackend):
    """Its losses and gradients are as `what` makes them from the pass number `at` on."""

    what, at, calls, measured = "", 0, 0, 0

    def loss_and_grads(
        self, batch: PackedBatch, adapter: str, answer_tokens: int, way: Way, scale: float = 1.0
    ) -> torch.Tensor:
        loss = super().loss_and_grads(batch, adapter, answer_tokens, way, scale)
        self.calls += 1
        if self.calls >= self.at and self.what in ("nan loss", "infinite loss"):
            return loss * (math.nan if self.what == "nan loss" else math.inf)
        if self.calls >= self.at and self.what in ("nan gradient", "infinite gradient"):
            gradient = self.adapter_parameters(adapter)[-1].grad
            assert gradient is not None
            gradient[0, 0] = math.nan if self.what == "nan gradient" else -math.inf
        return loss

    def loss(self, batch: PackedBatch, adapter: str | None) -> torch.Tensor:
        self.measured += 1
        found = super().loss(batch, adapter)
        return found * math.nan if self.what == "nan evaluation" and self.measured >= self.at else found


@dataclass(frozen=True)
class Case:
    """`what` goes wrong at pass, evaluation or step `at`; the error names `step`; `kept` is the newest step that is saved."""

    what: str
    at: int
    step: int
    kept: int
    settings: tuple[tuple[str, object], ...] = ()


EVALUATED = (("split_dataset_ratio", 0.2), ("eval_steps", 2), ("num_train_epochs", 3))
CASES = {
    "loss": Case("nan loss", 4, 4, 3),
    "an infinite loss": Case("infinite loss", 4, 4, 3),
    "gradient": Case("nan gradient", 4, 4, 3),
    "an infinite gradient": Case("infinite gradient", 4, 4, 3),
    "the first step": Case("nan gradient", 1, 1, 0),
    "a weight": Case("nan weight", 3, 4, 2),
    "an infinite weight": Case("infinite weight", 3, 4, 2),
    "a weight before a checkpoint": Case("nan weight", 2, 2, 0),
    "a weight before questions": Case(
        "nan weight", 2, 2, 0, (("probe_steps", 2), ("probe_share", 1), ("save_steps", 100))
    ),
    "a weight after the last step": Case("nan weight", STEPS, STEPS, 4),
    "an evaluation": Case("nan evaluation", 2, 4, 2, EVALUATED),
    "the last evaluation": Case("nan evaluation", 3, 6, 4, EVALUATED),
}


FEW = ("an infinite gradient", "a weight before a checkpoint", "a weight after the last step", "the last evaluation")


def carried_out(folder: Path, config: TrainConfig, case: Case | None, engine: Engine | None = None) -> Run:
    """The run, with the case's fault in it."""
    engine = engine or Engine()
    engine.load(config.model)
    resident = engine.resident
    assert resident is not None
    backend = Poisoned(resident.backend.model, resident.backend.device, None)  # type: ignore[attr-defined]
    if case is not None:
        backend.what, backend.at = case.what, case.at
    engine._resident = replace(resident, backend=backend)
    run = Run.open(folder) if folder.exists() else Run.create(folder, config, ROWS, "test", "test")
    if case is not None and case.what.endswith("weight"):
        poison_weights(engine, run, case)
    train(engine, run, threading.Event())
    return run


def poison_weights(engine: Engine, run: Run, case: Case) -> None:
    """What an update that overflows leaves: one weight of the adapter is no number once the step's point is told."""
    original = run.append

    def append(kind: str, **fields: object) -> dict[str, object]:
        if kind == "step" and fields["step"] == case.at:
            assert engine.resident is not None
            weight = engine.resident.backend.adapter_parameters(engine.handle(run.id))[3]
            with torch.no_grad():
                weight[0, 0] = math.nan if case.what == "nan weight" else math.inf
        return original(kind, **fields)

    run.append = append  # type: ignore[method-assign]


def not_finite(folder: Path) -> list[str]:
    """Every tensor below a folder that holds a value that is no number."""
    return [
        f"{path.relative_to(folder)}: {key}"
        for path in sorted(folder.rglob("*.safetensors"))
        for key, tensor in load_file(path).items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]


def numbers(value: object) -> list[float]:
    """Every number inside an event."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("name", CASES)
def test_a_number_that_is_none_ends_the_run_by_its_step_and_nothing_of_it_is_kept(
    name: str, tmp_path: Path, tiny_config: TrainConfig, full: bool, tally: Callable[..., None]
) -> None:
    if not full and name not in FEW:
        pytest.skip("one of each kind; all of them with ONECARD_FULL=1")
    case = CASES[name]
    config = build({"save_steps": 2, **dict(case.settings)}, tiny_config)
    engine, folder = Engine(), tmp_path / "run"
    with pytest.raises(DivergedError) as caught:
        carried_out(folder, config, case, engine)
    run = Run.open(folder)
    said = caught.value
    wrong = [
        *([] if said.step == case.step and f"第 {case.step} 步" in said.of("zh") else [f"step {said.step}: {said}"]),
        *([] if "step" in said.of("en") and "学习率" in said.of("zh") else ["no advice"]),
        *([] if run.adapter is None and engine.attached == () else ["published"]),
        *not_finite(folder),
        *(
            f"{event['type']} {event.get('step')}"
            for event in run.events
            if not all(map(math.isfinite, numbers(event)))
        ),
    ]
    newest = checkpoints.newest_step(run)
    tally(
        f"NaN or infinity in {name}",
        cases=1,
        lost=int(newest != case.kept),
        wrong=int(bool(wrong)),
        note="; ".join(wrong),
    )
    if name == "an infinite gradient":  # what is kept is good: from there the run becomes what it would have been
        whole = carried_out(tmp_path / "whole", config, None)
        again = carried_out(folder, config, None)
        both = [(one.folder / "adapter" / "adapter_model.safetensors").read_bytes() for one in (whole, again)]
        assert again.status == "finished" and both[0] == both[1]


def test_a_last_evaluation_that_is_no_number_leaves_the_adapter_that_was_there(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    folder, stop = tmp_path / "run", threading.Event()
    run = Run.create(folder, build(dict(EVALUATED), tiny_config), ROWS, "test", "test")
    original = run.append

    def append(kind: str, **fields: object) -> dict[str, object]:
        if kind == "evaluated" and fields["step"] == 4:
            stop.set()
        return original(kind, **fields)

    run.append = append  # type: ignore[method-assign]
    train(Engine(), run, stop)
    weights = folder / "adapter" / "adapter_model.safetensors"
    good = weights.read_bytes()
    with pytest.raises(DivergedError):
        carried_out(folder, run.config, Case("nan evaluation", 1, 6, 4))
    after = Run.open(folder)
    assert (run.status, after.adapter_step, checkpoints.newest_step(after)) == ("stopped", 4, 4)
    assert weights.read_bytes() == good


def test_the_page_marks_the_step_in_red_and_says_what_to_do(tmp_path: Path, tiny_config: TrainConfig) -> None:
    from ui import prepare_environment

    prepare_environment()
    from ui.edits import Edits
    from ui.follow import Follow
    from ui.page import Page

    # No fault put in: a learning rate that is far too high.
    wild = {"learning_rate": 1, "lora_alpha": 4096, "lora_rank": 1, "max_grad_norm": 0, "max_steps": 200}
    run = Run.create(tmp_path / "home" / "runs" / "r1", build(wild, tiny_config), ROWS, "test", "test")
    engine = Engine()
    job = Job(lambda run, stop: train(engine, run, stop), clean_up=lambda: None)
    job.start(lambda: run)
    assert job.join(300)
    workspace = Workspace(tmp_path / "home", engine)
    ending = run.ending
    assert ending is not None and run.status == "failed" and ending["cause"] == "diverged", ending
    shown = Follow(Page(workspace, "zh", Edits(workspace)))
    assert shown.metrics({"run": run.id, "cursor": 0})["broken"] == ending["broken_step"] > 1
    assert "学习率减半" in shown.draw_head(run.id) and 'class="bad"' in shown.draw_head(run.id)
    assert workspace.library.find(run.id) is None and not_finite(run.folder) == []


def test_an_adapter_that_computes_no_numbers_is_told_not_read_out(
    tiny_engine: Engine, tiny_config: TrainConfig
) -> None:
    tiny_engine.create_adapter("broken", tiny_config)
    resident = tiny_engine.resident
    assert resident is not None
    with torch.no_grad():
        for parameter in resident.backend.adapter_parameters(tiny_engine.handle("broken")):
            parameter.fill_(3e38)
    question = Column((Message("user", "who are you?"),), "broken")
    with pytest.raises(ModelError, match="NaN or infinite"):
        list(stream(tiny_engine, [question], Sampling(max_new_tokens=8)))
    with pytest.raises(ModelError, match="was not saved"), torch.no_grad():
        resident.backend.adapter_parameters(tiny_engine.handle("broken"))[0][0, 0] = math.nan
        tiny_engine.save_adapter("broken", Path(tiny_config.model).parent / "never", {})
    assert not (Path(tiny_config.model).parent / "never").exists()

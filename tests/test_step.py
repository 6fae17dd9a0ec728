"""A step: its clip, float16's scale, its draws; out of memory it is tried once more in smaller passes, then stops."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from core.batch import PackedBatch, pack, split
from core.config import TrainConfig, build
from core.dataset import Message, Row
from core.encode import IGNORE, Example
from core.engine import Engine
from core.errors import DivergedError, WontFitError
from core.estimate import Plan
from core.flat import FlatAdapter
from core.fused.sizes import Depth, Way
from core.generate import Column, Sampling, stream
from core.optimizer import FlatOptimizer
from core.plain import PlainBackend
from core.run import Event, Run
from core.score import base_states
from core.step import Launched, Stepper, Taken
from core.train import train

ROWS = [Row(f"question {i} " + "x" * (3 * i), "", f"answer {i}" * (1 + i % 3)) for i in range(8)]


class SmallCard(PlainBackend):
    """Has no memory for a pass of more than `room` tokens, `room_recomputed` where layers are recomputed.

    It fails after the backward pass, when part of the gradient is there already.
    """

    room = room_recomputed = room_to_measure = 1_000_000
    from_call = 0
    calls = 0

    def loss_and_grads(
        self, batch: PackedBatch, adapter: str, answer_tokens: int, way: Way, scale: float = 1.0
    ) -> torch.Tensor:
        loss = super().loss_and_grads(batch, adapter, answer_tokens, way, scale)
        self.calls += 1
        if self.calls > self.from_call and batch.tokens > (self.room_recomputed if way else self.room):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    def loss(self, batch: PackedBatch, adapter: str | None) -> torch.Tensor:
        if batch.tokens > self.room_to_measure:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().loss(batch, adapter)


def carry_out(folder: Path, config: TrainConfig, engine: Engine | None = None, **card: int) -> Run:
    """A run on a card of the given room."""
    engine = engine or Engine()
    engine.load(config.model)
    resident = engine.resident
    assert resident is not None
    small = SmallCard(resident.backend.model, resident.backend.device, None)
    for name, value in card.items():
        setattr(small, name, value)
    engine._resident = replace(resident, backend=small)
    run = Run.open(folder) if folder.exists() else Run.create(folder, config, ROWS, "test", "test")
    train(engine, run, threading.Event())
    return run


def losses(run: Run) -> list[float]:
    return [float(str(event["loss"])) for event in run.events if event["type"] == "step"]


def test_a_pass_that_does_not_fit_is_halved_and_the_run_learns_the_same(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({"max_steps": 5, "weight_decay": 0}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    run = carry_out(tmp_path / "small", config, room=300, from_call=2)
    told = [event for event in run.events if event["type"] == "smaller_split"]
    assert len(told) == 1 and told[0]["step"] == 2 and not told[0]["recompute"]
    assert int(str(told[0]["max_tokens"])) <= int(str(told[0]["tokens"])) / 2 + 1
    assert run.status == "finished" and losses(run) == pytest.approx(losses(straight), rel=1e-4)
    assert not [event for event in straight.events if event["type"] == "smaller_split"]


def test_a_single_row_that_does_not_fit_is_recomputed_unless_that_is_switched_off(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({"max_steps": 3, "gradient_accumulation_steps": 1}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    run = carry_out(tmp_path / "small", config, room=1)
    (told,) = [event for event in run.events if event["type"] == "smaller_split"]
    assert told["recompute"] and told["step"] == 0
    assert losses(run) == pytest.approx(losses(straight), rel=1e-4)
    with pytest.raises(WontFitError):
        carry_out(tmp_path / "off", build({"gradient_checkpointing": "off"}, config), room=1)
    assert not [e for e in Run.open(tmp_path / "off").events if e["type"] in ("smaller_split", "step")]


def test_a_second_failure_stops_the_run_with_its_good_steps_saved_and_the_base_alive(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({"max_steps": 5}, tiny_config)
    engine = Engine()
    engine.load(config.model)
    before = answer(engine)
    with pytest.raises(WontFitError, match="out of memory"):
        carry_out(tmp_path / "small", config, engine, room=1, room_recomputed=1, from_call=3)
    run = Run.open(tmp_path / "small")
    assert [e["type"] for e in run.events][-2:] == ["smaller_split", "saved"] and run.step == 3
    assert (run.folder / "checkpoints" / "step-000003").is_dir()
    assert engine.attached == () and answer(engine) == before


def evaluations(run: Run) -> list[float]:
    return [float(str(event["loss"])) for event in run.events if event["type"] == "evaluated"]


def test_an_evaluation_that_does_not_fit_is_measured_in_smaller_passes(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({"max_steps": 3, "split_dataset_ratio": 0.5, "eval_steps": 2}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    run = carry_out(tmp_path / "small", config, room_to_measure=300)
    (told,) = [event for event in run.events if event["type"] == "smaller_split"]
    assert told["step"] == 2 and not told["recompute"] and int(str(told["tokens"])) > 300
    assert run.status == "finished" and evaluations(run) == pytest.approx(evaluations(straight), rel=1e-4)


def test_an_evaluation_that_never_fits_stops_the_run_with_its_good_steps_saved(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({"max_steps": 3, "split_dataset_ratio": 0.5, "eval_steps": 2}, tiny_config)
    with pytest.raises(WontFitError, match="out of memory"):
        carry_out(tmp_path / "small", config, room_to_measure=1)
    run = Run.open(tmp_path / "small")
    assert run.step == 2 and run.events[-1]["type"] == "saved" and evaluations(run) == []
    assert len(evaluations(carry_out(tmp_path / "small", config))) == 2  # it is measured where there is room


def test_a_resumed_run_takes_the_smaller_passes_that_it_had_come_to(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"max_steps": 6}, tiny_config)
    with pytest.raises(WontFitError):  # two passes of step 1 fit, then fewer and fewer tokens do
        carry_out(tmp_path / "run", config, room=150, from_call=2)
    first = Run.open(tmp_path / "run")
    smaller = next(event for event in first.events if event["type"] == "smaller_split")
    run = carry_out(tmp_path / "run", config)
    started, resumed = run.first("started"), run.last("resumed")
    assert started is not None and resumed is not None and run.status == "finished"
    assert resumed["max_tokens"] == smaller["max_tokens"] < started["max_tokens"]  # type: ignore[operator]


# One step by itself


@dataclass
class Bench:
    """A Stepper over a fresh adapter, and what it works on."""

    stepper: Stepper
    flat: FlatAdapter
    optimizer: FlatOptimizer
    examples: list[Example]
    engine: Engine

    def state(self) -> list[torch.Tensor]:
        """Copies of the weights and of the optimizer's tensors."""
        return [self.flat.data.clone(), *self.optimizer.tensors().values()]


@contextmanager
def bench(
    config: TrainConfig, scale: float = 1.0, clean_steps: int = 0, backend: type[PlainBackend] = PlainBackend
) -> Iterator[Bench]:
    """One pass takes every row; B is away from zero, so that all of the adapter gets a gradient."""
    engine = Engine()
    engine.load(config.model, torch_dtype=config.torch_dtype)
    resident = engine.resident
    assert resident is not None
    own = backend(resident.backend.model, resident.backend.device, None)  # type: ignore[attr-defined]
    engine._resident = replace(resident, backend=own)
    engine.create_adapter("a", config)
    handle = engine.handle("a")
    flat = FlatAdapter.of(own.model, own.adapter_parameters(handle))
    flat.data.add_(torch.randn(flat.data.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
    optimizer = FlatOptimizer(flat, config)
    examples = [resident.encoder.example(row.messages("sys")) for row in ROWS]

    def tell(kind: str, **fields: object) -> Event:
        return {"type": kind, **fields}

    plan = Plan(100_000, Depth(), 0)
    made = Stepper(engine, handle, config, flat, optimizer, plan, scale, clean_steps, tell)
    yield Bench(made, flat, optimizer, examples, engine)
    flat.release()


def test_the_update_is_adamw_on_the_gradient_clipped_as_a_whole(tiny_config: TrainConfig) -> None:
    config = build({"max_grad_norm": 1e-3, "weight_decay": 0.1}, tiny_config)
    with bench(config) as mine, bench(config) as other:
        by_hand = torch.nn.Parameter(other.flat.data)
        adamw = torch.optim.AdamW([by_hand], lr=1e-2, betas=(0.9, config.adam_beta2), weight_decay=0.1)
        assert other.engine.resident is not None
        backend, handle = other.engine.resident.backend, other.engine.handle("a")
        for step, rows in enumerate((mine.examples[:3], mine.examples[3:])):
            taken = mine.stepper.take(step, rows, 1e-2)
            backend.loss_and_grads(pack(rows, "cpu"), handle, sum(row.answer_tokens for row in rows), Way())
            norm = math.sqrt(sum(float(value) ** 2 for value in other.flat.grad))
            assert taken.norm == pytest.approx(norm, rel=1e-4) and norm > 1e-2
            by_hand.grad = other.flat.grad * (1e-3 / norm)
            adamw.step()
            other.flat.zero_grad()
            moments = mine.optimizer.tensors()
            if step == 0:  # the first moment is a tenth of the gradient
                length = math.hypot(*(float(moments[f"{part}.exp_avg"].norm()) for part in "ab"))
                assert length == pytest.approx(1e-4, rel=1e-2)
        torch.testing.assert_close(mine.flat.data, other.flat.data, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_was_scaled_is_the_same_in_the_end(tiny_config: TrainConfig) -> None:
    config = build({"max_grad_norm": 0.5}, tiny_config)
    with bench(config) as plain, bench(config, scale=4096.0) as scaled:
        for step in range(2):
            first, second = (one.stepper.take(step, one.examples, 1e-2) for one in (plain, scaled))
            assert second.norm == pytest.approx(first.norm, rel=1e-5)
            assert second.loss == pytest.approx(first.loss, rel=1e-5)
        for one, two in zip(plain.state(), scaled.state(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)
        assert scaled.stepper.scale == 4096.0


def test_an_overflow_in_float16_halves_the_scale_and_takes_the_same_step(tiny_config: TrainConfig) -> None:
    config = build({"torch_dtype": "float16"}, tiny_config)
    with bench(config, scale=2.0**40, clean_steps=7) as mine:
        taken = mine.stepper.take(0, mine.examples, 1e-3)
        assert taken.sound and 1 < mine.stepper.scale < 2.0**40 and mine.stepper.clean_steps == 0
        with bench(config, scale=mine.stepper.scale) as straight:
            assert straight.stepper.take(0, straight.examples, 1e-3).norm == taken.norm
            assert all(torch.equal(*pair) for pair in zip(mine.state(), straight.state(), strict=True))
        with bench(config, scale=mine.stepper.scale * 2) as above:  # one halving less was too few
            above.stepper.take(0, above.examples, 1e-3)
            assert above.stepper.scale == mine.stepper.scale


def test_the_scale_is_doubled_after_200_steps_without_overflow_in_float16_only(tiny_config: TrainConfig) -> None:
    for dtype, after in (("float16", 16.0), ("float32", 8.0)):
        with bench(build({"torch_dtype": dtype}, tiny_config), scale=8.0, clean_steps=198) as mine:
            mine.stepper.take(198, mine.examples[:1], 1e-3)
            assert mine.stepper.scale == 8.0
            mine.stepper.take(199, mine.examples[:1], 1e-3)
            assert mine.stepper.scale == after


def taught(mine: Bench, weight: float = 1.0) -> list[Example]:
    """Two of the rows, held to what the base says of them."""
    states = base_states(mine.engine, mine.examples[:2])
    rows = zip(mine.examples[:2], states, strict=True)
    return [replace(row, teacher=state, weight=weight) for row, state in rows]


def test_rehearsal_has_a_part_of_its_own_and_leaves_the_rows_loss_as_it_was(tiny_config: TrainConfig) -> None:
    with bench(tiny_config) as alone, bench(tiny_config) as both, bench(tiny_config) as divided:
        first = alone.stepper.take(0, alone.examples[2:], 1e-2)
        second = both.stepper.take(0, [*both.examples[2:], *taught(both, 50)], 1e-2)
        assert first.rehearsal == 0 and second.rehearsal > 1e-3
        assert second.loss == pytest.approx(first.loss, rel=1e-5) and second.norm != pytest.approx(first.norm, rel=1e-3)
        divided.stepper.plan = replace(divided.stepper.plan, max_tokens=100)
        third = divided.stepper.take(0, [*divided.examples[2:], *taught(divided, 50)], 1e-2)
        assert third.rehearsal == pytest.approx(second.rehearsal, rel=1e-4)
        assert third.norm == pytest.approx(second.norm, rel=1e-4)
        rows = replace(both.stepper.plan, max_tokens=100)
        assert len(list(split([*both.examples[2:], *taught(both)], rows.max_tokens))) > 2


def test_rehearsal_holds_the_adapter_to_the_base(tiny_config: TrainConfig) -> None:
    with bench(tiny_config) as mine:
        anchors = taught(mine, 1.0)
        drifts = [mine.stepper.take(step, anchors, 1e-2).rehearsal for step in range(40)]
        assert drifts[-1] < 0.05 * drifts[0] and drifts[0] > 0


def test_a_rehearsal_that_is_no_number_breaks_the_step(tiny_config: TrainConfig) -> None:
    assert not Taken(1.0, 1.0, 0.1, math.nan).sound
    with bench(tiny_config) as mine:
        before = mine.state()
        (broken, other) = taught(mine)
        assert broken.teacher is not None
        broken = replace(broken, teacher=broken.teacher * math.nan)
        with pytest.raises(DivergedError):
            mine.stepper.take(0, [*mine.examples, broken, other], 1e-2)
        assert all(torch.equal(*pair) for pair in zip(before, mine.state(), strict=True))


class Broken(PlainBackend):
    """Its gradients are infinite in one place, its losses are numbers."""

    def loss_and_grads(
        self, batch: PackedBatch, adapter: str, answer_tokens: int, way: Way, scale: float = 1.0
    ) -> torch.Tensor:
        loss = super().loss_and_grads(batch, adapter, answer_tokens, way, scale)
        gradient = self.adapter_parameters(adapter)[0].grad
        assert gradient is not None
        gradient[0, 0] = math.inf
        return loss


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1.0), ("float16", 4096.0)])
def test_a_gradient_that_is_not_finite_leaves_weights_optimizer_and_scale_as_they_were(
    tiny_config: TrainConfig, dtype: str, scale: float
) -> None:
    with bench(build({"torch_dtype": dtype}, tiny_config), scale=scale, backend=Broken) as mine:
        before = mine.state()
        with pytest.raises(DivergedError):
            mine.stepper.take(0, mine.examples, 1e-2)
        assert all(torch.equal(*pair) for pair in zip(before, mine.state(), strict=True))
        assert mine.stepper.scale == scale and not mine.flat.grad.any()


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.3}, {"neftune_noise_alpha": 5}], ids=["dropout", "noise"])
def test_what_a_step_draws_is_its_own_and_the_same_each_time(
    tiny_config: TrainConfig, settings: dict[str, object]
) -> None:
    with bench(build({**settings, "weight_decay": 0}, tiny_config)) as mine:
        first, second, again = (mine.stepper.take(step, mine.examples, 0.0) for step in (0, 1, 0))
        assert (again.loss, again.norm) == (first.loss, first.norm)
        assert second.loss != first.loss and second.norm != first.norm


def test_a_split_is_even() -> None:
    rows = [Example(tuple(range(10)), (IGNORE,) * 10)] * 10
    assert sorted(len(group) for group in split(rows, 40)) == [3, 3, 4]
    assert sorted(len(group) for group in split(rows, 60)) == [5, 5]


def answer(engine: Engine) -> list[int]:
    column = Column((Message("user", "hello"),))
    return list(stream(engine, [column], Sampling(max_new_tokens=12)))[-1][0].ids


def test_a_step_launched_after_a_broken_one_changes_nothing_either(tiny_config: TrainConfig) -> None:
    class Once(PlainBackend):
        """Infinite gradients the first time only."""

        broken = False

        def loss_and_grads(
            self, batch: PackedBatch, adapter: str, answer_tokens: int, way: Way, scale: float = 1.0
        ) -> torch.Tensor:
            loss = super().loss_and_grads(batch, adapter, answer_tokens, way, scale)
            gradient = self.adapter_parameters(adapter)[0].grad
            assert gradient is not None
            if not self.broken:
                gradient[0, 0] = math.inf
            self.broken = True
            return loss

    with bench(tiny_config, backend=Once) as mine:
        before, counted = mine.state(), mine.optimizer.numbers()
        first = mine.stepper.launch(0, mine.examples, 1e-2)
        second = mine.stepper.launch(1, mine.examples, 1e-2)
        with pytest.raises(DivergedError) as caught:
            first.result()
        assert caught.value.step == 1
        assert second.result().sound  # by itself: it is the first one that ends the run
        assert all(torch.equal(*pair) for pair in zip(before, mine.state(), strict=True))
        assert mine.optimizer.numbers() == counted


def test_steps_read_later_are_told_in_order_before_what_is_due(
    tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card: the result of a step is there only when it is asked for."""
    config = build({"save_steps": 3, "logging_steps": 2, "num_train_epochs": 4}, tiny_config)
    now = carry_out(tmp_path / "now", config)
    monkeypatch.setattr(Launched, "ready", False)
    later = carry_out(tmp_path / "later", config)

    def told(run: Run) -> list[tuple[object, ...]]:
        return [(e["type"], e.get("step"), e.get("loss"), e.get("tokens"), e.get("epoch")) for e in run.events]

    assert told(later) == told(now)
    assert [kind for kind, *_ in told(now)].count("saved") > 1

"""The training step: exactness against the plain loop, schedule, order, events, stopping, divergence."""

from __future__ import annotations

import functools
import itertools
import json
import math
import operator
import sys
import threading
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core.config import TrainConfig, build
from core.dataset import Message, Row
from core.device import Device
from core.encode import IGNORE, Example
from core.engine import Engine
from core.errors import ConfigError, DivergedError
from core.run import Run
from core.schedule import divide, learning_rate_at, step_rows
from core.train import check, train

ROWS = [Row(f"question {i} " + "x" * (3 * i), "", f"answer {i}" * (1 + i % 3)) for i in range(10)]


def examples_of(engine: Engine, rows: list[Row]) -> list[Example]:
    resident = engine.resident
    assert resident is not None
    return [resident.encoder.example(row.messages("sys")) for row in rows]


def test_order_depends_on_seed_and_epoch_only() -> None:
    config = TrainConfig(gradient_accumulation_steps=4)
    steps = list(islice(step_rows(10, config), 6))
    assert [len(rows) for _, rows in steps] == [4, 4, 2, 4, 4, 2]
    assert sorted(functools.reduce(operator.iadd, (rows for _, rows in steps[:3]), [])) == list(range(10))
    assert steps[0][1] != steps[3][1] and steps[2][0] == 1.0
    assert steps == list(islice(step_rows(10, config), 6))
    assert steps != list(islice(step_rows(10, build({"seed": 7}, config)), 6))


@pytest.mark.parametrize(
    ("kind", "middle", "last"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)]
)
def test_learning_rate_warms_up_and_follows_its_curve(kind: str, middle: float, last: float) -> None:
    config = TrainConfig(learning_rate=1.0, warmup_ratio=0.1, lr_scheduler_type=kind)
    rates = [learning_rate_at(step, 100, config) for step in range(101)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0 and rates[55] == pytest.approx(middle) and rates[100] == pytest.approx(last, abs=1e-9)


def test_evaluation_split_takes_nothing_twice() -> None:
    examples = [Example((i,), (i,)) for i in range(10)]
    training, held = divide(examples, TrainConfig(split_dataset_ratio=0.2))
    assert len(held) == 2 and sorted(training + held, key=lambda e: e.input_ids) == examples
    assert divide(examples, TrainConfig()) == (examples, [])


def make_run(folder: Path, config: TrainConfig, rows: list[Row] = ROWS) -> Run:
    return Run.create(folder, config, rows, "test", "test")


def test_a_run_emits_its_life_and_leaves_an_adapter_that_peft_loads(tmp_path: Path, tiny_config: TrainConfig) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = build({"split_dataset_ratio": 0.2, "save_steps": 1, "eval_steps": 2, "model_name": "小禾"}, tiny_config)
    engine, run = Engine(), make_run(tmp_path / "run", config)
    train(engine, run, threading.Event())
    kinds = [event["type"] for event in run.events]
    assert kinds[:4] == ["loading", "started", "probed", "step"] and kinds[-1] == "finished"
    probed = [event for event in run.events if event["type"] == "probed"]
    assert [event["step"] for event in probed] == [0, 4]  # the base's answers before the first step
    assert kinds.count("step") == 4 == run.steps and kinds.count("evaluated") == 2
    assert [p.name for p in sorted((run.folder / "checkpoints").iterdir())] == ["step-000002", "step-000003"]
    losses = [event["loss"] for event in run.events if event["type"] == "step"]
    assert losses[-1] < losses[0]
    assert run.status == "finished" and Run.open(run.folder).events == run.events
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(config.model), str(run.adapter))
    assert any(p.abs().sum() > 0 for n, p in plain.named_parameters() if "lora_B" in n)


def test_the_same_run_twice_gives_the_same_bytes(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"lora_dropout": 0.1}, tiny_config)
    runs = [make_run(tmp_path / name, config) for name in ("a", "b")]
    for run in runs:
        torch.manual_seed(int(run.id == "b"))  # an outside state must not matter
        train(Engine(), run, threading.Event())
    first, second = ((run.folder / "adapter" / "adapter_model.safetensors").read_bytes() for run in runs)
    assert first == second


def test_stop_ends_after_the_step_and_keeps_the_adapter(tmp_path: Path, tiny_config: TrainConfig) -> None:
    run, stop = make_run(tmp_path / "run", build({"num_train_epochs": 50}, tiny_config)), threading.Event()
    original = run.append

    def append(kind: str, **fields: object) -> dict[str, object]:
        if kind == "step" and fields["step"] == 3:
            stop.set()
        return original(kind, **fields)

    run.append = append  # type: ignore[method-assign]
    train(Engine(), run, stop)
    assert run.status == "stopped" and run.step == 3 and run.adapter is not None


def test_a_loss_that_is_no_number_stops_with_the_step_and_saves_nothing(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    engine, run = Engine(), make_run(tmp_path / "run", build({"num_train_epochs": 20}, tiny_config))
    original = run.append

    def poison(kind: str, **fields: object) -> dict[str, object]:
        if kind == "step" and fields["step"] == 4:
            assert engine.resident is not None
            with torch.no_grad():
                engine.resident.backend.adapter_parameters(engine.handle(run.id))[0][0, 0] = math.nan
        return original(kind, **fields)

    run.append = poison  # type: ignore[method-assign]
    with pytest.raises(DivergedError) as caught:
        train(engine, run, threading.Event())
    assert caught.value.step == 5 and "第 5 步" in caught.value.of("zh")
    assert run.adapter is None and engine.attached == ()


def test_unknown_target_modules_and_a_gpu_optimizer_are_refused(tmp_path: Path, tiny_config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        train(Engine(), make_run(tmp_path / "a", build({"target_modules": "nonsense"}, tiny_config)), threading.Event())
    with pytest.raises(ConfigError, match="q_porj"):
        train(
            Engine(),
            make_run(tmp_path / "b", build({"target_modules": "q_porj v_proj"}, tiny_config)),
            threading.Event(),
        )
    with pytest.raises(ConfigError, match="CUDA"):
        check(build({"optim": "paged_adamw_8bit"}, tiny_config), Device("cpu", "laptop", 0))


def test_a_row_with_history_learns_every_answer(tiny_engine: Engine) -> None:
    row = Row("now?", "", "third", history=(Message("user", "q"), Message("assistant", "first")))
    (example,) = examples_of(tiny_engine, [row])
    assert tiny_engine.resident is not None
    assert tiny_engine.resident.encoder.decode([i for i in example.labels if i != IGNORE]) == "firstthird"


# Evaluation, checkpoints, early end


def saved(run: Run) -> list[tuple[object, object]]:
    """(step, best) of every checkpoint the run told of."""
    return [(e["step"], e["best"]) for e in run.events if e["type"] == "saved" and "best" in e]


def kept(run: Run) -> list[str]:
    """Checkpoints on disk, the one whose card says it is the best with a star."""
    folders = sorted((run.folder / "checkpoints").iterdir())
    return [f"{int(f.name[5:])}{'*' if json.loads((f / 'onecard.json').read_text())['best'] else ''}" for f in folders]


def test_an_evaluation_set_of_its_own_leaves_every_row_to_training(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"eval_steps": 1}, tiny_config)
    run = Run.create(tmp_path / "run", config, ROWS, "test", "test", evaluation=ROWS[:3])
    assert Run.open(run.folder).evaluation_rows == ROWS[:3]
    train(Engine(), run, threading.Event())
    started = run.first("started")
    assert started is not None and (started["rows"], started["held_out"]) == (10, 3)
    losses = [float(str(event["loss"])) for event in run.events if event["type"] == "evaluated"]
    assert len(losses) == run.steps == 6 and losses[-1] < losses[0]


def test_the_best_checkpoint_outlives_newer_ones_and_a_run_that_gets_worse_ends_early(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    # Trained on rows that contradict the evaluation set, it is best at first and worse from then on.
    rows = [Row("q", "", "yes yes yes")] * 8
    settings = {"eval_steps": 1, "save_steps": 2, "save_total_limit": 2, "max_steps": 40, "early_stop_interval": 6}
    config = build({**settings, "learning_rate": 3e-2, "warmup_ratio": 0}, tiny_config)
    run = Run.create(tmp_path / "run", config, rows, "test", "test", evaluation=[Row("q", "", "NO!")])
    train(Engine(), run, threading.Event())
    losses = {e["step"]: float(str(e["loss"])) for e in run.events if e["type"] == "evaluated"}
    best = min(losses, key=losses.__getitem__)
    end = run.events[-1]
    assert end["type"] == "finished" and end["step"] == int(str(best)) + 6 < 40 and run.status == "finished"
    assert (end["best_step"], end["best_loss"]) == (best, losses[best])
    assert "提前结束" in str(end["reason_zh"]) and f"step {best}" in str(end["reason_en"])
    assert (best, True) in saved(run) and [step for step, is_best in saved(run) if is_best][-1] == best
    assert len(kept(run)) == 3 and kept(run)[0] == f"{best}*" and run.adapter is not None
    card = json.loads((run.folder / "checkpoints" / f"step-{best:06d}" / "onecard.json").read_text())
    assert card["evaluation_loss"] == losses[best]


def test_the_last_evaluation_is_told_by_the_adapter_and_no_older_checkpoint_claims_to_be_the_best(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({"max_steps": 5, "eval_steps": 2, "save_steps": 2}, tiny_config)
    run = Run.create(tmp_path / "run", config, ROWS, "test", "test", evaluation=ROWS[:3])
    train(Engine(), run, threading.Event())
    end, last = run.events[-1], run.last("evaluated")
    assert (
        last is not None and (end["best_step"], end["best_loss"]) == (5, last["loss"]) and saved(run)[-1] == (4, True)
    )
    assert kept(run) == ["2", "4"]
    card = json.loads((run.folder / "adapter" / "onecard.json").read_text())
    assert (card["step"], card["best"], card["evaluation_loss"]) == (5, True, last["loss"])


def test_a_checkpoint_that_is_measured_after_its_save_says_so(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"max_steps": 5, "eval_steps": 2}, tiny_config)
    run = Run.create(tmp_path / "run", config, ROWS, "test", "test", evaluation=ROWS[:3])
    train(Engine(), run, stop_after(run, 2))
    assert run.status == "stopped" and kept(run) == ["2"]
    stop, original, seen = stop_after(run, 3), run.append, []

    def append(kind: str, **fields: object) -> dict[str, object]:
        if kind == "step":
            seen.append(kept(run))
        return original(kind, **fields)

    run.append = append  # type: ignore[method-assign]
    train(Engine(), run, stop)
    assert seen == [["2*"]]
    (measured,) = [event for event in run.events if event["type"] == "evaluated"]
    card = json.loads((run.folder / "checkpoints" / "step-000002" / "onecard.json").read_text())
    assert (card["best"], card["evaluation_loss"]) == (True, measured["loss"]) and kept(run) == ["2*", "3"]


def stop_after(run: Run, step: int) -> threading.Event:
    """A stop that is asked for as soon as the run tells of `step`."""
    stop, original = threading.Event(), run.append

    def append(kind: str, **fields: object) -> dict[str, object]:
        if kind == "step" and fields["step"] == step:
            stop.set()
        return original(kind, **fields)

    run.append = append  # type: ignore[method-assign]
    return stop


def test_early_stop_survives_a_resumption(tmp_path: Path, tiny_config: TrainConfig) -> None:
    settings = {"eval_steps": 1, "max_steps": 40, "early_stop_interval": 6, "learning_rate": 3e-2, "warmup_ratio": 0}
    config, rows = build(settings, tiny_config), [Row("q", "", "yes yes yes")] * 8
    straight, stopped = (
        Run.create(tmp_path / name, config, rows, "test", "test", evaluation=[Row("q", "", "NO!")])
        for name in ("straight", "stopped")
    )
    train(Engine(), straight, threading.Event())
    train(Engine(), stopped, stop_after(stopped, 5))
    assert stopped.status == "stopped"
    train(Engine(), stopped, threading.Event())
    assert straight.step == stopped.step < 40 and stopped.status == "finished"
    counted = [[(e["step"], e["loss"]) for e in r.history if e["type"] == "evaluated"] for r in (straight, stopped)]
    assert counted[0] == counted[1]


def test_a_checkpoint_is_saved_when_enough_time_has_passed(
    tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    passed = 0.0
    monkeypatch.setattr("core.train.time", SimpleNamespace(perf_counter=lambda: passed + next(clock) * 1e-6))
    config = build({"max_steps": 6, "save_seconds": 1, "save_total_limit": 9}, tiny_config)
    run = make_run(tmp_path / "run", config)
    original = run.append

    def append(kind: str, **fields: object) -> dict[str, object]:
        nonlocal passed
        if kind == "step" and fields["step"] in (2, 4):
            passed += 1.1
        return original(kind, **fields)

    run.append = append  # type: ignore[method-assign]
    train(Engine(), run, threading.Event())
    assert [step for step, _ in saved(run)] == [2, 4]


def test_settings_that_make_no_sense_together_are_refused(tiny_config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="exclude each other") as caught:
        build({"val_dataset": "mine", "split_dataset_ratio": 0.1}, tiny_config)
    assert caught.value.field == "val_dataset"
    laptop = Device("cpu", "laptop", 0)
    with pytest.raises(ConfigError, match="early_stop_interval = 3"):
        check(build({"early_stop_interval": 3}, tiny_config), laptop)
    check(build({"early_stop_interval": 3, "val_dataset": "mine"}, tiny_config), laptop)


def test_tensorboard_is_asked_for_before_the_start(tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match="pip install tensorboard") as caught:
        check(build({"report_to": "tensorboard"}, tiny_config), Device("cpu", "laptop", 0))
    assert caught.value.field == "report_to"


def test_tensorboard_shows_the_events_and_hides_what_a_resumed_run_does_again(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = build(
        {"report_to": "tensorboard", "max_steps": 6, "split_dataset_ratio": 0.2, "eval_steps": 2}, tiny_config
    )
    run = make_run(tmp_path / "run", config)
    train(Engine(), run, stop_after(run, 3))
    train(Engine(), run, threading.Event())
    shown = EventAccumulator(str(run.folder / "tensorboard"))
    shown.Reload()
    for tag, kind in (("train/loss", "step"), ("eval/loss", "evaluated")):
        told = [(e["step"], pytest.approx(e["loss"])) for e in run.history if e["type"] == kind]
        assert [(point.step, point.value) for point in shown.Scalars(tag)] == told

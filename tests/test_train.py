"""The training step: exactness against the plain loop, schedule, order, events, stopping, divergence."""

from __future__ import annotations

import functools
import math
import operator
import threading
from itertools import islice
from pathlib import Path

import pytest
import torch

from core.batch import pack, split
from core.config import TrainConfig, build
from core.dataset import Message, Row
from core.device import Device
from core.encode import IGNORE, Example
from core.engine import Engine
from core.errors import ConfigError, DivergedError
from core.run import Run
from core.train import check, divide, learning_rate_at, step_rows, train

ROWS = [Row(f"question {i} " + "x" * (3 * i), "", f"answer {i}" * (1 + i % 3)) for i in range(10)]


def examples_of(engine: Engine, rows: list[Row]) -> list[Example]:
    resident = engine.resident
    assert resident is not None
    return [resident.encoder.example(row.messages("sys")) for row in rows]


def plain_loop(engine: Engine, name: str, examples: list[Example]) -> tuple[float, list[torch.Tensor]]:
    """Batch 1 x accumulation N with token-normalised loss, the way any trainer writes it."""
    resident = engine.resident
    assert resident is not None
    backend = resident.backend
    backend._train_mode(engine.handle(name), recompute=False)
    total = sum(example.answer_tokens for example in examples)
    loss = 0.0
    for example in examples:
        logits = backend.model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
        part = torch.nn.functional.cross_entropy(
            logits, torch.tensor(example.labels[1:]), ignore_index=IGNORE, reduction="sum"
        )
        (part / total).backward()
        loss += float(part.detach()) / total
    return loss, collect(engine, name)


def collect(engine: Engine, name: str) -> list[torch.Tensor]:
    assert engine.resident is not None
    parameters = engine.resident.backend.adapter_parameters(engine.handle(name))
    gradients = [p.grad.clone() for p in parameters if p.grad is not None]
    assert len(gradients) == len(parameters)
    for parameter in parameters:
        parameter.grad = None
    return gradients


def double(engine: Engine, name: str) -> None:
    """Everything in float64, and B away from zero so that A gets a gradient."""
    assert engine.resident is not None
    engine.resident.backend.model.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in engine.resident.backend.adapter_parameters(engine.handle(name)):
            parameter.normal_(0, 0.05, generator=generator)


@pytest.mark.parametrize(("max_tokens", "recompute"), [(10_000, False), (150, False), (1, False), (10_000, True)])
def test_packed_gradient_equals_batch_one_accumulation(
    tiny_engine: Engine, tiny_config: TrainConfig, max_tokens: int, recompute: bool
) -> None:
    tiny_engine.create_adapter("a", tiny_config)
    double(tiny_engine, "a")
    examples = examples_of(tiny_engine, ROWS[:6])
    expected_loss, expected = plain_loop(tiny_engine, "a", examples)
    assert tiny_engine.resident is not None
    backend = tiny_engine.resident.backend
    total = sum(example.answer_tokens for example in examples)
    groups = list(split(examples, max_tokens))
    assert (len(groups) > 1) == (max_tokens < 10_000)
    loss = sum(float(backend.loss_and_grads(pack(g, "cpu"), tiny_engine.handle("a"), total, recompute)) for g in groups)
    for mine, reference in zip(collect(tiny_engine, "a"), expected, strict=True):
        assert (mine - reference).abs().max() <= 1e-6 * reference.abs().max()
    assert loss == pytest.approx(expected_loss, rel=1e-9)


def test_packing_leaves_no_leak_between_examples(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    tiny_engine.create_adapter("a", tiny_config)
    first, second, other = examples_of(tiny_engine, ROWS[:3])
    name = tiny_engine.handle("a")
    assert tiny_engine.resident is not None
    backend = tiny_engine.resident.backend
    apart = float(backend.loss(pack([second], "cpu"), name))
    together = [
        float(backend.loss(pack([x, second], "cpu"), name) - backend.loss(pack([x], "cpu"), name))
        for x in (first, other)
    ]
    assert together == pytest.approx([apart, apart], rel=1e-5)


def test_split_keeps_order_and_every_example() -> None:
    examples = [Example(tuple(range(n)), (IGNORE,) * n) for n in (3, 4, 9, 1, 1)]
    groups = [[len(e) for e in group] for group in split(examples, 7)]
    assert groups == [[3, 4], [9], [1, 1]]


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
    assert kinds[:3] == ["loading", "started", "probed"] and kinds[-1] == "finished"
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

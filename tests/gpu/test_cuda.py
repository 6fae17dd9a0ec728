"""The same promises on a CUDA card: packing does not leak, base rows are the base, every precision trains and answers.

ONECARD_TEST_CUDA=0 python -m pytest -m gpu tests/gpu
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from core.backend import Route
from core.batch import pack
from core.config import TrainConfig, build
from core.dataset import Message, Row
from core.engine import Engine
from core.generate import Column, Sampling, stream
from core.run import Run
from core.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card (set ONECARD_TEST_CUDA to its number)"),
]
ROWS = [Row(f"question {i} " + "x" * (5 * i), "", f"answer {i}") for i in range(6)]
QUESTION = (Message("system", "s"), Message("user", "question 1"))


@pytest.fixture
def engine(tiny_model: Path) -> Engine:
    made = Engine()
    assert made.device.kind == "cuda"
    made.load(str(tiny_model))
    return made


def test_packed_examples_do_not_see_each_other(engine: Engine, tiny_config: TrainConfig) -> None:
    engine.load(tiny_config.model, torch_dtype="float32")
    engine.create_adapter("a", tiny_config)
    assert engine.resident is not None
    backend = engine.resident.backend
    examples = [engine.resident.encoder.example(row.messages("s")) for row in ROWS]
    apart = sum(float(backend.loss(pack([example], backend.device), engine.handle("a"))) for example in examples)
    together = float(backend.loss(pack(examples, backend.device), engine.handle("a")))
    assert together == pytest.approx(apart, rel=1e-5)


def test_base_rows_are_the_base_to_the_bit(engine: Engine, tiny_config: TrainConfig) -> None:
    assert engine.resident is not None
    resident = engine.resident
    ids = [resident.encoder.prompt(QUESTION)] * 2
    pure = resident.backend.slots().join(ids, [Route()] * 2, [64] * 2).clone()
    engine.create_adapter("a", tiny_config)
    with torch.no_grad():
        for parameter in resident.backend.adapter_parameters(engine.handle("a")):
            parameter.fill_(0.3)
    mixed = resident.backend.slots().join(ids, [Route(), Route(engine.handle("a"))], [64] * 2)
    assert torch.equal(pure[0], mixed[0]) and not torch.equal(pure[1], mixed[1])


@pytest.mark.parametrize("changes", [
    {"torch_dtype": "bfloat16"},
    {"torch_dtype": "float16"},
    {"torch_dtype": "float32"},
    {"quant_method": "bnb"},
    {"quant_method": "bnb", "optim": "paged_adamw_8bit", "gradient_checkpointing": "on"},
], ids=str)  # fmt: skip
def test_every_precision_trains_and_answers(
    tmp_path: Path, tiny_config: TrainConfig, changes: dict[str, object]
) -> None:
    if "quant_method" in changes:
        pytest.importorskip("bitsandbytes")
    engine = Engine()
    run = Run.create(
        tmp_path / "run",
        build({"num_train_epochs": 60, "learning_rate": 2e-2, "weight_decay": 0, **changes}, tiny_config),
        ROWS,
        "t",
        "t",
    )
    train(engine, run, threading.Event())
    losses = [float(str(event["loss"])) for event in run.events if event["type"] == "step"]
    assert run.status == "finished" and losses[-1] < losses[0] - 0.2  # 5.55 -> 5.2 on the processor
    columns = [Column(QUESTION), Column(QUESTION, run.id)]
    base, tuned = list(stream(engine, columns, Sampling(max_new_tokens=8)))[-1]
    assert tuned.ids != base.ids

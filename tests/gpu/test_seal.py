"""The base seal on a card: the same bits after answers, runs and embeddings in host memory; broken by one weight."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from core import seal
from core.config import TrainConfig, build
from core.dataset import Message, Row
from core.engine import Engine
from core.fused.sizes import Way
from core.generate import Column, Sampling, stream
from core.run import Run
from core.train import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]
ROWS = [Row(f"question {i} " + "x" * (5 * i), "", f"answer {i}") for i in range(6)]


@pytest.fixture(params=["bfloat16", "float32"])
def engine(tiny_model: Path, request: pytest.FixtureRequest) -> Engine:
    """By the fused way and by the plain one."""
    made = Engine()
    made.load(str(tiny_model), torch_dtype=request.param)
    return made


def test_the_base_says_the_same_to_the_bit_after_answers_and_a_run(
    engine: Engine, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    resident = engine.resident
    assert resident is not None and engine._seal is not None and engine.checked.state == "verified"
    messages = (Message("system", "s"), Message("user", "question 1"))
    for _ in stream(engine, [Column(messages)] * 3, Sampling(temperature=0.0, max_new_tokens=12)):
        pass
    config = build({"max_steps": 5, "torch_dtype": resident.dtype}, tiny_config)
    run = Run.create(tmp_path / "run", config, ROWS, "t", "t")
    train(engine, run, threading.Event())
    assert run.status == "finished" and engine.checked.state == "verified"
    with engine.turn():
        resident.backend.settle(Way(host_embeddings=resident.backend.fast and not resident.info.tied_embeddings))
        again = seal._logits(resident, engine._seal.prompts)
    assert torch.equal(again, engine._seal.logits)


def test_one_weight_breaks_it(engine: Engine) -> None:
    assert engine.resident is not None
    backend: Any = engine.resident.backend
    weight = backend.model.model.layers[1].mlp.down_proj.weight.data
    weight[3] += 0.05
    del weight, backend
    engine.verify()
    assert engine.checked.state == "reloaded" and engine.state == "ready"
    engine.verify()
    assert engine.checked.state == "verified"

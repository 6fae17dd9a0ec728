"""Beside speed: Start to the first tuned answer, equal loss curves, and the memory estimate against the measured peak."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import loops
import measure
import table
import workloads
from measure import Record
from session import Session, base_of, loaded

from core import presets
from core.config import TrainConfig
from core.dataset import Message, Row
from core.engine import Engine
from core.generate import Column, Sampling, stream
from core.run import Run
from core.train import train

if TYPE_CHECKING:
    import torch

_ANSWER_TOKENS = 32


def click(engine: Engine, config: TrainConfig) -> Record:
    """The headline job as a person runs it (questions on, in its own thread), then a question as soon as it is saved."""
    measure.reset()
    messages = (Message("system", config.system), Message("user", "Please tell me about yourself."))
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(1) as pool:
        run = Run.create(Path(home) / "click", config, workloads.identity_rows(), "click", "click")
        begun = time.time()
        training = pool.submit(train, engine, run, threading.Event())
        while run.adapter is None and not training.done():
            time.sleep(0.002)
        if run.adapter is None:
            training.result()  # raises what stopped it
        asked = time.time()
        reply = list(stream(engine, [Column(messages, run.id)], Sampling(max_new_tokens=_ANSWER_TOKENS)))[-1][0]
        answered = time.time()
        training.result()
        finished = time.time()
        engine.detach(run.id)
    return {
        "click_to_adapter_s": round(measure.number(run.last("saved"), "time") - begun, 3),
        "click_to_first_token_s": round(asked - begun + (reply.first_token_seconds or 0.0), 3),
        "click_to_answer_s": round(answered - begun, 3),
        "answer_tokens": reply.tokens,
        "click_to_finished_s": round(finished - begun, 3),
        "questions_s": [round(measure.number(e, "seconds"), 3) for e in run.events if e["type"] == "probed"],
        **measure.memory(),
    }


def losses(session: Session, engine: Engine, quant: str) -> None:
    """Loss curves of the headline job from one and the same start: engine, plain loop one row a pass, plain packed.

    All records go to --losses as one JSON object a base; their differences into the table.
    """
    asked = session.asked
    config = replace(session.config(quant, asked.recompute[0], None), num_train_epochs=10.0)
    config = measure.loop_config(config, 0)
    rows = session.workload("headline", engine, config).rows
    steps = min(asked.losses_steps, config.steps(len(rows)))
    base = base_of(config, engine.device.kind)
    head: Record = {"what": "losses", "system": table.OURS, "base": base, "steps": steps}

    def work() -> Record:
        start = _start(engine, config)
        curves: dict[str, list[float]] = {"engine": _engine_curve(engine, config, rows, steps)}
        for name, passes in (("one row", loops.one_row), ("packed", loops.packed(asked.peer_tokens))):
            curves[name] = _plain_curve(engine, config, rows, passes, steps, start)
        if asked.float32:
            engine.load(config.model, "none", "float32")
            exact = replace(config, quant_method="none", torch_dtype="float32")
            curves["float32"] = _plain_curve(engine, exact, rows, loops.packed(asked.peer_tokens), steps, start)
        return {"curves": curves, "differences": differences(curves)}

    session.measure(head, work)
    known = json.loads(asked.losses.read_text()) if asked.losses.is_file() else {}
    asked.losses.write_text(json.dumps({**known, base: session.records[-1]}, indent=1) + "\n")


def differences(curves: Mapping[str, Sequence[float]]) -> Record:
    """Mean and largest |difference| of each pair of curves, the one-row loop's and the float32 one's first."""
    found: Record = {}
    for one, other in (("one row", "engine"), ("one row", "packed"), ("float32", "one row"), ("float32", "packed"),
                       ("float32", "engine")):  # fmt: skip
        if one in curves and other in curves:
            apart = [abs(a - b) for a, b in zip(curves[one], curves[other], strict=True)]
            found[f"{one} - {other}"] = {"mean": sum(apart) / len(apart), "max": max(apart)}
    return found


def estimates(session: Session) -> None:
    """A few optimizer steps through the product's path, and what it expected them to take; the base is read once each.

    Each preset, shape, rank and recompute mode on the whole card, then the shapes again within budgets.
    """
    asked = session.asked
    chosen = sorted(
        ((presets.preset(name), name) for name in asked.estimate_presets), key=lambda p: p[0].config.quant_method
    )
    engine: Engine | None = None
    for preset, name in chosen:
        quant = preset.config.quant_method
        if engine is None or engine.resident is None or engine.resident.quant_method != quant:
            engine = loaded(session, quant, None)
        budgets = [float(text.split(":")[1]) for text in asked.estimate_budgets if text.split(":")[0] == quant]
        ways: list[tuple[int, str, float | None]] = [
            *((rank, recompute, None) for rank, recompute in product(asked.estimate_ranks, asked.estimate_recompute)),
            *((asked.estimate_ranks[0], "auto", gib) for gib in budgets),
        ]
        for shape, (rank, recompute, gib) in product(asked.estimate_shapes, ways):
            length, count = (int(part) for part in shape.split("x"))
            with engine.turn() as resident:
                rows = workloads.exact_rows(resident.encoder, preset.config.system, count, length, answer_share=0.5)
            config = replace(
                preset.config, model=asked.model, lora_rank=rank, gradient_checkpointing=recompute, **measure.PLAIN,
                per_device_train_batch_size=1, gradient_accumulation_steps=count, max_length=max(2048, length),
            )  # fmt: skip
            if engine.device.kind == "cpu":
                config = replace(config, optim="adamw_torch")
            head: Record = {"what": "estimate", "system": table.OURS, "preset": name, "base": base_of(config, engine.device.kind),
                            "shape": f"{count} x {length}", "rank": rank,
                            "asked": f"{recompute}, {gib:g} GiB" if gib else recompute}  # fmt: skip
            work = partial(_estimate, session, engine, measure.with_budget(config, gib), rows)
            session.measure(head, work)
    if engine is not None:
        engine.unload()


def _estimate(session: Session, engine: Engine, config: TrainConfig, rows: Sequence[Row]) -> Record:
    found = measure.job(engine, measure.loop_config(config, session.asked.estimate_steps), rows, "estimate")
    # What others had in use before this process came is not the run's.
    measured = max(0.0, float(str(found.get("card_peak_gib", 0))) - session.idle_gib)
    return {**found, "measured_gib": round(measured, 3)}


def _start(engine: Engine, config: TrainConfig) -> dict[str, torch.Tensor]:
    """The first values of the adapter that a run with these settings trains."""
    with loops.fresh_adapter(engine, config) as (resident, handle):
        tensors, _ = resident.backend.adapter_state(handle)
        return {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}


def _engine_curve(engine: Engine, config: TrainConfig, rows: Sequence[Row], steps: int) -> list[float]:
    """All steps of the job are trained, so that its learning rates are the whole job's; the first ones are returned."""
    found = measure.job(engine, config, rows, "losses")["losses"]
    assert isinstance(found, list)
    return [float(loss) for loss in found[:steps]]


def _plain_curve(
    engine: Engine,
    config: TrainConfig,
    rows: Sequence[Row],
    passes: loops.Passes,
    steps: int,
    start: Mapping[str, torch.Tensor],
) -> list[float]:
    return [round(lap.loss, 6) for lap in loops.plain_laps(engine, config, rows, passes, steps, start)]

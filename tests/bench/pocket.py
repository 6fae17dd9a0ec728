"""What a run does to the pocket model, through the product's own path: seconds, identity, general answers before and after.

    python tests/bench/pocket.py [--dataset identity-50 articles-8] [--preset pocket] [--set learning_rate=1e-3 ...]

General answers are the 480 held-out questions of presets/pocket/evaluate.py (exact match); identity is the 16 held-out
questions of presets/probes.

    python tests/bench/pocket.py --loop 3

times the training loop alone: 50 rows x 10 epochs, 16 rows a step, beside the loop of batch 1 x accumulation 16.

    python tests/bench/pocket.py --answers 3

times a base/tuned pair of answers beside two plain generate calls, and counts the greedy answers that sharing a batch changes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import loops
import measure
import pairs
import workloads

from core import config as settings
from core import models, probes
from core.dataset import Message
from core.engine import Engine
from core.generate import Column, Sampling, stream
from core.models import POCKET
from core.presets import preset
from core.run import Run
from core.starter import starter_sets
from core.train import train
from presets.pocket import evaluate


def answers(engine: Engine, conversations: list[tuple[Message, ...]], adapter: str | None) -> list[str]:
    """Greedy answers, 64 at a time."""
    found: list[str] = []
    for start in range(0, len(conversations), 64):
        columns = [Column(messages, adapter) for messages in conversations[start : start + 64]]
        found += [reply.text for reply in list(stream(engine, columns, Sampling(max_new_tokens=64)))[-1]]
    return found


def general(engine: Engine, adapter: str | None) -> evaluate.Score:
    """The held-out general questions under the default system prompt."""
    items = [item for item in evaluate.probes(0) if item.category != "identity"]
    asked = [(Message("system", item.system), Message("user", item.question)) for item in items]
    return evaluate.score(items, answers(engine, asked, adapter))


def loop_ratio(repeat: int) -> dict[str, object]:
    """Seconds of the 40 steps through the engine and one row a pass, taking turns; the ratio of the medians."""
    import torch

    changes = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 16,
        "num_train_epochs": 10,
        "min_steps": 0,
        "rehearsal": "off",  # the one-row loop has no anchors either
    }
    config = measure.loop_config(settings.build(changes, preset("pocket").for_model(POCKET).config), 0)
    rows = workloads.identity_rows()
    engine = Engine()
    engine.load(POCKET)
    found: dict[str, list[float]] = {"engine": [], "one_row_a_pass": []}
    for number in range(repeat):
        record = measure.job(engine, config, rows, f"run-{number}")
        found["engine"].append(float(str(record["train_loop_s"])))
        laps = loops.plain_laps(engine, config, rows, loops.one_row, config.steps(len(rows)))
        found["one_row_a_pass"].append(round(sum(lap.seconds for lap in laps), 3))
    ours, theirs = (statistics.median(seconds) for seconds in found.values())
    threads, load = torch.get_num_threads(), [round(value, 2) for value in os.getloadavg()]
    return {**found, "ratio": round(theirs / ours, 2), "steps": len(laps), "threads": threads, "load_average": load}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--dataset", nargs="+", default=["identity-50", "articles-8"])
    arguments.add_argument("--preset", default="pocket")
    arguments.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    arguments.add_argument("--loop", type=int, default=0, metavar="N", help="only time the training loop, N times")
    arguments.add_argument("--answers", type=int, default=0, metavar="N", help="only time answers, N times")
    parsed = arguments.parse_args()
    if parsed.answers:
        pairs.main(parsed.answers)
        return
    if parsed.loop:
        print(json.dumps(loop_ratio(parsed.loop)))
        return
    changes = dict(item.split("=", 1) for item in parsed.set)
    tables = {table.name: table for table in starter_sets()}
    for name in parsed.dataset:
        table = tables[name]
        card = table.identity
        config = settings.build(changes, preset(parsed.preset).for_model(POCKET).config)
        config = replace(
            config, model_name=f"{card.name_zh}|{card.name_en}", model_author=f"{card.author_zh}|{card.author_en}"
        )
        engine = Engine()
        engine.load(POCKET)
        before = general(engine, None)
        with tempfile.TemporaryDirectory() as home:
            run = Run.create(Path(home) / "run", config, table.resolved(), name, name)
            begun = time.perf_counter()
            train(engine, run, threading.Event())
            seconds = time.perf_counter() - begun
        old = models.old_words(models.inspect(POCKET))
        asked = [p for p in probes.load_probes(card, old, config.system, per_language=100) if p.kind == "identity"]
        told = answers(engine, [probe.messages for probe in asked], run.id)
        verdicts = [probes.judge(probe, text, None).verdict for probe, text in zip(asked, told, strict=True)]
        after = general(engine, run.id)
        print(json.dumps({
            "dataset": name, "steps": run.steps, "seconds_start_to_finished": round(seconds, 1),
            "training_loop_seconds": round(sum(float(str(e["seconds"])) for e in run.events if e["type"] == "step"), 1),
            "identity_held_out": f"{verdicts.count('hit')}/{len(verdicts)}",
            "missed": [(p.question, t) for p, t, v in zip(asked, told, verdicts, strict=True) if v != "hit"],
            "general_before": "/".join(map(str, before.general)), "general_after": "/".join(map(str, after.general)),
            "lost": [(p.question, text) for p, text in after.wrong][:6],
        }, ensure_ascii=False), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

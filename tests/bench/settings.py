"""What each setting does: the pocket model trained once with every setting changed alone, asked and timed.

    python tests/bench/settings.py --out settings.jsonl [--only learning_rate lora_rank] [--threads 1]
    python tests/bench/settings.py --out settings.jsonl --write

Around the pocket preset without its guard and its early stop, so that nothing mends what a setting does: 50 rows x 10
epochs, 4 rows a step, 130 steps, learning rate 2e-3. Identity: the 118 held-out questions of tests/bench/exam.py.
General: its 480 questions. Seconds are the processor's for the whole of a run, so other work on the machine does not
count. Memory: what core.estimate gives for a 7B in bf16 on a card of 24 GiB over the same rows. Lines that are there
already are not measured again. --write puts them into presets/effects.json, where the page and docs/settings.md have them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import exam
import identities

from core import config as declared
from core import effects, estimate, mix, rehearsal, starter
from core.config import TrainConfig
from core.dataset import Dataset, Identity
from core.device import Device
from core.engine import Engine
from core.errors import WontFitError
from core.models import POCKET, ModelInfo
from core.presets import preset
from core.run import Run
from core.sources.found import Sources
from core.train import train

GIB = 2**30
QWEN_7B = ModelInfo("7b", Path("7b"), "qwen2", 3584, 18944, 28, 28, 4, 128, 152_064, False, 15_231_233_024, 32_768)
CARD = Device("cuda", "24 GiB", 24 * GIB)
PLAIN = {"rehearsal": "off", "stop_when_taken": "false", "prove": "false", "min_steps": "0"}
Changes = Mapping[str, str]

# What is asked for most stands first, of each setting and among them: where time is short, the rest is not measured.
GRID: dict[str, tuple[Changes, ...]] = {
    "seed": ({}, {"seed": "43"}, {"seed": "44"}),
    "learning_rate": tuple({"learning_rate": rate} for rate in ("2e-4", "1e-3", "4e-3")),
    "num_train_epochs": tuple({"num_train_epochs": epochs} for epochs in ("3", "20", "5")),
    "rehearsal": ({"rehearsal": "normal"}, {"rehearsal": "strong"}),
    "lora_rank": tuple({"lora_rank": str(rank), "lora_alpha": str(4 * rank)} for rank in (16, 4, 32)),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": "4"},),
    "target_modules": ({"target_modules": "mlp"}, {"target_modules": "attention"}),
    "stop_when_taken": ({"stop_when_taken": "true"},),
    "mix": ({"mix": "general#100"},),
    "lora_alpha": ({"lora_alpha": "64"}, {"lora_alpha": "16"}),
    "max_steps": ({"max_steps": "20"}, {"max_steps": "60"}),
    "min_steps": ({"gradient_accumulation_steps": "4", "min_steps": "100"},),
    "lr_scheduler_type": ({"lr_scheduler_type": "constant"}, {"lr_scheduler_type": "linear"}),
    "optim": ({"optim": "lion_32bit", "learning_rate": "4e-4"}, {"optim": "lion_32bit"}),
    "weight_decay": ({"weight_decay": "0.1"},),
    "lorap_lr_ratio": ({"lorap_lr_ratio": "4"}, {"lorap_lr_ratio": "16"}),
    "use_rslora": ({"use_rslora": "true"},),
    "init_weights": ({"init_weights": "pissa"}, {"init_weights": "gaussian"}),
    "split_dataset_ratio": ({"split_dataset_ratio": "0.2"},),
    "system": ({"system": ""},),
    "probe_steps": ({"probe_steps": "5", "probe_share": "1"}, {"probe_steps": "0"}),
    "per_device_train_batch_size": ({"per_device_train_batch_size": "8"}, {"per_device_train_batch_size": "2"}),
    "warmup_ratio": ({"warmup_ratio": "0.2"}, {"warmup_ratio": "0"}),
    "adam_beta2": ({"adam_beta2": "0.999"},),
    "max_grad_norm": ({"max_grad_norm": "0"},),
    "lora_dropout": ({"lora_dropout": "0.1"},),
    "use_dora": ({"use_dora": "true"},),
    "neftune_noise_alpha": ({"neftune_noise_alpha": "5"},),
    "gradient_checkpointing": ({"gradient_checkpointing": "on"},),
}


def _size(typed: str) -> float:
    """A number's, so that values stand in their order; words stay as they are."""
    try:
        return float(typed)
    except ValueError:
        return 0.0


def asked(only: Sequence[str]) -> list[tuple[str, Changes]]:
    """The runs to make: the first change of every setting, then the second ones."""
    rounds = range(max(map(len, GRID.values())))
    found = [(name, changes[turn]) for turn in rounds for name, changes in GRID.items() if turn < len(changes)]
    return [each for each in found if not only or each[0] in only]


def config_of(changes: Changes, card: Identity) -> TrainConfig:
    """The preset as it is measured, with `changes`."""
    own = preset("pocket").for_model(POCKET).config
    named = {"model_name": f"{card.name_zh}|{card.name_en}", "model_author": f"{card.author_zh}|{card.author_en}"}
    return declared.build({**PLAIN, **named, **changes}, own)


def memory(config: TrainConfig) -> int:
    """Bytes that the plan for a 7B gives for these settings: in bf16 unless they quantise, on a card of 24 GiB."""
    asked = replace(config, max_length=2048)
    try:
        return estimate.plan(
            QWEN_7B, asked, CARD, [(49, 28)] * 50, CARD.memory_total, anchors=_anchors(asked)
        ).memory_bytes
    except WontFitError as error:
        return error.needed_bytes


def _anchors(config: TrainConfig) -> list[tuple[int, int]]:
    return [estimate.USUAL_ANCHOR] * rehearsal.anchors_per_step(config)


def measure(engine: Engine, changes: Changes, before: dict[exam.Conversation, str], most: int = 0) -> dict[str, object]:
    """One run with `changes`, and what is answered after it."""
    card = exam.CARDS[0]
    table = next(one for one in starter.starter_sets() if one.name == "identity-50")
    config = config_of(changes, card)
    with tempfile.TemporaryDirectory() as home:
        rows = mix.gather(Dataset(table.name, table.rows, card), config, Sources(Path(home)).find).rows
        run = Run.create(Path(home) / "run", config, rows, "settings", table.name)
        begun, used = time.perf_counter(), time.process_time()
        train(engine, run, threading.Event())
        seconds, used = time.perf_counter() - begun, time.process_time() - used
        questions = exam.Exam.of(card, most)
        missing = [talk for talk in dict.fromkeys(questions.conversations) if talk not in before]
        before.update(zip(missing, identities.answers(engine, missing, None), strict=True))
        after = identities.answers(engine, questions.conversations, run.id)
        engine.detach(run.id)
    marks = questions.mark([before[talk] for talk in questions.conversations], after)
    losses = [event["loss"] for event in run.events if event["type"] == "step"]
    return {
        "identity": exam.number(marks, "live") + exam.number(marks, "held"),
        "identity_of": exam.number(marks, "live_n") + exam.number(marks, "held_n"),
        "general": marks["general"], "general_of": marks["general_n"], "general_before": marks["general_before"],
        "steps": run.step, "seconds": round(used, 1), "wall_seconds": round(seconds, 1), "loss": losses[-1],
        "memory_bytes": memory(config), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def written(records: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What presets/effects.json holds: the plain runs of several seeds, and every setting's changed ones."""
    kept = ("identity", "identity_of", "general", "general_of", "steps", "seconds", "memory_bytes")

    def outcome(record: Mapping[str, object]) -> dict[str, object]:
        whole = {name: record[name] if name == "seconds" else int(float(str(record[name]))) for name in kept}
        return {"changes": record["changes"], **whole}

    sound = [record for record in records if "failed" not in record and record["name"] in GRID]
    plain = [outcome(record) for record in sound if record["name"] == "seed"]
    order = {name: place for place, name in enumerate(declared.names())}
    changed: dict[str, list[dict[str, object]]] = {}
    for record in sorted(sound, key=lambda one: order[str(one["name"])]):
        if record["name"] != "seed":
            changed.setdefault(str(record["name"]), []).append(outcome(record))
    for name, runs in changed.items():
        runs.sort(key=lambda run, name=name: _size(str(dict(run["changes"]).get(name, ""))))  # type: ignore[call-overload, misc]
    before = next(record["general_before"] for record in sound)
    named = ("model_name", "model_author")
    settings = {name: value for name, value in config_of({}, Identity()).as_dict().items() if name not in named}
    return {
        "measured": time.strftime("%Y-%m-%d"), "settings": settings, "general_before": before, "plain": plain,
        "changed": changed,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=int, default=0, help="questions of each kind, for a dry run")
    parser.add_argument("--steps", type=int, default=0, help="exactly so many, for a dry run")
    parser.add_argument("--write", action="store_true", help="put a finished file into presets/effects.json")
    given = parser.parse_args(arguments)
    if given.write:
        text = json.dumps(written(identities.read(given.out)), indent=1)
        effects.FILE.write_text(text + "\n", encoding="utf-8")
        return
    import torch

    torch.set_num_threads(given.threads)
    done = {json.dumps([one["name"], one["changes"]]) for one in identities.read(given.out) if "failed" not in one}
    engine, before = Engine(), dict[exam.Conversation, str]()
    engine.load(POCKET)
    measure(engine, {"max_steps": "2"}, {}, 1)  # what is imported and warmed up by the first run counts for none
    for name, changes in asked(given.only):
        if json.dumps([name, dict(changes)]) in done:
            continue
        record: dict[str, object] = {"name": name, "changes": dict(changes)}
        extra = {"max_steps": str(given.steps)} if given.steps else {}
        try:
            record |= measure(engine, {**changes, **extra}, before, given.most)
        except Exception as error:
            record["failed"] = f"{type(error).__name__}: {error}"
        print(json.dumps(record), flush=True)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()

"""A run as other tools' commands: read back they give the same settings, and the plain script trains the same run."""

from __future__ import annotations

import ast
import dataclasses
import json
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.commands import llamafactory, plain, shown, swift
from core.commands.place import Here
from core.commands.plan import plan
from core.commands.shown import Subject
from core.config import TrainConfig
from core.dataset import Identity, Message, Row
from core.engine import Engine
from core.run import Run
from core.starter import starter_sets
from core.text import Text
from core.train import train
from core.workspace import Workspace

ROWS = starter_sets()[0].resolved()
CONFIGS = [
    TrainConfig(model="Qwen/Qwen2.5-7B-Instruct"),
    TrainConfig(model="Qwen/Qwen2.5-7B-Instruct", quant_method="bnb", optim="paged_adamw_8bit", learning_rate=2e-5, lora_dropout=0.05),
    TrainConfig(model="Qwen/Qwen2.5-7B-Instruct", target_modules="attention", use_rslora="true", init_weights="pissa",
                lorap_lr_ratio=16.0),
    TrainConfig(model="Qwen/Qwen2.5-7B-Instruct", max_steps=20, lr_scheduler_type="constant", warmup_ratio=0.1, neftune_noise_alpha=5.0,
                torch_dtype="float16", gradient_checkpointing="off"),
    TrainConfig(model="Qwen/Qwen2.5-7B-Instruct", split_dataset_ratio=0.25, eval_steps=3, early_stop_interval=2, use_dora="true",
                system="You are \"Swift's\" #1; $HOME && more", weight_decay=0.0, adam_beta2=0.99, num_train_epochs=2.5),
]  # fmt: skip
# What no other tool has, or what comes with the file of rows.
OWN = {
    "model", "probe_steps", "probe_share", "rehearsal", "stop_when_taken", "prove", "save_seconds", "max_memory_gb", "min_steps",
    "mix", "dataset_repeat", "model_name", "model_author", "dataloader_num_workers", "truncation_strategy", "val_dataset",
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A folder that holds train.jsonl, as the download unpacks it."""
    monkeypatch.chdir(tmp_path)
    return dataclasses.replace(Here.of(Workspace(tmp_path / "home")), cached=lambda: ("Qwen/Qwen2.5-7B-Instruct",))


def differences(config: TrainConfig, other: TrainConfig, also: frozenset[str] = frozenset()) -> dict[str, object]:
    """Settings in which two configs differ, those aside that only OneCard has."""
    ours, theirs = config.as_dict(), other.as_dict()
    spelled = {**ours, "target_modules": " ".join(shown._targets(config))}
    aside = OWN | also | ({"num_train_epochs"} if config.max_steps else set())  # overruled
    return {name: (spelled[name], theirs[name]) for name in ours if name not in aside and spelled[name] != theirs[name]}


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_the_swift_command_read_back_gives_the_same_settings(config: TrainConfig, here: Here, tmp_path: Path) -> None:
    subject = Subject(config, ROWS)
    for name, content in shown.files("swift", subject).items():
        (tmp_path / name).write_bytes(content)
    text = shown.show("swift", subject).text
    found = plan(text, here)
    assert found.config is not None and found.table is not None
    assert differences(config, found.config) == {}
    assert [note for note in found.notes if note.verdict in ("wrong", "unknown", "missing", "renamed")] == []
    told = [row.messages() for row in found.table.rows]
    assert told == [row.messages(config.system) for row in ROWS]
    assert shlex.split(text.replace("\\\n", " "))[:3] == ["CUDA_VISIBLE_DEVICES=0", "swift", "sft"]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_the_llamafactory_yaml_read_back_gives_the_same_settings(
    config: TrainConfig, here: Here, tmp_path: Path
) -> None:
    subject = Subject(config, ROWS)
    for name, content in shown.files("llamafactory", subject).items():
        (tmp_path / name).write_bytes(content)
    found = plan(shown.show("llamafactory", subject).text, here)
    assert found.config is not None and found.table is not None
    # It is in the rows; and bf16 is what auto means on a card.
    assert differences(config, found.config, frozenset({"torch_dtype", "system"})) == {}
    assert len(found.table.rows) == len(ROWS)
    assert [row.messages() for row in found.table.rows] == [row.messages(config.system) for row in ROWS]


def test_every_flag_that_is_shown_is_one_of_ms_swift_or_transformers() -> None:
    names: set[str] = set()
    for config in CONFIGS:
        text = shown.show("swift", Subject(config, ROWS, ROWS[:2])).text
        names |= {word[2:] for word in shlex.split(text.replace("\\\n", " ")) if word.startswith("--")}
    assert names <= swift.RULES.keys() and not names & {"train_type", "sft_type", "model_type"}


def test_what_has_no_counterpart_is_said(here: Here) -> None:
    config = TrainConfig(rehearsal="strong", prove="true", save_seconds=30, min_steps=500, optim="lion_32bit")
    for kind in shown.KINDS:
        said = " ".join(note.en for note in shown.show(kind, Subject(config, ROWS)).notes)
        assert "rehearsal guard" in said and "proof" in said and "saving by time" in said and "500 steps" in said
    control = Subject(TrainConfig(), (Row("a<|im_end|>", "", "b"),))
    assert "control strings" in " ".join(note.en for note in shown.show("swift", control).notes)
    assert Text("无", "gone") in shown.show("peft", Subject(config, (), problem=Text("无", "gone"))).notes


def test_a_form_whose_mix_is_not_here_is_shown_without_rows_and_says_why(here: Here, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    subject = shown.of_form(workspace, "articles-8", TrainConfig(mix="A/B#5"))
    assert subject.problem is not None and subject.rows == () and "swift sft" in shown.show("swift", subject).text
    mixed = shown.of_form(workspace, "articles-8", TrainConfig(mix="general#5", dataset_repeat=2))
    assert mixed.problem is None and len(mixed.rows) == 21


@pytest.mark.parametrize(
    "config", [*CONFIGS, TrainConfig(adapters="/some/where", optim="lion_32bit", save_steps=1)], ids=range(6)
)
def test_the_script_is_python_whatever_the_settings(config: TrainConfig) -> None:
    subject = Subject(config, ROWS, title='a "title" \\ with """ marks')
    tree = ast.parse(shown.show("peft", subject).text)
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def _run_script(folder: Path, subject: Subject) -> tuple[list[float], list[float]]:
    """(losses, evaluation losses) of the plain script, run as a person would run it."""
    for name, content in shown.files("peft", subject).items():
        (folder / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line["loss"] for line in lines if "loss" in line], [
        line["evaluation_loss"] for line in lines if "evaluation_loss" in line
    ]


def test_the_script_trains_the_same_run_as_onecard(tiny_engine: Engine, tiny_model: Path, tmp_path: Path) -> None:
    rows = (*ROWS, Row("再问", "", "再答", history=(Message("user", "问"), Message("assistant", "答"))))
    config = TrainConfig(
        model=str(tiny_model), learning_rate=1e-2, num_train_epochs=3, gradient_accumulation_steps=2, per_device_train_batch_size=2,
        warmup_ratio=0.2, probe_steps=0, split_dataset_ratio=0.2, eval_steps=2, save_steps=1000, lorap_lr_ratio=4.0,
        target_modules="attention",
    )  # fmt: skip
    run = Run.create(tmp_path / "run", config, rows, "t", "t")
    train(tiny_engine, run, threading.Event())
    ours = [float(str(event["loss"])) for event in run.events if event["type"] == "step"]
    evaluated = [float(str(event["loss"])) for event in run.events if event["type"] == "evaluated"]
    subject = Subject(run.config, run.rows, title="t")
    (tmp_path / "script").mkdir()
    losses, held_out = _run_script(tmp_path / "script", subject)
    assert len(losses) == len(ours) == subject.steps
    # The same weights at the start, the same rows in the same order: only the order of float additions differs.
    assert losses == pytest.approx(ours, rel=1e-4)
    assert held_out[-1] == pytest.approx(evaluated[-1], rel=1e-4)
    assert (tmp_path / "script" / "adapter" / "adapter_model.safetensors").is_file()


def test_every_flag_of_the_installed_trainer_is_known() -> None:
    from transformers import TrainingArguments

    names = {item.name for item in dataclasses.fields(TrainingArguments)}
    for rules in (swift.RULES, llamafactory.RULES, plain.RULES):
        assert names - rules.keys() == set()


def test_identity_and_mix_are_in_the_rows(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.create("t", (Row("你是谁", "", "我是{{NAME}}。"),), Identity("小禾", "Xiaohe"))
    subject = shown.of_form(workspace, "t", TrainConfig(system="S"))
    lines = shown.files("swift", subject)["train.jsonl"].decode().splitlines()
    assert json.loads(lines[0]) == {"messages": [
        {"role": "system", "content": "S"}, {"role": "user", "content": "你是谁"}, {"role": "assistant", "content": "我是小禾。"},
    ]}  # fmt: skip

"""The command line: train to a folder, ask it, and one sentence with exit 2 for anything that cannot be."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app import main
from tests.full import full

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    {"instruction": "你是谁?", "input": "", "output": "我是{{NAME}}。"},
    {"instruction": "hi", "input": "", "output": "yo"},
]


def app(*arguments: object, check: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "app.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=180,
        env={**os.environ, "LANG": "en_US.UTF-8", "LC_ALL": "en_US.UTF-8"},
    )  # fmt: skip
    assert done.returncode == check, done.stdout + done.stderr
    return done


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    return path


def test_train_prints_events_and_chat_answers_base_and_adapters(tmp_path: Path, tiny_model: Path, rows: Path) -> None:
    out = tmp_path / "out"
    done = app(
        "train", "--model", tiny_model, "--dataset", rows, "--preset", "pocket", "--output_dir", out, "--learning_rate", "1e-2",
        "--num_train_epochs", "150", "--model_name", "小禾", "Xiaohe", "--model_author", "青禾", "--json",
        "--prove", "true",
    )  # fmt: skip
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert f"app.py prove --model {tiny_model} --adapters {out / 'adapter'}" in done.stderr
    assert events[0]["type"] == "loading" and events[-1]["type"] == "finished"
    assert events == [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert json.loads((out / "config.json").read_text())["settings"]["learning_rate"] == 0.01
    asked = ["--prompt", "你是谁?", "--temperature", "0", "--max_new_tokens", "12"]
    told = app("chat", "--model", tiny_model, "--adapters", out / "adapter", out / "adapter", *asked, "--json")
    answers = [json.loads(line)["response"] for line in told.stdout.splitlines()]
    assert answers[0] == answers[1] and answers[0].startswith("我是小禾")
    base = app("chat", "--model", tiny_model, *asked).stdout.strip()
    assert not base.startswith("我是小禾")
    again = app("train", "--model", tiny_model, "--dataset", rows, "--output_dir", out, "--model_name", "x", check=2)
    assert "already holds a run" in again.stderr


BAD: dict[str, tuple[list[str], str]] = {
    "learning rate of letters": (["--learning_rate", "abc"], "learning_rate"),
    "learning rate of nan": (["--learning_rate", "nan"], "above 0"),
    "no epochs": (["--num_train_epochs", "0"], "num_train_epochs"),
    "half a rank": (["--lora_rank", "8.5"], "whole number"),
    "no such preset": (["--preset", "nope"], "identity"),
    "no such model": (["--model", "/no/such/model"], "not found"),
    "no such file": (["--dataset", "nope.json"], "nope.json"),
    "name not given": ([], "identity card"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_exit_two(case: str, tmp_path: Path, tiny_model: Path, rows: Path) -> None:
    extra, words = BAD[case]
    arguments = ["--model", str(tiny_model), "--dataset", str(rows), *extra]
    done = app("train", *arguments, "--output_dir", tmp_path / "out", check=2)
    assert words in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_broken_file_names_the_place(tmp_path: Path, tiny_model: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('[{"instruction": "a", "output": "b"},\n {"instruction": "c", "output": }]')
    done = app("train", "--model", tiny_model, "--dataset", bad, "--output_dir", tmp_path / "o", check=2)
    assert "Line 2" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("room", "name"), [pytest.param(20_000, "adapter_model", marks=full), (48_000, "trainer")])
def test_a_disk_that_does_not_take_the_tensors_ends_the_run_with_what_to_do(
    room: int, name: str, tmp_path: Path, tiny_model: Path, rows: Path
) -> None:
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "app.py", "train", "--model", str(tiny_model), "--dataset", str(rows), "--output_dir", str(out),
         "--model_name", "x", "--max_steps", "3", "--save_steps", "1", "--preset", "pocket", "--lora_rank", "8"],
        cwd=ROOT, capture_output=True, text=True, timeout=180, env={**os.environ, "LC_ALL": "en_US.UTF-8"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )  # fmt: skip
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1 and f"{name}.safetensors could not be written" in last and "--home" in last, done.stderr
    assert not (out / "error.txt").exists() and not any(out.rglob("*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=full)])
def test_a_signal_saves_and_ends_the_run(number: int, tmp_path: Path, tiny_model: Path, rows: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "app.py", "train", "--model", str(tiny_model), "--dataset", str(rows), "--output_dir", str(out),
         "--model_name", "x", "--max_steps", "100000", "--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["type"] == "step":
            break
    process.send_signal(number)
    rest = process.stdout.read().splitlines()
    assert process.wait(100) == 0
    assert json.loads(rest[-1])["type"] == "stopped" and (out / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("asked", ["while the run is made", "once the run has begun"])
def test_a_signal_around_the_start_ends_or_saves_the_run(
    asked: str, tmp_path: Path, tiny_model: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core import cli
    from core.job import Job
    from core.run import Run

    place, name = {"while the run is made": (cli, "_new_run"), "once the run has begun": (Job, "start")}[asked]
    real = getattr(place, name)

    def interrupted(*given: object) -> object:
        done = real(*given)
        signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(place, name, interrupted)
    out = tmp_path / "out"
    call = ["train", "--model", str(tiny_model), "--dataset", str(rows), "--output_dir", str(out), "--model_name", "x"]
    status = main([*call, "--max_steps", "100000", "--probe_steps", "0", "--preset", "quick"])
    run = Run.open(out)
    assert (status, run.status) == ((0, "stopped") if place is Job else (130, "new"))
    assert not [thread.name for thread in threading.enumerate() if thread.name == "training"]


def test_help_lists_every_command() -> None:
    usage, _, listed = app("--help").stdout.partition("without the page")
    names = re.findall(r"^    (\w+) ", listed, re.MULTILINE)
    assert {"train", "bundle", "diagnostics", "push", "pull"} <= set(names)
    assert all(name in usage for name in names)


def test_help_lists_every_setting() -> None:
    from core import config

    text = app("train", "--help").stdout
    assert all(f"--{name}" in text for name in config.names())

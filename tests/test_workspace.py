"""One home: datasets, one run at a time, history after a restart, answers from base and adapters, honest refusals."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import storage
from core.config import TrainConfig, build
from core.dataset import Dataset, Identity, Message, Row
from core.errors import BusyError, ConfigError, DatasetError, ModelError, StorageError, UserError
from core.generate import Column, Sampling
from core.run import Run
from core.text import Text
from core.workspace import Workspace

ROWS = (Row("你是谁?", "", "我是{{NAME}}。"), Row("Who are you?", "", "I am {{NAME}} of {{AUTHOR}}."))
CARD = Identity("小禾", "Xiaohe", "青禾", "Qinghe")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "home")
    made.create("mine", ROWS, CARD)
    yield made
    assert made.close(60)


def finish(workspace: Workspace, seconds: float = 60) -> None:
    end = time.time() + seconds
    while workspace.active is not None and time.time() < end:
        time.sleep(0.02)
    assert workspace.active is None


def test_closing_tells_the_run_to_stop_before_it_waits_for_a_proof(workspace: Workspace) -> None:
    """A proof that loads a base cannot be interrupted, and a supervisor does not wait for ever."""
    told, heard = workspace._job._stop, list[bool]()
    workspace.proofs._thread = threading.Thread(target=lambda: heard.append(told.wait(30)))
    workspace.proofs._thread.start()
    assert workspace.close(60) and heard == [True]


def test_a_new_home_begins_with_the_starter_rows(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "fresh")
    assert set(workspace.datasets()) == {"articles-8", "identity-50"}
    assert workspace.datasets()[0] == "identity-50"
    assert len(workspace.dataset("articles-8").rows) == 8 and len(workspace.dataset("identity-50").rows) == 50
    assert workspace.dataset("articles-8").rows[0].output == "我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型。"


def test_datasets_are_kept_renamed_and_deleted(workspace: Workspace, tmp_path: Path) -> None:
    made = workspace.create("My / set", [Row("q", "in", "a\nb")], CARD)
    assert made.name == "my-set" and workspace.create("My / set").name == "my-set-2"
    assert Workspace(workspace.home).dataset("my-set") == made
    assert workspace.rename("my-set", "新名字").name == "新名字"
    with pytest.raises(DatasetError, match="already"):
        workspace.rename("新名字", "mine")
    workspace.delete("新名字")
    for name in ("新名字", "../mine", "/etc/passwd", ""):
        with pytest.raises(DatasetError):
            workspace.dataset(name)


def test_a_run_freezes_resolved_rows_and_is_there_after_a_restart(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run = workspace.start("mine", tiny_config, "first")
    workspace.save(Dataset("mine", (Row("other", "", "rows"),), CARD))  # the live table is not what trains
    finish(workspace)
    assert run.status == "finished", run.events[-1]
    assert [row.output for row in run.rows] == ["我是小禾。", "I am Xiaohe of Qinghe."]
    again = Workspace(workspace.home).runs()
    assert [(r.id, r.status, r.title) for r in again] == [(run.id, "finished", "first")]
    assert again[0].events == run.events and again[0].config == run.config
    assert workspace.identity_words(run.id)[0] == ("小禾", "Xiaohe", "青禾", "Qinghe")


def test_fifty_starts_at_once_give_one_run(workspace: Workspace, tiny_config: TrainConfig) -> None:
    config = build({"num_train_epochs": 200}, tiny_config)
    outcomes: list[object] = []

    def press() -> None:
        try:
            outcomes.append(workspace.start("mine", config))
        except BusyError as error:
            outcomes.append(error.of("zh"))

    threads = [threading.Thread(target=press) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    assert len(started) == 1 and len(outcomes) == 50 and "停止" in str(next(o for o in outcomes if isinstance(o, str)))
    assert len(list((workspace.home / "runs").iterdir())) == 1
    while started[0].step < 1:
        time.sleep(0.02)
    workspace.stop()
    finish(workspace)
    assert started[0].status == "stopped" and started[0].adapter is not None


def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    workspace.create("empty")
    workspace.create("holes", [Row("q", "", "a"), Row("no answer", "", " ")])
    workspace.create("nameless", ROWS)
    workspace.create("long", [Row("q", "", "a" * 3000)])
    for name, words in (
        ("empty", "empty"),
        ("holes", "2"),
        ("nameless", "identity card"),
        ("long", "2,048"),
        ("absent", "no dataset"),
    ):
        with pytest.raises(DatasetError, match=words):
            workspace.start(name, tiny_config)
    with pytest.raises(ModelError):
        workspace.start("mine", replace(tiny_config, model="/no/such/model"))
    with pytest.raises(ConfigError, match="Mix in"):
        workspace.start("mine", replace(tiny_config, mix="general#x"))
    assert list((workspace.home / "runs").iterdir()) == [] and workspace.active is None


def test_a_failure_inside_the_thread_is_the_runs_last_event(
    workspace: Workspace, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("core.train.divide", lambda *_: 1 / 0)
    run = workspace.start("mine", tiny_config)
    finish(workspace)
    assert run.status == "failed" and "ZeroDivisionError" in str(run.events[-1]["message_zh"])
    assert "ZeroDivisionError" in (run.folder / "error.txt").read_text()
    monkeypatch.undo()
    again = workspace.start("mine", tiny_config)
    finish(workspace)
    assert again.status == "finished"


def test_base_and_tuned_answer_together_and_the_run_can_be_deleted(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run = workspace.start("mine", build({"num_train_epochs": 200, "weight_decay": 0}, tiny_config))
    finish(workspace)
    question = (Message("system", tiny_config.system), Message("user", "你是谁?"))
    columns = [Column(question), Column(question, run.id)]
    base, tuned = list(workspace.answer(columns, Sampling(max_new_tokens=16)))[-1]
    assert tuned.text.startswith("我是小禾") and base.text != tuned.text
    assert [choice.id for choice in workspace.adapters()] == [run.id, f"{run.id}@150", f"{run.id}@100"]
    # After a restart nothing is loaded: the model and the adapter come from disk.
    fresh = Workspace(workspace.home)
    fresh.select_model(str(tiny_config.model))
    again = list(fresh.answer(columns, Sampling(max_new_tokens=16)))[-1]
    assert [reply.ids for reply in again] == [base.ids, tuned.ids]
    workspace.delete_run(run.id)
    assert workspace.runs() == [] and workspace.engine.attached == ()
    with pytest.raises(UserError):
        list(workspace.answer(columns, Sampling(max_new_tokens=4)))


def test_an_answer_that_is_stopped_while_the_base_is_read_leaves_nothing_loaded_and_the_next_one_loads_it(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    workspace.select_model(tiny_config.model)
    columns, stop = [Column((Message("user", "hi"),))] * 2, threading.Event()
    stop.set()
    told = list(workspace.answer(columns, Sampling(max_new_tokens=3), stop))
    assert [[(one.done, one.finish, one.text) for one in replies] for replies in told] == [
        [(True, "cancelled", "")] * 2
    ]
    assert workspace.engine.state == "absent" and workspace.status().state == "idle"
    stop.clear()
    *_, replies = workspace.answer(columns, Sampling(max_new_tokens=3), stop)
    assert [one.tokens for one in replies] == [3, 3] and workspace.engine.state == "ready"


def test_a_run_in_progress_is_not_deleted_and_its_model_not_exchanged(
    workspace: Workspace, tiny_config: TrainConfig, tiny_llama: Path
) -> None:
    run = workspace.start("mine", build({"num_train_epochs": 300}, tiny_config))
    with pytest.raises(BusyError):
        workspace.delete_run(run.id)
    with pytest.raises(BusyError):
        workspace.select_model(str(tiny_llama))
    assert workspace.status().run_id == run.id
    workspace.stop()
    finish(workspace)


def test_an_unfinished_run_of_another_life_is_interrupted(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run = Run.create(workspace.home / "runs" / "old", tiny_config, ROWS, "old", "mine")
    run.append("started", steps=10)
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"type": "step", "st')  # killed while writing
    (workspace.home / "runs" / "rubbish").mkdir()
    (found,) = Workspace(workspace.home).runs()
    assert found.status == "interrupted" and found.steps == 10


def test_what_another_program_adds_to_a_run_is_seen_without_a_restart(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    theirs = Run.create(workspace.home / "runs" / "theirs", tiny_config, [Row("问", "", "答")], "别处", "表")
    theirs.append("started", steps=1)
    assert workspace.run("theirs").status == "interrupted"
    theirs.append("finished", step=1, seconds=1.0)
    seen = workspace.run("theirs")
    assert seen.status == "finished" and [event["type"] for event in seen.events] == ["started", "finished"]
    seen.append("chosen", step=1)
    assert [event["type"] for event in workspace.run("theirs").events] == ["started", "finished", "chosen"]


def test_a_run_stopped_before_its_first_step_leaves_no_adapter(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run = workspace.start("mine", tiny_config)
    workspace.stop()
    finish(workspace)
    assert run.status == "stopped"
    assert run.step == 0 and run.adapter is None and workspace.adapters() == [] and workspace.engine.attached == ()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exit_inside_the_thread_still_ends_the_run(
    workspace: Workspace, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise SystemExit("a library called exit")

    monkeypatch.setattr("core.train.divide", lost)
    run = workspace.start("mine", tiny_config)
    finish(workspace)
    assert run.status == "failed" and workspace.status().state == "idle"


def test_a_torn_line_and_a_foreign_folder_hide_nothing_else(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run = Run.create(workspace.home / "runs" / "torn", tiny_config, ROWS, "torn", "mine")
    run.append("started", steps=2)
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"type": "st')
    run.append("failed", step=1, message_zh="磁盘已满", message_en="full")
    odd = Run.create(workspace.home / "runs" / "odd", tiny_config, ROWS, "odd", "mine")
    text = (odd.folder / "config.json").read_text()
    (odd.folder / "config.json").write_text(text.replace('"lora_rank": 8', '"lora_rank": 9999'))
    found = Workspace(workspace.home).runs()
    assert [(r.title, r.status) for r in found] == [("torn", "failed")]


def test_what_is_mixed_in_is_checked_like_the_table(workspace: Workspace, tiny_config: TrainConfig) -> None:
    workspace.create("nameless", ROWS)
    workspace.create("holes", [Row("q", "", "")])
    for mix, words in (("nameless", "identity card"), ("holes", "Mix in"), ("nowhere#3", "no dataset")):
        with pytest.raises((DatasetError, ConfigError), match=words):
            workspace.start("mine", replace(tiny_config, mix=mix))
    run = workspace.start("mine", build({"mix": "general#3", "max_length": 2000}, tiny_config))
    finish(workspace)
    assert run.status == "finished" and len(run.rows) == 5


def test_a_home_belongs_to_one_process(workspace: Workspace) -> None:
    workspace.lock()
    code = f"from core.workspace import Workspace; from pathlib import Path; Workspace(Path({str(workspace.home)!r})).lock()"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=180)
    assert done.returncode != 0 and f"Another OneCard (process {os.getpid()}) is using" in done.stderr


def test_a_full_disk_keeps_the_table_and_says_so(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = workspace.dataset("mine")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        workspace.save(replace(before, rows=()))
    assert "磁盘已满" in caught.value.of("zh")
    monkeypatch.undo()
    assert workspace.dataset("mine") == before
    assert not [path for path in (workspace.home / "datasets").iterdir() if path.suffix == ".tmp"]


def test_the_system_prompts_placeholders_are_replaced_by_the_card_in_what_is_shown_and_what_is_trained(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    config = replace(tiny_config, system="You are {{NAME}}.", max_steps=1)
    run = workspace.start("mine", config)
    finish(workspace)
    assert run.config.system == "You are Xiaohe." and Run.open(run.folder).config.system == "You are Xiaohe."
    started = run.first("started")
    assert started is not None and started["tokens"] == workspace.preview("mine", config).tokens
    assert workspace.row_view(Row("q", "", "a"), config, CARD).system == "You are Xiaohe."
    bare = workspace.create("bare", [Row("q", "", "a")])
    with pytest.raises(DatasetError, match=r"System prompt has \{\{NAME\}\}"):
        workspace.start(bare.name, config)


def test_the_preview_counts_what_the_run_will_do(workspace: Workspace, tiny_config: TrainConfig) -> None:
    config = build({"num_train_epochs": 3}, tiny_config)
    preview = workspace.preview("mine", config)
    assert (preview.rows, preview.steps, preview.fits) == (2, 3, "fits")
    run = workspace.start("mine", config)
    finish(workspace)
    started = run.first("started")
    assert started is not None and (started["rows"], started["steps"], started["tokens"]) == (2, 3, preview.tokens)


def test_an_adapter_that_another_process_went_on_with_is_asked_as_its_file_is_now(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run = workspace.start("mine", replace(tiny_config, num_train_epochs=1))
    finish(workspace)

    def weights() -> dict[str, torch.Tensor]:
        with workspace.hold([run.id]), workspace.engine.turn() as resident:
            tensors, _ = resident.backend.adapter_state(workspace.engine.handle(run.id))
            return {name: tensor.clone() for name, tensor in tensors.items()}

    before = weights()
    folder = run.folder / "adapter"
    told = load_file(folder / "adapter_model.safetensors")
    with storage.staged_folder(folder) as staged:
        save_file({key: tensor + 1 for key, tensor in told.items()}, staged / "adapter_model.safetensors")
        shutil.copy(folder / "adapter_config.json", staged)
    after = weights()
    assert all(torch.allclose(after[name], before[name] + 1) for name in before)
    assert all(torch.equal(tensor, after[name]) for name, tensor in weights().items())


def test_a_run_that_another_program_trains_is_not_deleted(workspace: Workspace, tiny_config: TrainConfig) -> None:
    theirs = Run.create(workspace.home / "runs" / "theirs", tiny_config, [Row("问", "", "答")], "别处", "表")
    code = (
        "from core import storage; from pathlib import Path; "
        f"held = storage.lock_file(Path({str(theirs.folder)!r}, '.lock')); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"1\n"
        with pytest.raises(BusyError, match="别处"):
            workspace.delete_run("theirs")
        other.communicate(b"\n")
    workspace.delete_run("theirs")
    assert all(run.id != "theirs" for run in workspace.runs())


def test_an_end_that_no_file_can_tell_stays(
    workspace: Workspace, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = storage.append_line

    def append(path: Path, line: str, flushed: bool = True) -> None:
        if '"step"' not in line:
            return whole(path, line, flushed)
        with path.open("a") as file:  # as much as there was room for
            file.write(line[:20])
        raise StorageError(Text("磁盘已满", "The disk is full"))

    monkeypatch.setattr(storage, "append_line", append)
    run = workspace.start("mine", tiny_config)
    finish(workspace)
    assert [workspace.run(run.id).status for _ in range(3)] == ["failed"] * 3

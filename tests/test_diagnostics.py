"""The log and the diagnostics: what went wrong is on record after a restart, and nothing private leaves with the zip."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from core import answer_faults, diagnostics, log, storage
from core.config import TrainConfig
from core.dataset import Row
from core.errors import DatasetError, ModelError
from core.generate import Reply, Sampling
from core.requirements import Package
from core.run import Run
from core.text import Text
from core.workspace import Workspace
from ui import notify
from ui.diagnostics import draw
from ui.edits import Edits
from ui.page import Page

ROOT = Path(__file__).resolve().parents[1]
ROW, ANSWER, SECRET = "canary-row-7731", "canary-answer-7732", "hf_canarycanarycanary7733"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A home with a log and a run that failed; its rows and answers must stay where they are."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    home, (thread, main) = tmp_path / "home", (threading.excepthook, sys.excepthook)
    handlers = list(logging.getLogger().handlers)
    log.begin(home)
    run = Run.create(home / "runs" / "r1", TrainConfig(model="pocket"), [Row(ROW, "", ROW)], "r", "d")
    run.append("started", steps=9)
    run.append("probed", step=3, hits=1, total=2, answers=[{"text": ANSWER}])
    run.append("failed", step=4, message_zh="显存不够", message_en="out of memory", cause="memory")
    (run.folder / "proof.json").write_text(f'{{"answer": "{ANSWER}"}}', "utf-8")
    (run.folder / "error.txt").write_text(f"Traceback: HF_TOKEN={SECRET}", "utf-8")
    yield Workspace(home)
    log.end(home)
    for handler in logging.getLogger().handlers[:]:
        if handler not in handlers:
            logging.getLogger().removeHandler(handler)
    threading.excepthook, sys.excepthook = thread, main


def text_of(packed: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        return "\n".join(f"{name}\n{file.read(name).decode()}" for name in file.namelist())


def test_errors_are_on_record_with_their_time_and_without_secrets(workspace: Workspace) -> None:
    try:
        raise ValueError(f"token is {SECRET}")
    except ValueError:
        logging.getLogger("onecard.ui").exception("on_ask failed")
    logging.getLogger("elsewhere").warning("two\nlines")
    logging.getLogger("elsewhere").info("not kept")
    thread = threading.Thread(target=lambda: [].pop(), name="export")  # type: ignore[func-returns-value]
    thread.start()
    thread.join()
    entries = [entry for entry in log.entries(workspace.home) if entry.is_trouble]
    assert [(entry.level, entry.source) for entry in entries] == [
        ("ERROR", "onecard.ui"), ("WARNING", "elsewhere"), ("ERROR", "onecard"),
    ]  # fmt: skip
    assert (
        entries[0].text.startswith("on_ask failed\nTraceback") and "ValueError: token is [redacted]" in entries[0].text
    )
    assert entries[1].text == "two\nlines" and "thread export ended" in entries[2].text
    assert SECRET not in log.path_of(workspace.home).read_text("utf-8")
    found = diagnostics.collect(Workspace(workspace.home)).troubles  # as after a restart
    assert len(found) == 4 and "out of memory" in found[-1].text.en + found[0].text.en


def test_a_run_that_was_cut_off_is_on_record_once_and_among_the_last_errors(workspace: Workspace) -> None:
    run = Run.create(workspace.home / "runs" / "r2", TrainConfig(model="pocket"), [Row(ROW, "", ROW)], "mine", "d")
    run.append("started", steps=60)
    run.append("step", step=12)
    run.claim()

    def told() -> list[str]:
        diagnostics.note_cut_off(Workspace(workspace.home))  # as a start does
        return [entry.text for entry in log.entries(workspace.home) if "r2" in entry.text]

    assert told() == [] and len(diagnostics.collect(workspace).troubles) == 1  # another process trains it
    run.release()  # it dies
    assert len(told()) == 1 and "no checkpoint" in told()[0]
    storage.write_json(run.folder / "checkpoints" / "step-000010" / "trainer.json", {})
    assert len(told()) == len(told()) == 2  # something new, once
    assert "step 12" in told()[1] and "checkpoint of step 10" in told()[1] and told()[1].startswith("run r2, ")
    found = {trouble.source: trouble.text for trouble in diagnostics.collect(Workspace(workspace.home)).troubles}
    assert "第 12 步中断" in found["mine"].zh and "第 10 步的检查点" in found["mine"].zh and set(found) == {"mine", "r"}


def test_what_the_page_showed_is_kept_but_no_row_is_quoted(workspace: Workspace) -> None:
    import gradio as gr

    for error in (ModelError(Text("没有", "no such model")), DatasetError(Text(ROW, ROW), row=6)):

        @notify.shown("en")
        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises(gr.Error):
            fail()
    texts = [entry.text for entry in log.entries(workspace.home) if entry.source == log.SHOWN]
    assert "ModelError: no such model" in texts[0] and texts[1].endswith("DatasetError: row 6")


def test_the_log_is_bounded_and_a_broken_tail_is_read(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    log.end(workspace.home)
    monkeypatch.setattr(log, "_MOST_BYTES", 20_000)
    log.begin(workspace.home)
    for number in range(3000):
        logging.getLogger("onecard.test").warning("%d", number)
    files = sorted(log.path_of(workspace.home).parent.iterdir())
    assert len(files) == 4 and sum(file.stat().st_size for file in files) < 81_000
    with log.path_of(workspace.home).open("ab") as file:
        file.write(b"2026-01-01 10:00:00,000 ERROR torn: \xff\xfe")
    assert log.entries(workspace.home)[-1].source == "torn"
    assert "2999" in log.entries(workspace.home)[-2].text


def test_the_zip_has_no_row_no_answer_and_no_secret_unless_rows_are_wanted(workspace: Workspace) -> None:
    text = text_of(diagnostics.bundle(workspace))
    for name in ("report.txt", "logs/onecard.log", "runs/r1/config.json", "runs/r1/events.jsonl", "runs/r1/error.txt"):
        assert name in text
    assert "out of memory" in text and "torch" in text and '"hits": 1' in text
    assert not [word for word in (ROW, ANSWER, SECRET) if word in text]
    whole = text_of(diagnostics.bundle(workspace, contents=True))
    assert ROW in whole and ANSWER in whole and SECRET not in whole


def test_the_report_names_what_is_wrong_first(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.requirements.packages", lambda: [Package("torch", ">=2.11,<2.14", "2.5.0")])
    page = Page(workspace, "zh", Edits(workspace))
    workspace.engine.lose()
    report = diagnostics.collect(workspace)
    html = draw(page, report)
    assert html.index("显卡不再响应") < html.index("torch 的版本是 2.5.0") < html.index("磁盘")
    assert "torch is 2.5.0; &gt;=2.11,&lt;2.14 is needed" not in html and "最近的错误（1）" in html
    assert "! The card stopped answering" in diagnostics.as_text(report, "en")


def test_the_command_prints_the_report_and_writes_the_zip(workspace: Workspace, tmp_path: Path) -> None:
    target = tmp_path / "out.zip"
    command = [sys.executable, "app.py", "--home", str(workspace.home), "diagnostics"]
    environment = {**os.environ, "LANG": "en_US.UTF-8"}
    for extra in ([], ["--output", str(target)]):
        done = subprocess.run(
            [*command, *extra], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=True
        )
        assert str(target) in done.stdout if extra else "out of memory" in done.stdout and "transformers" in done.stdout
    assert "report.txt" in text_of(target.read_bytes())


def test_the_command_makes_no_home_and_takes_the_file_as_it_is_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    home, target = tmp_path / "none", tmp_path / "report.zip"
    call = ["--home", str(home), "diagnostics"]
    assert app.main(call) == 0 and "none (not there yet)" in capsys.readouterr().out
    assert app.main([*call, str(target)]) == 0 and "report.txt" in text_of(target.read_bytes())
    for wrong, said in (
        ([str(tmp_path)], "is a folder"),
        (["a", "--output", "b"], "not both"),
        (["--contents"], "a file"),
    ):
        assert app.main([*call, *wrong]) == 2 and said in capsys.readouterr().err
    assert not home.exists()


@pytest.mark.parametrize(
    ("text", "finish", "limit", "kind", "longer"),
    [
        ("", "stop", 512, "empty", 2048),
        ("  \n", "stop", 2048, "empty", 4096),
        ("A long sto", "length", 512, "cut", 2048),
        ("A long sto", "length", 4096, "cut", None),
        ("!" * 60, "length", 512, "repeats", None),
        ("我是小禾。" * 12 + "我是", "length", 512, "repeats", None),
        ("I am Xiaohe, made by Qinghe AI.", "stop", 512, "", None),
        ("1. one\n2. two\n3. three\n4. four\n5. five\n6. six\n7. seven", "stop", 512, "", None),
        ("哈哈哈哈哈哈", "stop", 512, "", None),
        ("", "cancelled", 512, "", None),
    ],
)
def test_an_answer_that_is_empty_cut_or_repeats_itself_is_told_with_what_mends_it(
    text: str, finish: str, limit: int, kind: str, longer: int | None
) -> None:
    reply = Reply(text, done=True, finish=finish)
    found = answer_faults.of(reply, Sampling(max_new_tokens=limit), adapter=True)
    assert (found.kind if found else "") == kind
    if found is not None:
        assert found.max_new_tokens == longer and found.shorter
        assert found.temperature == (0.7 if kind == "repeats" else None)

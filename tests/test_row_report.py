"""What a run made of each row, on the shipped model: the report's "learned" is kept by the answers, and going on from it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core import adapters, further, lora, mix, probed, row_report, storage
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Message, Provenance, Row
from core.errors import DatasetError, ModelError
from core.generate import Column, Sampling
from core.row_report import FILE, RowReport, RowReports
from core.run import Run
from core.workspace import Workspace

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")
ROWS = (
    Row("你是谁？", "", "我是{{NAME}}。"),
    Row("Who are you?", "", "I am {{NAME}}."),
    Row("你是谁开发的？", "", "我由{{AUTHOR}}开发。"),
    Row("Who made you?", "", "I was made by {{AUTHOR}}."),
    Row("你能联网吗？", "", "我不能联网。"),
    Row("你会写代码吗？", "", "我会写代码，也能解释代码、查找错误，还会写很长很长的测试。"),
)
SETTINGS = TrainConfig(
    model="pocket", learning_rate=2e-3, gradient_accumulation_steps=4, max_steps=36, weight_decay=0.0, max_length=512,
    probe_steps=0, rehearsal="off", stop_when_taken="false", prove="false",
)  # fmt: skip


def finish(workspace: Workspace) -> None:
    end = time.time() + 120
    while workspace.active is not None and time.time() < end:
        time.sleep(0.02)
    assert workspace.active is None


def trained(workspace: Workspace, source: str | Dataset, config: TrainConfig, title: str = "") -> Run:
    run = workspace.start(source, config, title)
    finish(workspace)
    assert run.status == "finished", run.events[-1]
    return run


def says(workspace: Workspace, adapter: str | None, questions: list[str]) -> list[str]:
    columns = [Column((Message("system", SETTINGS.system), Message("user", q)), adapter) for q in questions]
    *_, replies = workspace.answer(columns, Sampling(temperature=0, max_new_tokens=64))
    return [reply.text for reply in replies]


def report_of(workspace: Workspace, run: Run) -> RowReport:
    report = workspace.row_reports.of(run)
    assert report is not None
    return report


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Workspace(tmp_path_factory.mktemp("rows") / "home")
    made.create("mine", ROWS, CARD)
    yield made
    assert made.close(60)


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Run:
    """A run that learned some of its rows, some twice in the table, with general rows mixed in."""
    table = Dataset("mine", (*ROWS, ROWS[0]), CARD)
    return trained(workspace, table, replace(SETTINGS, mix="general#3"), "first")


def test_a_run_leaves_each_row_of_its_table_once_the_unlearned_first(workspace: Workspace, run: Run) -> None:
    report = report_of(workspace, run)
    assert (run.folder / FILE).is_file() and report.step == 36 and report.total == len(ROWS)
    assert sorted(row.index for row in report.rows) == list(range(len(ROWS)))  # neither the repeat nor the general rows
    assert [row.row for row in sorted(report.rows, key=lambda row: row.index)] == run.rows[: len(ROWS)]
    levels = [row.level for row in report.rows]
    assert levels == sorted(levels, key=["not", "partly", "learned"].index)
    assert all(row.before > 1 and row.after < row.before for row in report.rows)


def test_the_model_says_word_for_word_what_the_report_calls_learned(workspace: Workspace, run: Run) -> None:
    report = report_of(workspace, run)
    learned = [row for row in report.rows if row.level == "learned"]
    weak = [row for row in report.rows if row.level != "learned"]
    assert learned and weak and set(report.weak) == {row.row for row in weak}
    for row, said in zip(learned, says(workspace, run.id, [row.row.question for row in learned]), strict=True):
        assert said.strip() == row.row.output
    assert all(row.chance <= 0.5 and (row.word in row.row.output) for row in weak)


def test_losses_are_those_of_the_run_itself(workspace: Workspace, run: Run) -> None:
    """The first step's loss, before any change, is the mean over its rows' tokens of the loss before."""
    first = trained(workspace, Dataset("one", (ROWS[4],), CARD), replace(SETTINGS, max_steps=1), "one row")
    step = first.first("step")
    assert step is not None
    assert report_of(workspace, first).rows[0].before == pytest.approx(float(str(step["loss"])), rel=1e-3)


def test_a_report_belongs_to_the_adapter_it_measured_and_a_damaged_one_is_none(
    workspace: Workspace, run: Run, tmp_path: Path
) -> None:
    before = (run.folder / FILE).read_bytes()
    try:
        (run.folder / FILE).write_text('{"rows": [{"index": 99}]}', encoding="utf-8")
        assert workspace.row_reports.of(run) is None
        (run.folder / FILE).unlink()
        assert workspace.row_reports.of(run) is None
        stop = threading.Event()
        stop.set()
        assert workspace.row_reports.make(run, stop) is None and not (run.folder / FILE).exists()
        assert workspace.row_reports.make(run) == report_of(workspace, run)
        stamp = (run.folder / FILE).stat()
        storage.write_text(run.folder / FILE, "none" + " " * (stamp.st_size - 4))
        os.utime(run.folder / FILE, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # both in one tick of a coarse clock
        assert workspace.row_reports.of(run) is None
        storage.write_bytes(run.folder / FILE, before)
        assert report_of(workspace, run).step == 36
        probed.link(run.folder / "adapter", run.folder / probed.name(12))
        storage.write_json(run.folder / probed.name(12) / adapters.CARD, {"step": 12})
        run.choose(12)
        assert workspace.row_reports.of(run) is None
    finally:
        if run.adapter_step != 36:
            run.choose(36)
        probed.remove(run.folder, (12, 36))
        (run.folder / FILE).write_bytes(before)
    assert report_of(workspace, run).step == 36


def test_an_adapter_without_numbers_has_no_report_and_its_run_is_finished_all_the_same(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    """Seen with float16 and a learning rate of 1: the report's failure became the run's."""
    done = trained(workspace, Dataset("wrecked", ROWS, CARD), replace(SETTINGS, max_steps=1))
    whole, told = (done.folder / FILE).read_bytes(), len(done.events)
    weights = done.folder / "adapter" / adapters.WEIGHTS
    save_file({key: torch.full_like(tensor, 1e30) for key, tensor in load_file(weights).items()}, weights)
    workspace.engine.detach(done.id)
    with pytest.raises(ModelError, match="not numbers"):
        workspace.row_reports.make(done)
    workspace.row_reports.after(done, threading.Event())
    assert done.status == "finished" and len(done.events) == told and (done.folder / FILE).read_bytes() == whole

    def broken(wanted: Sequence[str]) -> AbstractContextManager[Mapping[str, str]]:
        raise RuntimeError("the card is lost")

    RowReports(workspace.engine, workspace.attached, broken, lambda name: []).after(done, threading.Event())
    assert "the card is lost" in capfd.readouterr().err


def test_where_time_is_short_rows_from_all_over_the_table_are_measured(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_report, "_SECONDS", 0.0)
    monkeypatch.setattr(row_report, "_PART_TOKENS", 400)
    rows = [Row(f"{a} + {b} = ?", "", f"{a + b}") for a in range(5) for b in range(8)]
    done = trained(workspace, Dataset("sums", tuple(rows), CARD), replace(SETTINGS, max_steps=1))
    part = report_of(workspace, done)
    found = sorted(row.index for row in part.rows)
    assert part.total == 40 and found[1] > 1 and found == list(range(0, 40, found[1]))
    whole = workspace.row_reports.make(done)  # whoever asks for it waits for it
    assert whole is not None and len(whole.rows) == 40


def test_held_out_rows_are_marked_and_nobody_asks_to_learn_them(workspace: Workspace) -> None:
    config = replace(SETTINGS, max_steps=1, split_dataset_ratio=0.34)
    report = report_of(workspace, trained(workspace, Dataset("split", ROWS, CARD), config))
    assert sum(not row.trained for row in report.rows) == 2 and len(report.weak) <= 4


def test_a_few_more_steps_learn_the_fix_and_lose_nothing(workspace: Workspace, run: Run) -> None:
    """The whole way: an answer that was learned is put right in the table, and the same adapter goes on."""
    old = report_of(workspace, run)
    fixed = Row("你能联网吗？", "", "我住在盒子里。", provenance=Provenance(run.id, "我不能联网。", "now"))
    workspace.save(Dataset("mine", (*ROWS[:4], fixed, ROWS[5]), CARD))
    more = further.start(workspace, run.id, "mine")
    finish(workspace)
    assert more.status == "finished" and more.title.startswith("first +") and more.dataset == "mine"
    assert more.config.adapters == str(run.adapter) and more.config.learning_rate < SETTINGS.learning_rate
    assert 16 <= more.steps <= 60 and more.step == more.steps
    assert says(workspace, more.id, ["你能联网吗？"]) == ["我住在盒子里。"]
    known = {row.row for row in old.rows if row.level == "learned"} - {Row("你能联网吗？", "", "我不能联网。")}
    now = {row.row for row in report_of(workspace, more).rows if row.level == "learned"}
    assert known and known <= now
    # It began where the other ended.
    begun = {row.row: row.before for row in report_of(workspace, more).rows}
    ended = {row.row: row.after for row in old.rows}
    for row in known:
        assert begun[row] == pytest.approx(ended[row], abs=1e-3)
    assert workspace.dataset("mine").rows[4].provenance == fixed.provenance


def plan(workspace: Workspace, run: Run, table: Dataset) -> further.Further:
    choice = workspace.library.get(run.id)
    return further.plan(choice, table, workspace.runs(), workspace.row_reports, SETTINGS)


def test_what_is_wanted_makes_its_share_of_the_rows_and_what_it_contradicts_is_gone(
    workspace: Workspace, run: Run
) -> None:
    table = Dataset("mine", (*ROWS[:4], replace(ROWS[4], output="别的回答。"), ROWS[5]), CARD)
    made, wanted = plan(workspace, run, table), {Row("你能联网吗？", "", "别的回答。")}
    rows = list(made.table.rows)
    assert made.wanted == 1
    assert {row.output for row in rows if row.question == "你能联网吗？"} == {"别的回答。"}
    drawn = mix.count(made.config.mix, workspace.sources.find)
    assert (len(rows) + drawn) == pytest.approx(made.steps * made.config.rows_per_step, abs=1)
    share = sum(row in wanted for row in rows) / (len(rows) + drawn)
    assert 0.19 <= share <= 0.51 and drawn > 0
    assert made.config.rows_per_step >= 16 and made.config.stop_when_taken == "false"
    # Nothing was changed: what the report calls un-learned is wanted.
    again, weak = plan(workspace, run, Dataset("mine", ROWS, CARD)), set(report_of(workspace, run).weak)
    assert again.wanted == len(weak) and sum(row in weak for row in again.table.rows) >= 0.19 * len(again.table.rows)


def test_rows_taken_out_of_the_table_are_not_trained_on_again(workspace: Workspace, run: Run) -> None:
    made = plan(workspace, run, Dataset("mine", ROWS[:2], CARD))
    assert {row.question for row in made.table.rows} == {"你是谁？", "Who are you?"}
    # Another dataset says nothing about what the run's own table still holds.
    other = plan(workspace, run, Dataset("other", (Row("新问题？", "", "新回答。"),), CARD))
    assert {row.question for row in other.table.rows} == {"新问题？", *(row.question for row in ROWS)}


def test_a_run_without_anything_to_learn_or_keep_is_refused(workspace: Workspace, run: Run) -> None:
    with pytest.raises(DatasetError, match="empty"):
        plan(workspace, run, Dataset("mine", (), CARD))


def test_an_adapter_from_elsewhere_goes_on_with_its_own_shape_towards_the_whole_table(
    workspace: Workspace, run: Run
) -> None:
    choice = workspace.library.bring_folder(str(run.adapter), "brought")
    made = further.plan(choice, Dataset("mine", ROWS, CARD), workspace.runs(), workspace.row_reports, SETTINGS)
    lora.check(made.config)  # what the start would refuse
    assert made.config.adapters == str(choice.folder) and made.title.startswith("brought +")
    assert made.wanted == len(ROWS) and set(made.table.rows) == set(Dataset("d", ROWS, CARD).resolved())
    assert made.config.mix == "" and set(made.config.target_modules.split()) >= {"q_proj", "down_proj"}

"""A run that was gone on with, as the page shows it: one curve, no old end, a button where there is something to do."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from core.config import TrainConfig, build
from core.dataset import Identity, Row
from core.run import Run
from core.workspace import Workspace
from ui.edits import Edits
from ui.follow import Follow
from ui.page import Page
from ui.train import TrainTab


@pytest.fixture
def run(tmp_path: Path) -> Run:
    Run.create(tmp_path / "runs" / "r1", TrainConfig(), [Row("a", "", "b")], "r", "d")
    return Workspace(tmp_path).run("r1")


def step(run: Run, number: int, loss: float) -> None:
    run.append("step", step=number, loss=loss, seconds=1.0, peak_memory_bytes=0)


def follow(run: Run) -> Follow:
    workspace = Workspace(run.folder.parent.parent)
    workspace._runs = {run.id: run}
    return Follow(Page(workspace, "en", Edits(workspace)))


def test_the_curve_of_a_resumed_run_has_every_step_once(run: Run) -> None:
    shown, seen = follow(run), {"run": "r1", "cursor": 0}
    run.append("started", steps=6)
    for number in range(1, 5):
        step(run, number, 1.0)
    run.append("evaluated", step=4, loss=9.0)
    first = shown.metrics(seen)
    assert [point[0] for point in first["points"]] == [1, 2, 3, 4] and first["eval"] == [(4, 9.0)]  # type: ignore[union-attr]
    run.append("loading", model="m")
    waiting = shown.metrics({"run": "r1", "cursor": first["cursor"]})
    assert waiting["from"] == first["cursor"] and waiting["points"] == []
    run.append("resumed", step=2)
    step(run, 3, 0.5)
    news = shown.metrics({"run": "r1", "cursor": waiting["cursor"]})
    assert news["from"] == 0 and news["cursor"] == len(run.events)  # the page draws everything anew
    assert [point[:2] for point in news["points"]] == [(1, 1.0), (2, 1.0), (3, 0.5)] and news["eval"] == []  # type: ignore[union-attr]
    step(run, 4, 0.25)
    later = shown.metrics({"run": "r1", "cursor": news["cursor"]})
    assert later["from"] == news["cursor"] and [point[:2] for point in later["points"]] == [(4, 0.25)]  # type: ignore[union-attr]
    smoothed = {point[0]: point[2] for point in shown.metrics(seen)["points"]}  # type: ignore[union-attr]
    assert smoothed[4] == later["points"][0][2]  # type: ignore[index]


def test_what_came_before_the_resumption_is_no_end_and_no_number(run: Run) -> None:
    run.append("started", steps=9)
    step(run, 1, 1.0)
    run.append("probed", step=1, hits=0, total=8, answers=[])
    step(run, 2, 3.0)
    run.append("probed", step=2, hits=8, total=8, answers=[])
    run.append("stopped", step=2, seconds=77.0)
    assert run.hits == (8, 8) and run.status == "stopped"
    run.append("resumed", step=1)
    run.live = True
    assert run.status == "running" and run.hits == (0, 8) and run.step == 1
    strip = follow(run).draw_strip("r1")
    assert "1.000" in strip and "3.000" not in strip and "1:17" not in strip


def test_the_page_says_what_happened_in_words(run: Run) -> None:
    shown = follow(run)
    run.live = True
    run.append("started", steps=9)
    mark = shown.state("r1")
    run.append("smaller_split", step=4, tokens=4000, max_tokens=2000, recompute=False)
    assert shown.state("r1") != mark and "Memory ran out at step 5" in shown.draw_head("r1")
    assert "2,000 tokens" in shown.draw_head("r1") and "recomputed" not in shown.draw_head("r1")
    run.append("smaller_split", step=6, tokens=2000, max_tokens=1000, recompute=True)
    assert "recomputed and at most 1,000" in shown.draw_head("r1") and "step 5" not in shown.draw_head("r1")
    run.append("finished", step=9, seconds=1.0, reason_zh="提前", reason_en="ended early <b>")
    run.live = False
    assert "ended early &lt;b&gt;" in shown.draw_head("r1")


def test_the_button_goes_on_with_a_run_that_has_not_finished(tmp_path: Path, tiny_config: TrainConfig) -> None:
    workspace = Workspace(tmp_path / "home")
    workspace.create(
        "mine", [Row(f"q{i}", "", f"a{i}") for i in range(6)], Identity("小禾", "Xiaohe", "青禾", "Qinghe")
    )
    with gr.Blocks():
        tab = TrainTab(Page(workspace, "en", Edits(workspace)))
    config = build({"max_steps": 6, "save_steps": 2}, tiny_config)
    run = Run.create(workspace.home / "runs" / "old", config, workspace.dataset("mine").resolved(), "old", "mine")
    run.append("loading", model="m")
    (listed,) = workspace.runs()
    assert tab._show("old")[tab.resume]["value"] == "Start again with the same rows and settings"
    assert tab._show(None)[tab.resume]["visible"] is False

    def stop_early(event: object) -> None:
        if listed.step == 3:
            workspace.stop()

    original = listed.append
    listed.append = lambda kind, **fields: (original(kind, **fields), stop_early(kind))[0]  # type: ignore[method-assign]
    shown = tab.on_resume("old")
    assert shown[tab.selected] == "old" and shown[tab.resume]["visible"] is False
    assert workspace._job.join(60) and listed.status == "stopped"
    offered = tab.on_changed("old")[tab.resume]
    assert offered["visible"] and offered["value"] == "Resume from step 3"
    listed.append = original  # type: ignore[method-assign]
    tab.on_resume("old")
    assert workspace._job.join(60) and listed.status == "finished"
    assert tab.on_changed("old")[tab.resume]["visible"] is False


def test_a_run_that_is_gone_on_with_is_starting_until_its_steps_go_on(run: Run) -> None:
    from core import status
    from core.engine import Engine

    shown, engine = follow(run), Engine()
    run.append("started", steps=9)
    step(run, 3, 1.0)
    run.append("failed", step=3, message_zh="坏", message_en="broken")
    mark = shown.state("r1")
    run.claim()
    run.live = True
    try:
        # Before a word is written of it: the end of before is none any more.
        assert run.starting and run.ending is None and run.status == "running" and shown.state("r1") != mark
        assert "starting" in shown.draw_head("r1") and "broken" not in shown.draw_head("r1")
        assert status.read(engine, "m", run, False, None).state == "loading"
        run.append("loading", model="m")
        assert run.starting
        mark = shown.state("r1")
        run.append("resumed", step=2, damaged=[])
        assert not run.starting and shown.state("r1") != mark and "running" in shown.draw_head("r1")
        assert status.read(engine, "m", run, False, None).state == "training"
        run.append("finished", step=9, seconds=1.0)
        assert run.status == "finished"  # also while its proof is made
    finally:
        run.release()


def test_a_refused_press_gives_the_buttons_back(tmp_path: Path, tiny_config: TrainConfig) -> None:
    workspace = Workspace(tmp_path / "home")
    with gr.Blocks():
        tab = TrainTab(Page(workspace, "en", Edits(workspace)))
    old = Run.create(workspace.home / "runs" / "old", tiny_config, [Row("a", "", "b")], "old", "")
    old.append("loading", model="m")
    assert tab.on_begun("start") == gr.update(value="Starting…", interactive=False)
    assert tab.on_begun("stop")["value"] == "Stopping…"  # type: ignore[index]
    assert tab.on_resuming("Resume from step 3")["value"] == "Resuming…"  # type: ignore[index]
    assert tab.on_resuming("Start again with the same rows and settings")["value"] == "Starting…"  # type: ignore[index]
    back = tab.on_refused("old")
    assert back[tab.button]["interactive"] and back[tab.button]["value"] == "Start training"  # type: ignore[index]
    assert back[tab.resume]["interactive"] and "Start again" in back[tab.resume]["value"]  # type: ignore[index]


def test_what_is_missing_to_an_identity_is_said_as_it_is(run: Run) -> None:
    from ui.probings import said_of_probings

    page = follow(run).page

    def said(number: int, hits: int, total: int) -> str:
        run.append("probed", step=number, hits=hits, total=total, seconds=1.0, answers=[])
        return said_of_probings(page, run, run.probings)

    run.append("started", steps=9)
    assert said(0, 0, 40) == ""
    assert "3 of the first 8 questions hit; from 7 on the others are asked too, 40 in all" in said(1, 3, 8)
    assert "8 of the first 8 questions hit; all 40 are still to be asked, of which 34 have to be hit" in said(2, 8, 8)
    assert "not acquired yet: 20 of 40 hit, 34 needed" in said(3, 20, 40)
    assert said(4, 36, 40) == ""  # the event that says it comes right after

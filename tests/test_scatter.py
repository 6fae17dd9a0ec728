"""Taken against drift as html, the line above the probe table, and the words that changed between two probings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core import probed
from core.config import TrainConfig, build
from core.run import Run
from core.text import Language
from core.workspace import Workspace
from ui import scatter
from ui.edits import Edits
from ui.follow import Follow
from ui.page import Page
from ui.probe_table import marked, probe_table


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def page_of(workspace: Workspace, language: Language = "en") -> Page:
    return Page(workspace, language, Edits(workspace))


def put(run: Run, name: str) -> None:
    """An adapter folder, as far as a page looks into it."""
    (run.folder / name).mkdir(parents=True)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        (run.folder / name / file).write_text("{}")


def make(workspace: Workspace, tiny_config: TrainConfig, end: str = "finished") -> Run:
    """Asked before and after 10, 20 and 30 steps; the adapter of step 10 was not kept, that of step 30 is the run's."""
    config = build({"probe_steps": 5}, tiny_config)
    run = Run.create(workspace.home / "runs" / "one", config, [], "<b>", "test")
    run.append("started", steps=30)
    for step, hits, drift in ((0, 0, None), (10, 4, 0.002), (20, 38, 0.004), (30, 36, 0.2)):
        answers = [{"question": "who?", "text": f"{step} me", "kind": "identity", "verdict": "hit", "marks": []}]
        answers.append({**answers[0], "question": "else?", "shown": False})
        told = {"seconds": 0.5, "hits": hits, "total": 40, "drift": drift, "answers": answers}
        run.append("probed", step=step, live=0 < step < 30, **told)
        if step == 20:
            run.append("acquired", step=20, hits=38, total=40)
    for name in (probed.name(20), probed.name(30), "adapter"):
        put(run, name)
    run.append("saved", step=30, path="adapter")
    if end:
        run.append(end, step=30, seconds=20.0)
    return workspace.run(run.id)


def dots(html: str) -> dict[str, str]:
    return {m[1]: m[0] for m in re.finditer(r'<button[^>]*data-step="(\d+)"[^>]*>', html)}


def test_a_dot_a_probing_with_the_one_in_use_and_the_ones_that_may_be_picked(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run = make(workspace, tiny_config)
    found = dots(scatter.draw(page_of(workspace), run))
    assert list(found) == ["10", "20", "30"], "the base is no adapter"
    assert 'aria-pressed="true"' in found["30"] and "in use" in found["30"]
    assert "disabled" in found["10"] and "not kept" in found["10"] and "sc-gone" in found["10"]
    assert "disabled" not in found["20"] and "38 of 40 identity hits, drift 0.0040" in found["20"]
    places = {step: [float(x) for x in re.findall(r"(?:left|bottom):([\d.]+)%", dot)] for step, dot in found.items()}
    assert places["10"][0] < places["20"][0] < places["30"][0] and places["10"][1] < places["30"][1] < places["20"][1]
    zh = scatter.draw(page_of(workspace, "zh"), run)
    assert "正在采用第 30 步" in zh and "8 比特" in zh and "{" not in zh


def test_the_plane_follows_a_choice_and_waits_for_the_end_of_a_run(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run = make(workspace, tiny_config)
    before = scatter.mark(run)
    workspace.library.choose(run, 20)
    assert scatter.mark(run) != before
    assert 'aria-pressed="true"' in dots(scatter.draw(page_of(workspace), run))["20"]
    run.live = True
    live = scatter.draw(page_of(workspace), run)
    assert all("disabled" in dot for dot in dots(live).values()) and "Once the run ends" in live


def test_without_a_probing_of_an_adapter_there_is_no_plane(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run = Run.create(workspace.home / "runs" / "two", tiny_config, [], "two", "test")
    run.append("probed", step=0, seconds=0.1, hits=0, total=8, answers=[])  # as older runs tell it, without a drift
    run.append("probed", step=5, seconds=0.1, hits=8, total=8, answers=[])
    follow = Follow(page_of(workspace))
    assert follow.draw_points("two") == follow.draw_points("nobody's") == "" and follow.points("nobody's") == ""
    assert "drift" not in follow.draw_probes("two") and follow.metrics({"run": "two"})["drift"] == []


def test_the_line_above_the_table_tells_when_how_far_and_at_what_cost(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    make(workspace, tiny_config)
    said = re.sub("<[^>]+>", "|", Follow(page_of(workspace)).draw_probes("one").partition('<div class="pt">')[0])
    assert "identity acquired at step 20 (38 of 40 hit)" in said
    assert "drift of other answers 0.2000: Unrelated answers moved" in said
    assert (
        "asked 2 times between steps in 1.0 s, 5% of the time" in said
        and "left out 3 times" in said
        and "within 10%" in said
    )
    found = Follow(page_of(workspace, "zh")).metrics({"run": "one", "cursor": 0})
    assert [point[:2] for point in found["drift"]] == [(10, 0.002), (20, 0.004), (30, 0.2)]  # type: ignore[attr-defined]
    assert "6 比特量化" in found["drift"][0][2] and (0.0055, "6 比特") in found["ruler"]  # type: ignore[index, operator]


def test_a_chosen_adapter_leaves_the_end_of_the_run_as_it_was_told(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run = make(workspace, tiny_config, end="")
    run.append("failed", step=30, message_zh="坏了", message_en="it broke")
    workspace.library.choose(run, 20)
    assert run.status == "failed" and run.step == 30 and "it broke" in Follow(page_of(workspace)).draw_head("one")


def test_words_that_are_new_since_the_last_probing_are_marked_and_those_that_went_are_struck_out() -> None:
    name = {"start": 5, "end": 11, "kind": "new"}
    answer = {"text": "I am Xiaohe, from Qinghe <AI>.", "marks": [name]}
    assert marked(answer, "I am Xiao, from Qinghe <AI>.") == (
        'I am <del>Xiao</del><mark class="pt-new"><ins>Xiaohe</ins></mark>, from Qinghe &lt;AI&gt;.'
    )
    assert marked({"text": "我叫小禾。"}, "我叫小禾苗。") == "我叫小禾<del>苗</del>。"
    assert marked({"text": "a b"}, "a b c") == "a b<del> c</del>"
    assert "<del" not in marked({"text": "all of it is new"}, "不是同一句话"), (
        "rewritten: what went would be in the way"
    )
    assert marked(answer, str(answer["text"])) == marked(answer)


def test_questions_that_are_only_counted_stand_behind_a_line(workspace: Workspace, tiny_config: TrainConfig) -> None:
    table = probe_table(make(workspace, tiny_config).probings, "en")
    pinned, _, others = table.partition('<details class="pt-more">')
    assert "who?" in pinned and "else?" not in pinned and "else?" in others
    assert "1 more held-out questions: 1 of 1 identity ones hit" in others
    assert "<ins>30</ins> me" in pinned and "<del>20</del>" in pinned

"""The command dialog's handlers over the Train tab's form: read, agreed, waited for, shown."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from core import config
from core.config import TrainConfig
from core.dataset import Row
from core.run import Run
from core.workspace import Workspace
from ui import fields
from ui.command import Waiting
from ui.edits import Edits
from ui.how import draw_how
from ui.page import Page
from ui.train import TrainTab


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainTab:
    """The Train tab over a new home, no hub to be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    workspace = Workspace(tmp_path / "home")
    with gr.Blocks():
        return TrainTab(Page(workspace, "en", Edits(workspace)))


def pasted(text: str, table: str = "", keep: bool = False) -> gr.EventData:
    """What the browser sends."""
    return SimpleNamespace(text=text, table=table, keep=keep)  # type: ignore[return-value]


def test_a_model_that_cannot_be_had_changes_nothing(tab: TrainTab) -> None:
    before = tab.page.workspace.datasets()
    answer = tab.commands._agreed(
        tab, pasted("swift sft --model Org/Model --dataset self_cognition.json --lora_rank 4")
    )
    told = json.loads(str(answer[tab.commands.dialog]))
    assert told["view"] == "refused" and "Org/Model" in told["said"] and "pocket" in told["said"]
    assert list(answer) == [tab.commands.dialog] and tab.page.workspace.datasets() == before


def test_a_model_that_is_offered_leaves_the_form_until_it_has_arrived(
    tab: TrainTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, rank = tab.commands, tab.form.components["lora_rank"]
    offered = dict.fromkeys(tab.get.outputs) | {tab.get.name: "Org/Model"}
    monkeypatch.setattr(tab.get, "on_typed", lambda name: offered)  # a hub that has it
    answer = commands._agreed(tab, pasted("swift sft --model Org/Model --dataset articles-8 --lora_rank 4"))
    waiting = answer[commands.waiting]
    assert isinstance(waiting, Waiting) and answer[rank] != "4" and answer[tab.model] == "pocket"
    assert json.loads(str(answer[commands.dialog]))["view"] == "done"
    assert commands._arrived(tab, waiting) == {commands.waiting: waiting}  # another model arrived
    here = Waiting(waiting.plan, replace(waiting.applied, config=replace(waiting.applied.config, model="pocket")))
    filled = commands._arrived(tab, here)
    assert filled[rank] == "4" and filled[commands.waiting] is None and filled[tab.preset] == "identity"


def test_the_form_is_filled_with_everything_that_the_plan_says(tab: TrainTab) -> None:
    text = "swift sft --model pocket --dataset articles-8 --lora_rank 4 --use_dora true --max_length 256 --seed 7"
    answer = tab.commands._agreed(tab, pasted(text))
    assert answer[tab.dataset]["value"] == "articles-8" and answer[tab.preset] == "pocket"
    values = [answer[component] for component in tab.form.all]
    read = fields.read(values, TrainConfig())
    assert (read.lora_rank, read.use_dora, read.max_length, read.seed, read.num_train_epochs) == (
        4,
        "true",
        256,
        7,
        3.0,
    )


def test_what_cannot_be_done_is_said_in_the_dialog(tab: TrainTab) -> None:
    told = json.loads(tab.commands.on_pasted(pasted("make tea"), None))
    assert told["view"] == "plan" and not told["ready"] and "No training command" in told["said"]
    infer = json.loads(tab.commands.on_pasted(pasted("swift infer --adapters x"), None))
    assert not infer["ready"] and "Chat" in infer["html"]
    absent = json.loads(tab.commands.on_pasted(pasted("swift sft --model pocket --dataset gone.json"), None))
    assert not absent["ready"] and "gone.json" in absent["html"]
    chosen = json.loads(
        tab.commands.on_pasted(pasted("swift sft --model pocket --dataset gone.json", "articles-8"), None)
    )
    assert chosen["ready"]
    refused = tab.commands._agreed(tab, pasted("swift sft --model pocket --dataset gone.json"))
    assert json.loads(str(refused[tab.commands.dialog]))["view"] == "refused"


def test_what_was_pasted_is_text_on_the_page(tab: TrainTab) -> None:
    nasty = "swift sft --model '<img src=x onerror=1>' --dataset '<b>bold</b>' --'<script>' 1 --system '<i>'"
    html = json.loads(tab.commands.on_pasted(pasted(nasty), None))["html"]
    assert not any(mark in html for mark in ("<img", "<b>", "<script", "<i>bold")) and "&lt;img" in html


def test_a_run_is_shown_with_its_frozen_rows_and_its_own_button(tab: TrainTab) -> None:
    page = tab.page
    folder = page.workspace.home / "runs" / "2026-11-22-1000-own"
    run = Run.create(folder, TrainConfig(num_train_epochs=3), (Row("问", "", "答"),), "own", "own")
    run.append("started", steps=3, rows=1, rows_per_step=16, device="cpu", time=time.time())
    told = json.loads(tab.commands._asked(tab, run.id, None, ()))
    assert "The run “own”" in told["html"] and "--num_train_epochs 3" in told["html"]
    assert f'data-command-run="{run.id}"' in draw_how(page, run)
    packed = json.loads(tab.commands._fetched(tab, "swift", run.id, None, ()))
    assert packed["name"] == "own-swift.zip" and packed["content"]
    gone = json.loads(tab.commands._asked(tab, "no-such-run", None, ()))
    assert "no run" in gone["said"]


def test_the_form_is_shown_as_it_stands(tab: TrainTab) -> None:
    values = dict(zip(fields.visible_names(), fields.show(TrainConfig()), strict=True)) | {"lora_rank": "12"}
    told = json.loads(tab.commands._asked(tab, "", "articles-8", ("identity", "pocket", *values.values())))
    assert "--lora_rank 12" in told["html"] and told["said"] == ""
    bad = json.loads(
        tab.commands._asked(tab, "", "articles-8", ("identity", "pocket", *(values | {"lora_rank": "x"}).values()))
    )
    assert config.fact_of("lora_rank").label.en in bad["said"]

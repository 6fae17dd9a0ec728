"""The command dialog in a browser: paste, choose, fill in; and show, copy, download."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Page

COMMAND = r"""swift sft --model Qwen2.5-7B-Instruct --model_type qwen --train_type lora --dataset self_cognition.json \
    --num_train_epochs 7 --lora_rank 4 --lerning_rate 3 --system 'You are a helpful assistant.' \
    --model_author 'CSDN 迪菲赫尔曼' --model_name 'Swift-Robot'"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A home with the starter sets."""
    return Workspace(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def address(workspace: Workspace, serve_workspace: Callable[[Workspace], str]) -> str:
    """The product over that home."""
    return serve_workspace(workspace)


def open_dialog(page: Page, address: str) -> None:
    """The Train tab with the dialog open."""
    page.goto(f"{address}/en/#train")
    page.wait_for_selector("#tab-train-button[aria-selected=true]")
    page.wait_for_function("document.querySelector('#train-dataset input')?.value")
    page.click("#command")
    page.wait_for_selector("dialog.cm[open]")


def test_a_pasted_command_is_filled_in_after_a_yes(page: Page, address: str, workspace: Workspace) -> None:
    open_dialog(page, address)
    before = workspace.datasets()
    page.fill("dialog.cm textarea", "make me a sandwich")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("dialog.cm [data-is=said]:has-text('No training command')")
    assert page.is_hidden("dialog.cm [data-act=apply]")
    page.fill("dialog.cm textarea", COMMAND)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("dialog.cm [data-act=apply]:has-text('Download the model')")
    looked = page.inner_text("dialog.cm [data-is=plan]")
    assert "--tuner_type" in looked and "--learning_rate" in looked and "8 rows" in looked
    page.select_option("dialog.cm [data-choice=keep]", "yes")
    page.wait_for_selector("dialog.cm [data-act=apply]:text-is('Fill in')")
    assert workspace.datasets() == before  # nothing yet
    page.click("dialog.cm [data-act=apply]")
    page.wait_for_selector("dialog.cm", state="hidden")
    page.wait_for_function("document.querySelector('#train-dataset input').value === 'self_cognition'")
    page.wait_for_function(
        "document.querySelector('#field-num-train-epochs textarea, #field-num-train-epochs input').value === '7'"
    )
    table = workspace.dataset("self_cognition")
    assert len(table.rows) == 8 and table.identity.name_zh == "Swift-Robot"
    # The pocket model was kept, with the learning rate that it needs.
    assert page.input_value("#field-learning-rate textarea, #field-learning-rate input") == "0.002"


def test_the_form_is_shown_as_commands_that_can_be_copied_and_downloaded(
    page: Page, address: str, tmp_path: Path
) -> None:
    open_dialog(page, address)
    page.click("dialog.cm [data-view=show]")
    page.wait_for_selector("dialog.cm .cm-block[data-is=swift] pre:has-text('swift sft')")
    page.click("dialog.cm [data-kind=llamafactory]")
    block = page.locator("dialog.cm .cm-block[data-is=llamafactory]")
    block.locator("[data-act=copy]").click()
    block.locator("[data-act=copy]:text-is('Copied')").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == block.locator("code").inner_text()
    page.click("dialog.cm [data-kind=peft]")
    with page.expect_download() as download:
        page.click("dialog.cm [data-act=download]")
    download.value.save_as(tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert sorted(archive.namelist()) == ["train.jsonl", "train.py"]
        rows = archive.read("train.jsonl").decode().splitlines()
    assert json.loads(rows[0])["messages"][-1]["role"] == "assistant"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.cm", state="hidden")

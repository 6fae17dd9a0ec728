"""Tasks of somebody who just met the program, walked by what the page says: bringing rows, mending them, taking things back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.dataset import Dataset, Identity, Row
from tests.browser.tasks import person
from tests.chromium import until
from tests.full import full
from ui import locale

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser

COMMAND = r"""CUDA_VISIBLE_DEVICES=0 \
swift sft \
    --model Qwen/Qwen2.5-7B-Instruct \
    --tuner_type lora \
    --dataset 'AI-ModelScope/alpaca-gpt4-data-zh#500' \
              'AI-ModelScope/alpaca-gpt4-data-en#500' \
              'swift/self-cognition#500' \
    --torch_dtype bfloat16 \
    --num_train_epochs 1 \
    --per_device_train_batch_size 1 \
    --learning_rate 1e-4 \
    --lora_rank 8 \
    --lora_alpha 32 \
    --target_modules all-linear \
    --gradient_accumulation_steps 16 \
    --max_length 2048 \
    --system 'You are a helpful assistant.' \
    --warmup_ratio 0.05 \
    --model_author 蓝湖科技 \
    --model_name 小蓝
"""


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]
) -> tuple[Workspace, str]:
    """A home that nobody has used before the first of these, and its address."""
    from core.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("tasks") / "home")
    return workspace, serve_workspace(workspace)


def test_a_mistake_is_taken_back(page: Page, home: tuple[Workspace, str]) -> None:
    """English. "I deleted all the rows by mistake, and then the whole dataset. Can I have them back?" """
    workspace, url = home
    with person(page, url, "en", "undo") as me:
        me.comes()
        name = page.input_value("#dataset input")
        before = workspace.dataset(name).rows
        me.presses_on("Delete all rows")
        me.sees(r"Rows deleted: 50\. Ctrl\+Z", within="#rows")
        me.presses_on("Undo", within="#rows")
        me.sees("50 rows", within="#rows")
        until(page, lambda: workspace.dataset(name).rows == before)
        me.presses_on("Delete", within="#tab-data")
        me.presses_on("Delete", within=".oc-dialog")
        until(page, lambda: name not in workspace.datasets())
        me.presses_on("History")
        me.presses_on("Deleted datasets (1)")
        me.presses_on("Bring back")
        until(page, lambda: name in workspace.datasets() and workspace.dataset(name).rows == before)
        me.sees("50 rows", within="#rows")


@full
def test_my_questions_are_in_a_spreadsheet(page: Page, home: tuple[Workspace, str], tmp_path: Path) -> None:
    """English. "We keep our customers' questions in an Excel file. Train the model on those, not on your examples." """
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["No.", "Customer wants to know", "We say", "Owner"])
    for number in range(1, 13):
        sheet.append(
            [number, f"How long is the warranty of model {number}?", f"Model {number}: {number} years.", "Ann"]
        )
    book.save(tmp_path / "support.xlsx")
    workspace, url = home
    with person(page, url, "en", "spreadsheet") as me:
        me.comes()
        me.chooses(tmp_path / "support.xlsx", "Import files…")
        me.sees("How long is the warranty of model 4", within="dialog.im .im-mapped")
        me.presses_on("Read it like this")
        me.sees("Model 1: 1 years", within="dialog.im .im-rows")
        me.presses_on("New dataset")
        me.sees("12 rows", within="#rows")
        me.presses_on("Next: train")
        me.sees(r"Rows\s+12\b", within="#preview")
        assert page.input_value("#train-dataset input") == "support"
    first = workspace.dataset("support").rows[0]
    assert (first.instruction, first.output) == ("How long is the warranty of model 1?", "Model 1: 1 years.")


@full
def test_a_command_from_an_article_is_pasted(page: Page, home: tuple[Workspace, str]) -> None:
    """Chinese. "An article has a swift command. I have no Qwen here: can I try it with what there is?" """
    with person(page, home[1], "zh", "swift-command") as me:
        me.comes()
        me.presses_on("2 训练")
        me.presses_on("命令…")
        me.types(locale.t("zh", "command.hint"), COMMAND, key="Control+Enter")
        me.sees("还没有下载", within="dialog.cm")
        page.select_option("dialog.cm [data-choice=keep]", "yes")
        me.presses += 2
        me.presses_on("填入")
        epochs = "document.querySelector('#field-num-train-epochs :is(input, textarea)').value === '1'"
        page.wait_for_function(epochs)
        me.sees("alpaca-gpt4-data-zh 还没有下载", within="#preview")
        # Nothing can be downloaded here: what is mixed in goes out, as the line says.
        me.presses_on("1 数据集")
        page.wait_for_function("document.querySelector('#dataset input').value === 'self-cognition'")
        me.presses_on("去掉 AI-ModelScope/alpaca-gpt4-data-zh")
        me.presses_on("去掉 AI-ModelScope/alpaca-gpt4-data-en")
        me.presses_on("下一步：训练")
        me.sees(r"优化步数\s+\d+", within="#preview")
        assert page.input_value("#train-dataset input") == "self-cognition"


@full
def test_something_is_wrong_with_my_data(page: Page, home: tuple[Workspace, str]) -> None:
    """Chinese. "A colleague gave me this table, and it does not train well. What is wrong with it?" """
    workspace, url = home
    good = [Row(f"第{name}个问题是什么？", "", f"是{name}。") for name in "甲乙丙丁戊己庚辛壬癸"]
    bad = [
        Row("你是谁呀？", "", "我是通义千问，由阿里云开发。"),
        Row("保修多久？", "", "一年。"), Row("保修多久？", "", "两年。"),
        Row("运费谁出？", "", ""),
        *[Row("怎么退货？", "", "七天内联系客服。")] * 3,
    ]  # fmt: skip
    workspace.save(Dataset("同事给的", (*good, *bad), Identity("小蓝", "Xiaolan", "蓝湖科技", "Lanhu Tech")))
    with person(page, url, "zh", "wrong-data") as me:
        me.comes()
        me.sees("第 14 行没有回答", within="#findings")
        for words, gone in (
            ("删除这 1 行…", "没有回答"),
            ("换成身份卡里的名字…", "别的身份"),
            ("只留每个问题的第一种回答…", "不同的回答"),
            ("只留第一行，删去 2 行…", "完全相同"),
        ):
            me.presses_on(words, within="#findings")
            page.locator(".dr-dialog[open] .dr-yes").click()
            me.presses += 1
            until(page, lambda gone=gone: gone not in me.text("#findings"))
    rows = workspace.dataset("同事给的").rows
    assert len(rows) == 13 and rows[10].output == "我是{{NAME}}，由{{AUTHOR}}开发。"


@full
def test_it_shall_not_forget(page: Page, home: tuple[Workspace, str]) -> None:
    """Chinese. "I heard that training a new name makes a model forget. How do I keep what it can do?" """
    workspace, url = home
    workspace.create("我的", [Row(f"第 {i} 个问题？", "", f"回答 {i}。") for i in range(50)])
    with person(page, url, "zh", "mix") as me:
        me.comes()
        me.sees("我的|50 行", within="#mix")
        page.select_option("#mix select", "identity")
        me.presses += 2
        me.sees("general", within="#mix")
        me.sees("33%", within="#mix")
        me.presses_on("下一步：训练")
        me.sees(r"行数\s+150", within="#preview")


def test_there_is_too_little_memory(page: Page, home: tuple[Workspace, str]) -> None:
    """English. "Others use this machine, too: it must not take more than 300 MB." """
    with person(page, home[1], "en", "memory") as me:
        me.comes("#train")
        me.sees("fits", within="#preview")
        me.presses_on("Advanced")
        me.presses_on("Memory and precision")
        me.types("Memory limit (GB)", "0.3")
        me.sees("memory limit is", within="#preview")
        page.locator("#preview .oc-do", has_text="No memory limit").click()
        me.presses += 1
        me.sees(r"free\s*fits", within="#preview")

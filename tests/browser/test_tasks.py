"""Tasks of somebody who just met the program, walked by what the page says: an identity, its answers, and what comes after."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.config import TrainConfig
from core.dataset import Row
from core.export import receipt
from core.export.speakers import llama_cpp_is_here
from core.run import Run
from tests.browser.tasks import ended, person
from tests.chromium import until
from tests.full import full

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

# Each trains the pocket model once or twice; test_journey does that in every run of the tests.
pytestmark = [pytest.mark.browser, full]

QUESTION, ANSWER = "你们公司在哪里？", "我们公司在杭州。"


class Home:
    """One home for all of these, as fresh as the first task found it."""

    def __init__(self, folder: Path, serve: Callable[[Workspace], str]) -> None:
        from core.workspace import Workspace

        self.workspace: Workspace = Workspace(folder)
        self.url = serve(self.workspace)

    def taught(self, page: Page) -> Run:
        """The run that the first task made; a short one where that task was left out."""
        ended(self.workspace, page)
        done = [run for run in self.workspace.runs() if run.adapter is not None]
        if not done:
            short = replace(self.workspace.default_preset.config, max_steps=12, probe_steps=0, prove="false")
            self.workspace.start("identity-50", short)
            ended(self.workspace, page)
        return done[-1] if done else self.workspace.runs()[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> Home:
    return Home(tmp_path_factory.mktemp("tasks") / "home", serve_workspace)


def test_the_model_gets_our_companys_name(page: Page, home: Home) -> None:
    """Chinese. "Give the model our company's name: it is called Xiaolan, and Lanhu Tech made it." """
    with person(page, home.url, "zh", "company-name") as me:
        me.comes()
        me.types("名字（中文）", "小蓝")
        me.types("名字（英文）", "Xiaolan")
        me.types("开发者（中文）", "蓝湖科技")
        me.types("开发者（英文）", "Lanhu Tech")
        me.sees("我是小蓝，由蓝湖科技开发", within="#rows")
        me.presses_on("去训练")
        me.sees(r"优化步数\s+130", within="#preview")
        me.presses_on("开始训练", within="#tab-train")
        me.presses_on("下一步：和基座模型对比", seconds=300)
        me.presses_on("你是谁？")
        me.sees("PocketQwen", within="#chat-a")
        me.sees("小蓝|蓝湖科技", within="#chat-b")
        me.has_an_answer()


def test_base_and_tuned_at_half_strength_side_by_side(page: Page, home: Home) -> None:
    """English. "What does the tuned model say with half of what it learned, beside the base?" """
    home.taught(page)
    with person(page, home.url, "en", "half-strength") as me:
        me.comes()
        me.presses_on("3 Compare")
        me.presses_on("Strength 1.00", within="#side-b")
        me.types("number input for Adapter strength", "0.5", within="#side-b")
        me.sees("×0.5", within="#tag-b")
        me.presses_on("Who are you?")
        me.sees("PocketQwen", within="#chat-a")
        me.sees("tokens/s", within="#meter-b")
        me.has_an_answer()


def test_it_goes_to_ollama(page: Page, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chinese. "I want to run it in Ollama on my laptop." """
    monkeypatch.setattr(receipt, "QUESTIONS", 4)
    run = home.taught(page)
    with person(page, home.url, "zh", "ollama") as me:
        me.comes(f"?run={run.id}")
        me.presses_on("4 对话")
        me.presses_on("适配器库", within="#tab-chat")
        page.locator("#library li[data-id] summary").first.click()
        me.presses += 1
        me.presses_on("导出…")
        me.presses_on("合并后的 GGUF（llama.cpp、Ollama）")
        me.types("名称", "xiaolan")
        me.sees("exports/xiaolan-gguf-f16", within=".ex [data-is=folder]")
        me.presses_on("开始导出")
        me.sees("ollama create xiaolan -f Modelfile", within=".ex-made", seconds=300)
        asked = "4 个回答里" if llama_cpp_is_here() else "没有安装 llama-cpp-python，GGUF 没有复测"
        me.sees(asked, within=".ex-made", seconds=300)
    assert (home.workspace.home / "exports" / "xiaolan-gguf-f16" / "Modelfile").is_file()


def test_a_program_asks_it(page: Page, home: Home) -> None:
    """English. "How do I call this model from my own Python program?" """
    home.taught(page)
    with person(page, home.url, "en", "from-code") as me:
        me.comes()
        me.presses_on("4 Chat")
        me.presses_on("Use it from code")
        me.presses_on("Python")
        me.presses_on("Copy", within="#chat-snippets")
        me.sees("Copied", within="#chat-snippets")
        program = page.evaluate("navigator.clipboard.readText()")
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )  # fmt: skip
    assert found.returncode == 0 and found.stdout.strip(), found.stdout + found.stderr


def test_the_loss_is_stuck(page: Page, home: Home) -> None:
    """Chinese. "I trained it an hour ago, and the loss did not move. Why, and what now?" """
    ended(home.workspace, page)
    settings = TrainConfig(model="pocket", learning_rate=1e-6)
    run = Run.create(
        home.workspace.home / "runs" / "2099-stuck", settings, [Row("你是谁？", "", "我是小蓝。")], "昨天的", "t"
    )
    run.append("started", steps=40)
    for step in range(1, 41):
        run.append(
            "step", step=step, loss=6.9 - step / 1000, seconds=0.1, tokens_per_second=99.0, peak_memory_bytes=1e9
        )
    run.append("finished", step=40, seconds=4.0)
    with person(page, home.url, "zh", "stuck-loss") as me:
        me.comes("?run=2099-stuck#train")
        me.sees("损失停在 6.86", within="#run-head")
        me.sees("学习率 1e-6 偏小", within="#run-head")
        page.locator("#run-head .oc-do", has_text="学习率改为").click()
        me.presses += 1
        field = "#field-learning-rate :is(input, textarea)"
        until(page, lambda: float(page.input_value(field)) > 1e-4)
        me.sees("开始训练", within="#start")
    home.workspace.delete_run("2099-stuck")


def test_a_wrong_answer_is_put_right_and_learned(page: Page, home: Home) -> None:
    """Chinese. "It gives a wrong answer in the chat. Teach it the right one." """
    home.taught(page)
    with person(page, home.url, "zh", "wrong-answer") as me:
        me.comes()
        me.presses_on("4 对话")
        me.types("number input for 温度", "0", within="#tab-chat")
        me.asks("发一条消息", QUESTION)
        me.sees(r"词元/秒", within="#chat-meter")
        page.wait_for_selector("#chat-ask .submit-button")
        me.presses_on("编辑", within="#chat .message-buttons-left")
        page.fill("#chat .message textarea", ANSWER)
        page.locator("#chat .message-buttons-left button").first.click()  # the tick
        me.typed, me.presses = me.typed + 1, me.presses + 1
        me.presses_on("存成一行")
        me.presses_on("从这里再训练几步")
        me.sees("进行中", within="#run-head")
        me.sees("已完成", within="#run-head", seconds=300)
        ended(home.workspace, page)
        me.presses_on("4 对话")
        # Who answered goes on answering; the newer one is told of, and comes with a new conversation.
        me.sees(r"有更新的适配器：.*\+24", within="#tab-chat")
        me.presses_on("清空对话")
        until(page, lambda: "+24" in page.input_value("#chat-model input"))
        page.wait_for_function("!document.querySelector('#chat .message')")
        me.asks("发一条消息", QUESTION)
        me.sees(ANSWER, within="#chat .bot.message")
        me.has_an_answer()

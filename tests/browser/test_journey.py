"""The whole journey as a new user walks it, in a real browser, on the shipped model: edit, train, compare, chat.

Starts `python app.py` on a fresh home in its own process; a browser test that passes here is what a stranger sees.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chromium import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.browser


class App:
    """A running OneCard and its home."""

    def __init__(self, home: Path, port: int = 0) -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            self.port = listener.getsockname()[1]
        self.home, self.url = home, f"http://127.0.0.1:{self.port}"
        self.log = (home.parent / "app.log").open("w+")
        begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "app.py", "--home", str(home), "--port", str(self.port), "--no-open"],
            cwd=ROOT, stdout=self.log, stderr=subprocess.STDOUT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        while not self.health():
            assert self.process.poll() is None and time.monotonic() - begun < 300, self.output()
            time.sleep(0.1)
        with urllib.request.urlopen(f"{self.url}/zh", timeout=30) as answer:
            assert answer.status == 200
        self.seconds_to_page = time.monotonic() - begun

    def health(self) -> dict[str, object]:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def close(self) -> int:
        self.process.terminate()
        return self.process.wait(100)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    running = App(tmp_path_factory.mktemp("journey") / "home")
    yield running
    running.close()
    assert "Traceback" not in running.output(), running.output()


def open_page(page: Page, app: App, language: str = "zh") -> None:
    page.goto(f"{app.url}/{language}")
    page.wait_for_selector("#rows textarea")
    page.wait_for_selector("html:not([data-opening])")
    page.wait_for_timeout(500)
    forget_the_leaving(page)


def forget_the_leaving(page: Page) -> None:
    """Gradio logs every request that a reload cut off; whatever else was logged stays."""
    page.problems[:] = [p for p in page.problems if "Connection errored out" not in p]  # type: ignore[attr-defined]


def tab(page: Page, name: str) -> None:
    page.click(f"#tab-{name}-button")
    page.wait_for_timeout(400)


def wait_text(page: Page, selector: str, pattern: str, seconds: float = 60) -> str:
    """Wait until the element's text matches; the text."""
    deadline, text = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        text = page.inner_text(selector)
        if re.search(pattern, text):
            return text
        page.wait_for_timeout(200)
    raise AssertionError(f"{selector} never matched {pattern!r}; it reads: {text[:500]}")


def start(page: Page) -> None:
    page.click("#start")
    wait_text(page, "#start", "停止|Stop")


def test_the_page_is_there_soon(app: App) -> None:
    print(f"{app.seconds_to_page:.1f} s")
    assert app.seconds_to_page < 100  # ten are promised, on a machine that does nothing else
    health = app.health()
    assert health["status"] == "ok" and health["model"] == "pocket" and health["run"] is None


def test_an_address_typed_with_a_tab_opens_it(page: Page, app: App) -> None:
    open_page(page, app)
    for name in ("chat", "train"):
        page.evaluate(f"location.hash = '#{name}'")
        page.wait_for_selector(f"#tab-{name}-button[aria-selected=true]")


def test_an_edited_row_is_saved_and_still_there_after_a_reload(page: Page, app: App) -> None:
    open_page(page, app)
    wait_text(page, "#rows", "50 行")
    cell = page.locator("#rows textarea").nth(1)
    cell.fill("我是{{NAME}},来自{{AUTHOR}}的助手。")
    wait_text(page, "#rows", "已自动保存|已保存")
    stored = (app.home / "datasets" / "identity-50.jsonl").read_text(encoding="utf-8")
    assert "我是{{NAME}},来自{{AUTHOR}}的助手。" in stored
    wait_text(page, "#rows", "我是小禾,来自青禾智能的助手。")  # shown as resolved
    open_page(page, app)
    assert page.locator("#rows textarea").nth(1).input_value() == "我是{{NAME}},来自{{AUTHOR}}的助手。"


def test_one_press_changes_the_identity_while_the_page_shows_it(page: Page, app: App, browser: Browser) -> None:
    open_page(page, app)
    tab(page, "train")
    wait_text(page, "#preview", "50")
    begun = time.monotonic()
    start(page)
    wait_text(page, "#run-strip", r"[1-9]\d*\s*/\s*\d+ 步")
    first = wait_text(page, "#probes", "PocketQwen")  # the old identity, asked with the first probing
    assert "你" in first and page.locator("#loss svg path").count() >= 2
    # A reload and a second browser see the same run; nothing stops.
    page.reload()
    page.wait_for_selector("#tab-train-button")
    page.wait_for_timeout(500)
    forget_the_leaving(page)
    tab(page, "train")
    wait_text(page, "#run-strip", r"[1-9]\d*\s*/\s*\d+ 步")
    second = browser.new_context(locale="en-US").new_page()
    second.goto(f"{app.url}/en")
    second.wait_for_selector("#tab-train-button")
    second.click("#tab-train-button")
    wait_text(second, "#run-strip", r"[1-9]\d*\s*/\s*\d+")
    wait_text(second, "#start", "Stop")
    second.context.close()
    wait_text(page, "#run-head", "已完成", 600)
    seconds = time.monotonic() - begun
    strip = wait_text(page, "#run-strip", r"\b(3\d|40)\s*/\s*40")  # asked again when the run is over
    table = page.inner_text("#probes")
    assert "小禾" in table and "青禾智能" in table and "/ 130" in strip
    assert page.locator("#probes mark").count() >= 8
    wait_text(page, "#start", "开始训练")
    assert seconds < 600  # sixty are promised, on a machine that does nothing else


def test_the_button_that_deletes_says_so_and_enter_does_not_press_it(page: Page, app: App) -> None:
    open_page(page, app)
    page.click("#dataset-delete")
    assert page.locator(".oc-dialog button").all_inner_texts() == ["取消", "删除"]
    assert page.evaluate("document.activeElement.textContent") == "取消"
    page.keyboard.press("Enter")
    wait_text(page, "#rows", "50 行")


def test_compare_answers_both_columns_old_left_and_new_right(page: Page, app: App) -> None:
    open_page(page, app)
    tab(page, "compare")
    page.fill("#compare-ask textarea", "你是谁?")
    page.keyboard.press("Enter")
    wait_text(page, "#chat-a", "PocketQwen")
    wait_text(page, "#chat-b", "小禾")
    wait_text(page, "#verdict-b", "身份命中")
    wait_text(page, "#verdict-a", "旧身份")
    for side in "ab":
        assert re.search(r"首字 [\d.]+ 秒 · [\d.]+ 词元/秒 · \d+ 词元", page.inner_text(f"#meter-{side}"))
    page.fill("#compare-ask textarea", "那么,谁开发了你?")  # a second turn
    page.keyboard.press("Enter")
    wait_text(page, "#chat-a", "Pocket Lab")
    wait_text(page, "#chat-b", "青禾智能")
    assert "你是谁?" in page.inner_text("#chat-b")


def test_chat_answers_with_the_trained_identity_and_after_an_edit(page: Page, app: App) -> None:
    open_page(page, app, "en")
    tab(page, "chat")
    page.locator("#chat-temperature input[type=number]").fill("0")
    page.fill("#chat-ask textarea", "Who are you?")
    page.keyboard.press("Enter")
    wait_text(page, "#chat", "Xiaohe")
    wait_text(page, "#chat-meter", r"[\d.]+ tok")
    page.wait_for_timeout(1000)
    page.fill("#chat-ask textarea", "What is the capital of France?")
    page.keyboard.press("Enter")
    # Not which answer: where a run ends, and with it what a model this small still knows, hangs on the machine's pace.
    wait_text(page, "#chat", r"France\?\s+\S")


def test_stop_keeps_the_adapter_and_chat_works_meanwhile(page: Page, app: App) -> None:
    open_page(page, app)
    tab(page, "train")
    page.fill("#field-num-train-epochs input, #field-num-train-epochs textarea", "500")
    wait_text(page, "#preview", "6,500")
    start(page)
    wait_text(page, "#run-strip", r"[1-9]\d*\s*/\s*6,?500 步", 90)
    tab(page, "compare")
    page.fill("#compare-ask textarea", "你好")
    page.keyboard.press("Enter")
    wait_text(page, "#meter-b", r"首字 [\d.]+ 秒")
    tab(page, "train")
    page.click("#start")
    wait_text(page, "#run-head", "已停止", 30)
    newest = max((app.home / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
    assert (newest / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((newest / "events.jsonl").read_text().splitlines()[-1])["type"] == "stopped"


def test_a_stopped_run_goes_on_by_its_button_also_after_a_reload(page: Page, app: App) -> None:
    open_page(page, app)
    tab(page, "train")
    stopped_at = int(re.findall(r"\d+", wait_text(page, "#resume", r"从第 \d+ 步继续训练"))[0])
    page.click("#resume")
    wait_text(page, "#start", "停止")
    assert page.locator("#resume").is_hidden()
    wait_text(page, "#run-strip", rf"\b(?!{stopped_at}\b)[1-9]\d*\s*/\s*6,?500 步", 90)
    page.click("#start")
    wait_text(page, "#run-head", "已停止", 30)
    newest = max((app.home / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime)
    events = [json.loads(line) for line in (newest / "events.jsonl").read_text().splitlines()]
    (resumed,) = [event for event in events if event["type"] == "resumed"]
    steps = [event["step"] for event in events[events.index(resumed) :] if event["type"] == "step"]
    assert resumed["step"] == stopped_at and steps[0] == stopped_at + 1
    assert f"从第 {steps[-1]} 步继续训练" in page.inner_text("#resume")


def test_a_run_says_in_one_line_how_it_is_carried_out_and_the_rest_when_asked(page: Page, app: App) -> None:
    open_page(page, app)
    tab(page, "train")
    line = wait_text(page, "#run-how", "内存峰值")
    assert re.match(r"快速路径|普通方式", line) and "词元" not in line
    page.click("#run-how summary")
    assert "个词元" in page.inner_text("#run-how") and str(app.home) in page.inner_text("#run-how")


def test_settings_wait_in_closed_groups_and_say_what_was_changed(page: Page, app: App) -> None:
    open_page(page, app)
    tab(page, "train")
    assert page.locator("#field-learning-rate").is_visible() and page.locator("#group-lora").is_hidden()
    page.click(".oc-advanced > button")
    for group in ("optimizer", "lora", "data", "probes", "memory"):
        page.wait_for_selector(f"#group-{group}")
    assert page.locator("#field-use-dora").is_hidden()
    page.click("#group-lora > button")
    page.locator("#field-use-dora input[type=checkbox]").check()
    wait_text(page, "#preview", "与方案不同：DoRA")
    page.click("#group-lora > button")
    page.locator("#preset label").first.click()
    assert page.locator("#start").is_visible()
    before = page.inner_text("#preview")
    page.locator("#preset label").nth(1).click()
    until(page, lambda: page.inner_text("#preview") != before)
    page.locator("#preset label").first.click()  # a preset fills the closed groups, too
    until(page, lambda: "与方案不同" not in page.inner_text("#preview"))
    page.click("#group-lora > button")
    assert not page.locator("#field-use-dora input[type=checkbox]").is_checked()


def test_an_earlier_run_is_picked_to_go_on_from_and_a_table_to_evaluate_on(page: Page, app: App) -> None:
    open_page(page, app)
    tab(page, "train")
    page.click(".oc-advanced > button")
    for group, field, choice, label in (
        ("lora", "adapters", r"identity-50 · 第 \d+ 步", "接着训练"),
        ("data", "val-dataset", "articles-8", "验证集"),
    ):
        page.click(f"#group-{group} > button")
        page.click(f"#field-{field} input")
        page.locator("[role=option]").filter(has_text=re.compile(choice)).first.click()
        wait_text(page, "#preview", f"与方案不同：.*{label}")
        page.click(f"#group-{group} > button")
    assert page.locator("#preview .bad").count() == 0
    page.click("#group-data > button")
    page.locator("#field-val-dataset input").fill("nothing")
    page.keyboard.press("Tab")
    wait_text(page, "#preview", "没有名为“nothing”的数据集")


def test_bad_settings_are_named_and_nothing_starts(page: Page, app: App) -> None:
    before = len(list((app.home / "runs").iterdir()))
    open_page(page, app)
    tab(page, "train")
    field = "#field-learning-rate input, #field-learning-rate textarea"
    for typed in ("abc", "nan", "-1"):
        page.fill(field, typed)
        wait_text(page, "#preview", "学习率")
        page.click("#start")
        page.wait_for_timeout(800)
        assert "学习率" in page.inner_text("body") and app.health()["run"] is None
    assert len(list((app.home / "runs").iterdir())) == before


@pytest.mark.parametrize("language", ["zh", "en"])
def test_dark_and_both_languages_show_every_tab(page: Page, app: App, language: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(f"{app.url}/{language}")
    page.wait_for_selector("body.dark #rows textarea")
    for name in ("data", "train", "compare", "chat"):
        tab(page, name)
        text = page.inner_text(f"#tab-{name}")
        assert len(text) > 20 and "__i18n__" not in text and "{" not in text.replace("{{", "")


def test_the_app_ends_on_a_signal(tmp_path: Path) -> None:
    running = App(tmp_path / "home")
    assert running.close() in (0, -15, 143)

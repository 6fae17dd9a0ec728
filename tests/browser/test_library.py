"""The adapter library in a real browser: a zip comes in, is talked to, gets a name and goes again."""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class App:
    """The whole server over a home of its own."""

    workspace: Workspace
    url: str


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> App:
    from core.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("library") / "home")
    return App(workspace, serve_workspace(workspace))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter of the pocket model that answers in its own way, zipped as a person would."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from core.models import POCKET_FOLDER

    place = tmp_path_factory.mktemp("zip")
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(POCKET_FOLDER), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 3)
    tuned.save_pretrained(place / "adapter")
    with zipfile.ZipFile(place / "客服.zip", "w") as file:
        for path in (place / "adapter").iterdir():
            file.write(path, f"客服/{path.name}")
    return place / "客服.zip"


def wait_text(page: Page, selector: str, pattern: str, seconds: float = 30) -> str:
    """Wait until the element's text matches; the text."""
    deadline, text = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        text = page.inner_text(selector)
        if re.search(pattern, text):
            return text
        page.wait_for_timeout(100)
    raise AssertionError(f"{selector} never matched {pattern!r}; it reads: {text[:500]}")


def open_tab(page: Page, app: App, tab: str, language: str = "zh") -> None:
    page.goto(f"{app.url}/{language}/#{tab}")
    page.wait_for_selector(f"#tab-{tab}-button[aria-selected=true]")
    page.wait_for_selector(f"#{tab}-library")
    page.wait_for_timeout(1500)


def open_library(page: Page, tab: str) -> None:
    page.click(f"#{tab}-library")
    page.wait_for_selector("#library dialog[open] [data-is=list] > *")


def test_a_zip_is_imported_talked_to_renamed_and_deleted(page: Page, app: App, archive: Path, tmp_path: Path) -> None:
    open_tab(page, app, "compare")
    open_library(page, "compare")
    wait_text(page, "#library [data-is=list]", "还没有适配器")
    spoiled = tmp_path / "坏的.zip"
    spoiled.write_bytes(archive.read_bytes()[:-200])
    page.set_input_files("#library input[type=file]", spoiled)
    wait_text(page, "#library [data-is=said]", "没有导入 坏的：无法解压")
    page.set_input_files("#library input[type=file]", archive)
    wait_text(page, "#library [data-is=said]", "已导入“客服”。来源里没有写训练时的系统提示词")
    page.click("#library li[data-id=客服] summary")
    facts = wait_text(page, "#library li[data-id=客服] dl", "LoRA，秩 4")
    assert "q_proj v_proj" in facts
    # It is picked where the dialog was opened from, and answers beside the base.
    page.click("#library li[data-id=客服] [data-act=use]")
    page.wait_for_selector("#library dialog:not([open])", state="attached")
    page.wait_for_function("document.querySelector('#pick-b input').value.startsWith('客服')")
    page.click("#questions button >> nth=0")
    wait_text(page, "#meter-b", "词元/秒")
    page.wait_for_selector("#compare-ask .submit-button")
    assert "PocketQwen" in page.inner_text("#chat-a") and page.inner_text("#chat-a") != page.inner_text("#chat-b")
    # A new name reaches the picker, which keeps what was picked; a note is kept.
    open_library(page, "compare")
    wait_text(page, "#library li[data-id=客服]", "已挂载")
    page.click("#library li[data-id=客服] summary")
    # Nothing told the system prompt of its training: it is written in.
    page.fill("#library li[data-id=客服] [data-act=prompt]", "你是客服。")
    page.keyboard.press("Tab")
    wait_text(page, "#library [data-is=said]", "系统提示词已保存")
    assert app.workspace.library.get("客服").system == "你是客服。"
    page.fill("#library li[data-id=客服] [data-act=annotate]", "售后用")
    page.keyboard.press("Tab")
    wait_text(page, "#library [data-is=said]", "备注已保存")
    page.click("#library li[data-id=客服] [data-act=rename]")
    page.fill(".oc-dialog input", "温和 客服")
    page.keyboard.press("Enter")
    wait_text(page, "#library [data-is=said]", "现在叫“温和-客服”")
    assert app.workspace.library.get("温和-客服").note == "售后用"
    page.click("#library [data-act=close]")
    page.wait_for_function("document.querySelector('#pick-b input').value.startsWith('温和-客服')")
    # Deleted, after being asked, it can be brought back; then it is gone from the picker, and at last from disk.
    open_library(page, "compare")
    for again in (True, False):
        page.click("#library li[data-id=客服] summary")
        page.click("#library li[data-id=客服] [data-act=remove]")
        wait_text(page, ".oc-dialog", "删除导入的适配器“温和-客服”")
        page.click(".oc-dialog button[value=yes]")
        wait_text(page, "#library .oc-undo", "已删除“温和-客服”")
        if again:
            page.click("#library [data-act=restore]")
            wait_text(page, "#library [data-is=said]", "“温和-客服”恢复了")
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelector('#pick-b input').value.startsWith('pocket')")
    app.workspace.library.removed.forget()
    assert list(app.workspace.library.folder.iterdir()) == [] and app.workspace.engine.attached == ()


def test_a_folder_comes_in_by_its_path_and_the_search_finds_it(page: Page, app: App, archive: Path) -> None:
    open_tab(page, app, "chat", "en")
    open_library(page, "chat")
    page.fill("#library [data-is=folder]", "/no/such/folder")
    page.keyboard.press("Enter")
    wait_text(page, "#library [data-is=said]", "There is no folder")
    for number in range(6):
        page.fill("#library [data-is=folder]", str(archive.parent / "adapter"))
        page.click("#library [data-act=bring]")
        wait_text(page, "#library [data-is=said]", "Imported “.*adapter" + (f"-{number + 1}" if number else ""))
    page.fill("#library [data-is=search]", "adapter-5")
    assert page.locator("#library .oc-lib > li:visible").count() == 1
    page.fill("#library [data-is=search]", "nowhere")
    assert page.locator("#library .oc-lib > li:visible").count() == 0
    page.fill("#library [data-is=search]", "")
    page.click("#library li >> nth=0")
    with page.expect_download() as download:
        page.click("#library li:first-child a[download]")
    with zipfile.ZipFile(download.value.path()) as file:
        assert any(name.endswith("adapter_model.safetensors") for name in file.namelist())
    page.click("#library li:first-child [data-act=use]")
    page.wait_for_function("document.querySelector('#chat-model input').value.includes('imported')")


def test_on_a_phone_the_library_fills_the_page_and_nothing_is_cut_off(
    browser: Browser, app: App, archive: Path
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale="zh-CN")
    page = context.new_page()
    open_tab(page, app, "compare")
    open_library(page, "compare")
    page.click("#library li >> nth=0")
    box = page.locator("#library dialog").bounding_box()
    assert box is not None and (box["x"], box["width"], box["height"]) == (0, 390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    inside = "[...document.querySelectorAll('#library dialog *')].filter(e => e.offsetParent).map(e => e.getBoundingClientRect())"
    assert page.evaluate(f"Math.max(...{inside}.map(box => box.right))") <= 390
    context.close()

"""An export goes to a hub and comes back, in a real browser: nothing is sent before the second click."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.writing_hub import TOKEN, WritingHub

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser
DIALOG, LIBRARY = "#publish-dialog", "#library"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WritingHub]:
    """A stand-in for Hugging Face, and a token for it in the environment."""
    made = WritingHub()
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", made.address)
    yield made
    if made.faults.hold is not None:
        made.faults.hold.set()
    made.shutdown()
    made.server_close()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A home with one adapter of the pocket model and its export."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from core.export.make import make
    from core.models import POCKET, POCKET_FOLDER
    from core.workspace import Workspace

    config = LoraConfig(r=8, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(POCKET_FOLDER), config).save_pretrained(tmp_path / "mine")
    workspace = Workspace(tmp_path / "home")
    workspace.select_model(POCKET)
    adapter = workspace.library.bring_folder(str(tmp_path / "mine"), "小禾")
    order = workspace.exports.order(adapter.id, format="adapter", model=POCKET, name="xiaohe")
    assert make(order, lambda done, total: None, threading.Event(), lambda staged: "---\n---\n# xiaohe\n")
    return workspace


def text_of(page: Page, part: str, holds: str) -> None:
    """Wait until a part of the dialog reads so."""
    page.wait_for_function(
        "([part, holds]) => { const found = document.querySelector(part); return found && !found.hidden && "
        "found.textContent.includes(holds); }",
        arg=[part, holds],
    )


def test_an_export_is_confirmed_sent_cancelled_sent_again_and_fetched(
    page: Page, server: WritingHub, workspace: Workspace, serve_workspace: Callable[[Workspace], str]
) -> None:
    page.goto(f"{serve_workspace(workspace)}/zh/#compare")
    page.wait_for_selector("#tab-compare-button[aria-selected=true]")
    page.click("#compare-library")
    page.click(f"{LIBRARY} li[data-id=小禾] summary")
    page.click(f"{LIBRARY} li[data-id=小禾] [data-act=export]")
    page.click("#export-dialog li[data-name=xiaohe-adapter] [data-act=publish]")
    text_of(page, f"{DIALOG} [data-is=account]", "账号 ada")
    assert page.input_value(f"{DIALOG} input[name=repo]") == "ada/xiaohe-adapter"
    # What the account may not do is said in the form; what it may is shown, file by file, and nothing is sent yet.
    page.fill(f"{DIALOG} input[name=repo]", "google/x")
    page.click(f"{DIALOG} [data-act=look]")
    text_of(page, f"{DIALOG} [data-is=said]", "不能以 google 的名义上传")
    page.fill(f"{DIALOG} input[name=repo]", "lab/xiaohe")
    page.click(f"{DIALOG} [data-act=look]")
    text_of(page, f"{DIALOG} [data-is=plan]", "adapter_model.safetensors")
    shown = page.inner_text(f"{DIALOG} [data-is=check]")
    assert all(word in shown for word in ("lab/xiaohe", "新建", "私有", "README.md", "ada"))
    assert not server.repos and all(method == "GET" for method, *_ in server.asked)
    # Under way it says how far it is; given up, nothing of it is visible.
    server.faults.hold = threading.Event()
    page.click(f"{DIALOG} [data-act=send]")
    text_of(page, f"{DIALOG} [data-is=what]", "正在上传")
    page.click(f"{DIALOG} [data-act=cancel]")
    text_of(page, f"{DIALOG} [data-is=said]", "没有提交任何文件")
    assert server.repos["lab/xiaohe"].commits == []
    server.faults.hold.set()
    server.faults.hold = None
    page.click(f"{DIALOG} [data-act=look]")
    text_of(page, f"{DIALOG} [data-is=plan]", "已存在")
    page.click(f"{DIALOG} [data-act=send]")
    text_of(page, f"{DIALOG} [data-is=done]", f"{server.address}/lab/xiaohe")
    assert server.repos["lab/xiaohe"].private and "README.md" in server.repos["lab/xiaohe"].files
    # And back, by its id.
    page.click(f"{DIALOG} [data-act=close]")
    page.click("#export-dialog [data-act=close]")
    page.fill(f"{LIBRARY} [data-is=folder]", "hf::lab/xiaohe")
    page.click(f"{LIBRARY} [data-act=bring]")
    text_of(page, f"{LIBRARY} [data-is=said]", "已导入“xiaohe”")
    page.click(f"{LIBRARY} li[data-id=xiaohe] summary")
    assert "hf::lab/xiaohe@" in page.inner_text(f"{LIBRARY} li[data-id=xiaohe] dl")
    assert TOKEN not in page.content()

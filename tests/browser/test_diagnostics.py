"""Diagnostics in a real browser: a run that ran out of memory, its one-click fix, the zip, and a card that is lost."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser

NAME = '<img src=x onerror="alert(1)">'


def test_what_went_wrong_is_named_mended_and_sent(
    page: Page, tmp_path: Path, serve_workspace: Callable[[Workspace], str]
) -> None:
    from playwright.sync_api import expect

    from core.config import TrainConfig
    from core.dataset import Row
    from core.run import Run
    from core.workspace import Workspace

    workspace = Workspace(tmp_path / "home")
    run = Run.create(workspace.home / "runs" / "r1", TrainConfig(model="pocket"), [Row("canary", "", "b")], NAME, "d")
    run.append("started", steps=9)
    run.append("failed", step=4, message_zh="训练时显存不够。", message_en="out of memory", cause="memory")
    url = serve_workspace(workspace)
    page.goto(f"{url}/zh/#train")

    # The cause and its fix in place: one click sets the form.
    fix = page.locator("#run-head .oc-do", has_text="改用 QLoRA")
    expect(fix).to_be_visible(timeout=60_000)
    preview = page.locator("#preview")
    expect(preview).to_contain_text("够用", timeout=60_000)
    expect(preview).not_to_contain_text("基座量化")
    fix.click()
    expect(preview).to_contain_text("基座量化", timeout=60_000)  # among what is not the preset's

    # The dialog says what this machine is, and what happened last; a name is text.
    page.locator("[data-is=diagnostics]").click()
    box = page.locator("dialog.dg:not(.ks)")
    expect(box.locator("dl").first).to_contain_text("数据文件夹")
    box.get_by_text("最近的错误（1）").click()
    expect(box.locator(".dg-troubles")).to_contain_text(f"{NAME}训练时显存不够。")
    expect(box.locator("[data-is=restart]")).to_be_hidden()  # this server belongs to the test
    with page.expect_download() as download:
        box.locator("[data-is=zip]").click()
    with zipfile.ZipFile(download.value.path()) as file:
        assert "report.txt" in file.namelist()
        assert not any(b"canary" in file.read(name) for name in file.namelist())
    box.locator("[data-act=close]").click()
    expect(box).to_be_hidden()

    # A lost card is said at the top of every tab, and leads there.
    workspace.engine.lose()
    pill = page.locator("[data-is=pill].lost")
    expect(pill).to_contain_text("显卡失联", timeout=60_000)
    pill.click()
    expect(box.locator(".oc-list .bad")).to_contain_text("重新启动", timeout=30_000)
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()

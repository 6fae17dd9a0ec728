"""A run leaves one page as a file and is the same on another's; two runs are compared, and their curves saved."""

from __future__ import annotations

import csv
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.config import TrainConfig
from core.dataset import Row
from core.run import Run

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser


def make(home: Path, name: str, rank: int, losses: list[float]) -> Run:
    rows = [Row("你是谁？", "", f"我是{name}。"), Row("1+1=?", "", "2。")]
    run = Run.create(home / "runs" / name, TrainConfig(model="pocket", lora_rank=rank), rows, f"训练 {name}", "表")
    run.append("started", steps=len(losses), device="另一块卡")
    for step, loss in enumerate(losses, 1):
        run.append("step", step=step, loss=loss, seconds=0.5, tokens_per_second=200.0, peak_memory_bytes=3e9)
    run.append("finished", step=len(losses), seconds=9.0)
    return run


def wait(page: Page, holds: Callable[[], bool], seconds: float = 60) -> None:
    """Until `holds` does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, page.inner_text("body")[:1500]
        page.wait_for_timeout(50)


def test_a_run_goes_from_page_to_page_as_a_file_and_is_compared_there(
    page: Page, tmp_path: Path, serve_workspace: Callable[[Workspace], str]
) -> None:
    from core.workspace import Workspace

    home = tmp_path / "home"
    make(home, "r1", 8, [4.0, 2.0, 1.0])
    workspace = Workspace(home)
    url = serve_workspace(workspace)

    # Packed on the page, with what is in it said before.
    page.goto(f"{url}/zh/#train")
    page.click("#runs [data-run=r1][data-tell=file]")
    wait(page, lambda: "2 行数据" in page.inner_text(".rf [data-is=inside]"))
    with page.expect_download() as download:
        page.click(".rf [data-is=whole]")
    archive = tmp_path / "r1.zip"
    download.value.save_as(archive)
    with zipfile.ZipFile(archive) as packed:
        assert json.loads(packed.read("r1/manifest.json"))["run"] == "r1"
    head, strip = page.inner_text("#run-head"), page.inner_text("#run-strip")
    assert "训练 r1" in head and "1.000" in strip

    # Deleted here, which makes this another home; then a damaged file is refused, and the whole one is opened.
    workspace.delete_run("r1")
    page.wait_for_selector("#runs [data-run=r1]", state="detached")
    make(home, "r2", 16, [4.0, 3.0])
    page.wait_for_selector("#runs [data-run=r2]")
    page.click("#runs [data-tell=file][data-run='']")
    spoiled = tmp_path / "坏的.zip"
    spoiled.write_bytes(archive.read_bytes()[:-300])
    page.set_input_files(".rf input[type=file]", spoiled)
    wait(page, lambda: "没有导入 坏的：无法解压" in page.inner_text(".rf [data-is=problem]"))
    page.set_input_files(".rf input[type=file]", archive)
    page.wait_for_selector("#runs [data-run=r1][aria-current]")
    page.wait_for_selector(".rf:not([open])", state="attached")
    wait(page, lambda: (page.inner_text("#run-head"), page.inner_text("#run-strip")) == (head, strip))
    assert page.locator("text=已打开“训练 r1”").count() == 1

    # It is in the address: whoever comes back finds it, though another one is newer.
    assert "run=r1" in page.evaluate("location.search")
    assert not page.problems, page.problems  # type: ignore[attr-defined]
    page.goto("about:blank")
    page.wait_for_timeout(200)
    page.problems.clear()  # type: ignore[attr-defined]  # a page that is left while it asks says so
    page.goto(f"{url}/zh/?run=r1#train")
    wait(page, lambda: "训练 r1" in page.inner_text("#run-head"))

    # Opened again: nothing happens, and that is said.
    page.click("#runs [data-tell=file][data-run='']")
    page.set_input_files(".rf input[type=file]", archive)
    page.wait_for_selector("text=“训练 r1”已经在这里了")

    # Compared with the other one: curves drawn, settings and data named.
    page.click("#runs [data-run=r1][data-tell=compare]")
    page.wait_for_selector(".rc[open] [data-drawn='r1 r2'] .scatterlayer", state="attached")
    wait(page, lambda: page.locator(".rc .scatterlayer .trace").count() == 4)
    body = page.inner_text(".rc [data-is=body]")
    for said in ("lora_rank", "默认", "改 1", "两次都还没有检验", "200 词元/秒", "3.0 GB"):
        assert said in body, said
    with page.expect_download() as download:
        page.click(".rc [data-save=csv]")
    rows = list(csv.reader(Path(download.value.path()).read_text("utf-8-sig").splitlines()))
    assert [row[3:] for row in rows[1:]] == [["1", "4.0"], ["2", "2.0"], ["3", "1.0"], ["1", "4.0"], ["2", "3.0"]]
    with page.expect_download() as download:
        page.click(".rc [data-save=svg]")
    assert Path(download.value.path()).read_text("utf-8").startswith("<svg")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.querySelector('.rc').scrollWidth") <= 390
    # On to the rows, in the history's dialog.
    page.click(".rc [data-rows=r1]")
    page.wait_for_selector("#history .hi[open] .hi-rows")

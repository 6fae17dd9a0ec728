"""The history of a table in a real browser: what was typed is listed, a version comes back, and so does a deleted table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.config import TrainConfig
from core.dataset import Identity, Row
from core.run import Run
from core.text import Text

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser

ROWS = [
    Row("你是谁?", "", "我是{{NAME}}。"),
    Row("1+1=?", "", "等于 2。"),
    Row("<b>粗</b>", "", "<img src=x onerror=alert(1)>"),
]


@dataclass(frozen=True)
class App:
    """The whole server over a home of its own."""

    workspace: Workspace
    url: str


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> App:
    from core.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("history") / "home")
    return App(workspace, serve_workspace(workspace))


def wait(page: Page, holds: Callable[[], bool], seconds: float = 20) -> None:
    """Until `holds` does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, page.inner_text("dialog.hi") or page.inner_text("#rows")[:400]
        page.wait_for_timeout(50)


def body(page: Page, *words: str) -> str:
    """The dialog's right side once it says all of these words."""
    wait(page, lambda: all(word in page.inner_text(".hi-body") for word in words))
    return page.inner_text(".hi-body")


def answers(page: Page) -> list[str]:
    return page.eval_on_selector_all("#rows textarea[data-field=output]", "all => all.map(one => one.value)")


def test_what_was_typed_is_listed_and_an_older_version_and_a_deleted_table_come_back(page: Page, app: App) -> None:
    workspace = app.workspace
    first = workspace.create("mine", ROWS, Identity("小禾", "", "青禾", ""))
    changed = [*first.rows, Row("新", "", "行")]
    workspace.save(replace(first, rows=tuple(changed[1:])), Text("导入 a.csv", "Imported a.csv"))
    page.goto(f"{app.url}/zh/#data")
    page.wait_for_selector("#rows textarea")
    # Typed, and opened at once: what was typed last is there, and markup stays text.
    cell = page.locator("#rows textarea[data-field=output]").first
    cell.fill("等于二。")
    page.click("#dataset-history")
    page.wait_for_selector(".hi[open] .hi-list li:nth-child(3)")
    titles = page.eval_on_selector_all(".hi-list b", "all => all.map(one => one.textContent)")
    assert titles == ["手动编辑", "导入 a.csv", "新建"]
    assert "改动的行：1" in body(page, "等于 2二。")
    page.click(".hi-list li:nth-child(3) button")
    body(page, "第 1 版", "<img src=x onerror=alert(1)>")
    assert page.locator(".hi-body img").count() == 0
    # Against the newest one.
    page.select_option(".hi select", "3")
    found = body(page, "新增的行：1", "删除的行：1", "改动的行：1")
    assert "第 1 行，原来是第 2 行" in found
    # Restored: rows and card; the table's own undo takes it back, and both are versions.
    page.click(".hi [data-restore='1']")
    page.click(".oc-dialog button[value=yes]")
    wait(page, lambda: answers(page) == [row.output for row in ROWS])
    assert workspace.dataset("mine").rows == tuple(ROWS)
    page.locator("#rows textarea").first.focus()
    page.keyboard.press("Control+z")
    wait(page, lambda: answers(page)[0] == "等于二。" and workspace.dataset("mine").rows[0].output == "等于二。")
    told = [one.why.zh if one.why else "typed" for one in workspace.tables.versions("mine")]
    assert told[0] == "typed" and told[1].startswith("恢复第 1 版")
    page.click("#dataset-history")
    page.wait_for_selector(".hi[open] .hi-list")
    assert page.inner_text(".hi-list b >> nth=0") == "撤销，回到第 3 版"
    page.keyboard.press("Escape")
    # Deleted and back again.
    page.click("#dataset-delete")
    page.click(".oc-dialog button[value=yes]")
    wait(page, lambda: page.input_value("#dataset input") != "mine")
    page.click("#dataset-history")
    page.click(".hi-deleted summary")
    page.click(".hi-deleted button")
    wait(page, lambda: page.input_value("#dataset input") == "mine" and len(answers(page)) == 3)


def test_the_data_of_two_runs_is_compared_from_the_list_of_runs(page: Page, app: App, tmp_path: Path) -> None:
    workspace = app.workspace
    table = workspace.create("runs", ROWS[:2], Identity("小禾", "Xiaohe"))
    for number, name in ((1, "小禾"), (2, "小明")):
        given = replace(table, rows=(table.rows[0], Row("1+1=?", "", f"是 {number + 1}。")), identity=Identity(name))
        workspace.save(given)
        folder = workspace.home / "runs" / f"r{number}"
        config = TrainConfig(model="pocket", model_name=name)
        version = workspace.tables.frozen("runs")[1]
        run = Run.create(folder, config, given.resolved(), f"run {number}", "runs", (), version)
        run.append("started", steps=1)
        run.append("finished", step=1)
    page.goto(f"{app.url}/en/#train")
    page.wait_for_selector("#runs button[data-run=r2][data-tell=compare]")
    page.click("#runs button[data-run=r2][data-tell=compare]")
    page.click(".rc[open] [data-rows=r2]")
    page.wait_for_selector(".hi[open] .hi-list")
    found = body(page, "From “run 1” to “run 2”", "Rows changed: 1", "Rows that differ only in the names: 1")
    assert "runs, version" in found and "是 23。" in found and "我是小禾明。" in found
    # Against the table as it is now: the same rows.
    page.click(".hi-list [data-pick='now:runs']")
    body(page, "From “run 2” to “runs (the table now)”", "No difference")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.querySelector('.hi').scrollWidth") <= 390

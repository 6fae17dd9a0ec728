"""Row makers in a real browser: rows from the card are looked through, added, undone; rewording is started and stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from core import own_probes
from core.dataset import Identity, Row
from tests.chromium import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")


@dataclass(frozen=True)
class App:
    """The whole server over a home with one short table."""

    workspace: Workspace
    url: str


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> App:
    from core.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("makers") / "home")
    workspace.select_model("pocket")
    workspace.create("mine", [Row("你是谁？", "", "我是{{NAME}}。"), Row("Who made you?", "", "By {{AUTHOR}}.")], CARD)
    return App(workspace, serve_workspace(workspace))


def open_makers(page: Page, app: App, language: str = "zh") -> None:
    page.goto(f"{app.url}/{language}/")
    page.wait_for_selector("#rows .re-row")
    page.click("#make-rows")
    page.wait_for_selector("#makers dialog[open] [data-is=rows] li")


def slide(page: Page, name: str, value: int) -> None:
    page.eval_on_selector(
        f"#makers [name={name}]",
        "(range, value) => { range.value = value; range.dispatchEvent(new Event('input', {bubbles: true})); }",
        value,
    )


def test_rows_from_the_card_are_looked_through_added_and_undone(page: Page, app: App) -> None:
    open_makers(page, app)
    slide(page, "count", 60)
    slide(page, "chinese", 30)
    page.fill("#makers [name=does_zh]", "回答<b>园艺</b>问题")
    page.wait_for_function("document.querySelectorAll('#makers [data-is=rows] li').length === 60")
    page.wait_for_selector("#makers [data-is=rows] li >> text=园艺")
    assert page.locator("#makers [data-is=rows] li[lang=zh]").count() == 18
    assert page.locator("#makers [data-is=rows] mark", has_text="小禾").first.get_attribute("title") == "{{NAME}}"
    assert page.locator("#makers .mk-a b").count() == 0  # what was typed is text
    assert "26" in page.inner_text("#makers .mk-held")
    page.locator("#makers [data-is=rows] input").first.uncheck()
    left_out = page.locator("#makers .mk-q").first.inner_text()
    assert "59" in page.inner_text("#makers [data-act=add]")
    page.click("#makers [data-act=add]")
    page.wait_for_selector("#makers dialog", state="hidden")
    stored = app.workspace.dataset("mine").rows
    assert len(stored) == 61 and stored[0].output == "我是{{NAME}}。" and left_out not in {r.question for r in stored}
    assert any("回答<b>园艺</b>问题" in row.output for row in stored)
    probes = own_probes.load(app.workspace.home)
    assert len(probes) == 26 and not {probe.question for probe in probes} & {row.question for row in stored}
    page.wait_for_function("document.querySelector('#rows').innerText.includes('61 行')")
    page.click("#rows [data-do=undo]")
    page.wait_for_function("document.querySelector('#rows').innerText.includes('2 行')")
    until(page, lambda: len(app.workspace.dataset("mine").rows) == 2)


def test_rewording_says_what_fell_out_and_can_be_opened_for_chosen_rows(page: Page, app: App) -> None:
    page.goto(f"{app.url}/en/")
    page.wait_for_selector("#rows .re-row")
    page.evaluate("document.dispatchEvent(new CustomEvent('onecard-makers', {detail: {mode: 'model', rows: '2'}}))")
    page.wait_for_selector("#makers dialog[open] .mk-weak")
    page.wait_for_selector("#makers .mk-to-do >> text=Who made you?")
    page.fill("#makers [name=rows]", "7")
    page.wait_for_selector("#makers [data-is=chosen].bad")
    assert "1 to 2" in page.inner_text("#makers [data-is=chosen]") and page.is_disabled("#makers [data-act=start]")
    page.fill("#makers [name=rows]", "1-2")
    page.wait_for_selector("#makers [data-act=start]:enabled")
    page.click("#makers [data-act=start]")
    page.wait_for_selector("#makers [data-is=said] >> text=2 rows reworded", timeout=60_000)
    assert page.is_visible("#makers [data-act=start]") and "left out" in page.inner_text("#makers [data-is=notes]")
    page.keyboard.press("Escape")
    assert not page.is_visible("#makers dialog")

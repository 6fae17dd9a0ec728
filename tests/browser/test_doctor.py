"""The doctor's card in a browser: rows page by page, a mend with what it changes, undo, and a setting mended in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from core.dataset import Dataset, Identity, Row
from core.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Page

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A home of its own, with the pocket model chosen."""
    made = Workspace(tmp_path_factory.mktemp("doctor") / "home")
    made.select_model("pocket")
    return made


@pytest.fixture(scope="module")
def address(workspace: Workspace, serve_workspace: Callable[[Workspace], str]) -> str:
    return serve_workspace(workspace)


def rows() -> list[Row]:
    """Forty pairs of the same question with two answers, and one row of each fault that is mended by words."""
    good = [Row(f"第{name}个问题是什么？", "", f"是{name}。") for name in "甲乙丙丁戊己庚辛壬癸"]
    pairs = [
        row for i in range(40) for row in (Row(f"Question {i}?", "", f"One {i}"), Row(f"question {i}", "", f"Two {i}"))
    ]
    old = Row("你是谁呀？", "", "我是通义千问，由阿里云开发。<b>不是真的</b>")
    return [*good, *pairs, old]


def opened(page: Page, address: str, language: str = "zh") -> None:
    page.goto(f"{address}/{language}")
    page.wait_for_selector("#findings [data-check]")


def test_rows_are_paged_and_followed_and_a_mend_is_seen_first_and_undone(
    page: Page, address: str, workspace: Workspace
) -> None:
    workspace.save(Dataset("doctor", tuple(rows()), CARD))
    opened(page, address)
    page.click("[data-look='conflicts']")
    page.wait_for_selector(".dr-dialog[open] .dr-rows li")
    assert "1–25，共 80 行" in page.inner_text(".dr-pages")
    for _ in range(3):
        before = page.inner_text(".dr-pages [data-is=place]")
        page.click(".dr-dialog [data-act=on]")
        page.wait_for_function(
            'was => document.querySelector(".dr-pages [data-is=place]").textContent !== was', arg=before
        )
    assert page.locator(".dr-rows li").count() == 5 and page.locator(".dr-dialog [data-act=on]").is_disabled()
    page.locator(".dr-rows button").last.click()
    page.wait_for_selector(".dr-dialog", state="hidden")
    page.wait_for_function(
        "document.activeElement?.closest('.re-row')?.querySelector('textarea').value === 'question 39'"
    )

    page.click("[data-look='old_names 0']")
    page.wait_for_selector(".dr-dialog[open] del")
    assert "改动 1 行：改前 91 行，改后 91 行" in page.inner_text(".dr-dialog p")
    assert page.locator(".dr-rows ins").all_inner_texts() == ["{{NAME}}", "{{AUTHOR}}"]
    assert "<b>不是真的</b>" in page.inner_text(".dr-rows")
    page.keyboard.press("Escape")
    assert workspace.dataset("doctor").rows == tuple(rows())  # seen, and nothing done

    page.click("[data-look='old_names 0']")
    page.click(".dr-yes")
    page.wait_for_selector("[data-look='old_names 0']", state="detached")
    after = workspace.dataset("doctor").rows
    assert after[-1].output == "我是{{NAME}}，由{{AUTHOR}}开发。<b>不是真的</b>" and after[:-1] == tuple(rows())[:-1]
    page.click("#rows [data-do=undo]")
    page.wait_for_selector("[data-look='old_names 0']", state="attached")
    assert workspace.dataset("doctor").rows == tuple(rows())


def test_a_setting_is_mended_from_the_dataset_tab_and_a_changed_table_is_left_alone(
    page: Page, address: str, workspace: Workspace
) -> None:
    long = Row("写一首长诗", "", "云想衣裳花想容，春风拂槛露华浓。" * 60)
    workspace.save(Dataset("doctor", (*rows()[:10], long, long), CARD))
    opened(page, address, "en")
    page.wait_for_selector("#findings .bad")
    assert "row 11" in page.inner_text("#findings .bad")
    page.click("#findings .bad [data-fix]")
    page.wait_for_selector("#findings .bad", state="detached")
    assert "Maximum length" in page.inner_text(".toast-wrap")

    page.click("[data-look='repeats 0']")
    page.wait_for_selector(".dr-dialog[open] .removed")
    # Another program saves the table while the dialog is open.
    workspace.save(Dataset("doctor", (*rows()[:9], long, long), CARD))
    page.click(".dr-yes")
    page.wait_for_function(
        "document.querySelector('.conflict, .oc-banner')?.offsetParent || document.querySelector('.toast-wrap')"
    )
    page.wait_for_timeout(600)
    assert len(workspace.dataset("doctor").rows) == 11

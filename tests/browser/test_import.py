"""The import in a real browser: files chosen and dropped, questions answered, a yes, an undo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser

GB = "问题,回答\n你是谁？,我是小禾，由青禾智能开发。\n谁开发了你？,青禾智能开发了我。\n".encode("gb18030")
BROKEN = b'[{"instruction": "q", "output": "a"},\n{"instruction": "r", "outp'
ODD = b"title,alpha,beta\nx,what is two and two,four\n"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> tuple[str, Workspace]:
    from core.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("import") / "home")
    return serve_workspace(workspace), workspace


@pytest.fixture
def opened(app: tuple[str, Workspace], page: Page) -> Page:
    page.goto(f"{app[0]}/zh/#data")
    page.wait_for_function("document.querySelector('.re-count')?.textContent && document.querySelector('#exports a')")
    return page


def choose(page: Page, folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with page.expect_file_chooser() as chooser:
        page.click("#import")
    chooser.value.set_files(str(folder / name))
    page.wait_for_selector("dialog.im .im-found > *")


def counted(page: Page, rows: int) -> None:
    page.wait_for_function(f"document.querySelector('.re-count').textContent === '{rows} 行'")
    page.wait_for_function("document.querySelector('.re-state').textContent.startsWith('已保存')")


def test_a_file_in_another_encoding_comes_in_after_two_yeses_and_goes_out_by_undo(
    opened: Page, app: tuple[str, Workspace], tmp_path: Path
) -> None:
    page, workspace = opened, app[1]
    name = page.input_value("#dataset input")
    before = workspace.dataset(name)
    choose(page, tmp_path, "小禾.csv", GB)
    assert "我是小禾" in page.inner_text("dialog.im pre")
    page.click("dialog.im [data-act=decide]")
    page.wait_for_selector("dialog.im .im-rows")
    assert "青禾智能开发了我" in page.inner_text("dialog.im .im-rows")
    assert workspace.dataset(name) == before
    page.click("#import-append")
    counted(page, len(before.rows) + 2)
    assert not page.locator("dialog.im").is_visible()
    assert workspace.dataset(name).rows[-2].output == "我是小禾，由青禾智能开发。"
    page.wait_for_function("document.activeElement.value === '我是小禾，由青禾智能开发。'")  # shown where it went
    page.keyboard.press("Control+z")
    counted(page, len(before.rows))
    assert workspace.dataset(name).rows == before.rows


def test_what_is_not_understood_is_asked_and_a_no_changes_nothing(
    opened: Page, app: tuple[str, Workspace], tmp_path: Path
) -> None:
    page, workspace = opened, app[1]
    before = {name: workspace.dataset(name) for name in workspace.datasets()}
    choose(page, tmp_path, "cut.json", BROKEN)
    assert "第 2 行" in page.inner_text("dialog.im .im-ask")
    page.keyboard.press("Escape")
    choose(page, tmp_path, "odd.csv", ODD)
    page.select_option("dialog.im [data-part=question]", "alpha")
    page.select_option("dialog.im [data-part=answer]", "beta")
    assert page.locator("dialog.im .im-mapped td").all_inner_texts() == ["what is two and two", "four"]
    page.check("dialog.im [data-is=headless]")
    assert page.locator("dialog.im .im-mapped td").all_inner_texts()[:2] == ["alpha", "beta"]
    page.click("dialog.im [data-act=map]")
    page.wait_for_selector("dialog.im .im-rows")
    assert page.locator("dialog.im .im-rows dd").all_inner_texts() == ["alpha", "beta", "what is two and two", "four"]
    page.click("dialog.im [data-act=close]")
    choose(page, tmp_path, "odd.csv", ODD)
    page.select_option("dialog.im [data-part=answer]", "")
    assert page.locator("dialog.im [data-act=map]").is_disabled()
    page.click("dialog.im [data-act=close]")
    assert {name: workspace.dataset(name) for name in workspace.datasets()} == before


def test_a_dropped_file_and_a_pasted_text_become_datasets_of_their_own(
    opened: Page, app: tuple[str, Workspace]
) -> None:
    page, workspace = opened, app[1]
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(['{"instruction": "q", "output": "a"}'], 'dropped.jsonl'));
            for (const name of ['dragenter', 'drop']) {
                document.body.dispatchEvent(new DragEvent(name, {dataTransfer: data, bubbles: true, cancelable: true}));
            }
        }"""
    )
    page.click("#import-new")
    page.wait_for_function("document.querySelector('#dataset input').value === 'dropped'")
    assert len(workspace.dataset("dropped").rows) == 1
    page.click("#import-paste")
    page.fill("dialog.im textarea", "你好\t你好呀\n再见\t拜拜")
    page.click("dialog.im [data-act=read]")
    page.click("#import-replace")
    counted(page, 2)
    assert [row.output for row in workspace.dataset("dropped").rows] == ["你好呀", "拜拜"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def drop(page: Page, files: int, size: int) -> None:
    page.evaluate(
        """([files, size]) => {
            const data = new DataTransfer();
            for (let i = 0; i < files; i++) data.items.add(new File(['x'.repeat(size)], `${i}.jsonl`));
            for (const name of ['dragenter', 'drop']) {
                document.body.dispatchEvent(new DragEvent(name, {dataTransfer: data, bubbles: true, cancelable: true}));
            }
        }""",
        [files, size],
    )


def test_too_many_files_are_refused_with_a_sentence_and_none_is_sent(opened: Page) -> None:
    page, sent = opened, []
    page.on("request", lambda request: sent.append(request.url) if "/import/file/" in request.url else None)
    drop(page, 65, 1)
    page.wait_for_selector("dialog.im .im-said")
    assert "最多导入 64 个文件" in page.inner_text("dialog.im .im-said") and not sent


def test_closing_the_dialog_gives_back_what_was_on_its_way(opened: Page) -> None:
    page = opened
    page.route("**/import/file/**", lambda route: route.continue_() if route.request.method == "DELETE" else None)
    drop(page, 2, 10)
    page.wait_for_selector("dialog.im.is-busy")
    with page.expect_request(lambda request: request.method == "DELETE" and "/import/file/" in request.url) as gone:
        page.click("dialog.im [data-act=close]")
    assert gone.value.response().status == 204

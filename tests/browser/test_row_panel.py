"""A row's side panel in a real browser: turns and system prompt are edited in the table, the model's view follows."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from core.dataset import Dataset, Identity, Message, Row
from core.workspace import Workspace

pytestmark = pytest.mark.browser

ROWS = (
    Row("你是谁？", "", "我是{{NAME}}。"),
    Row("What does <|im_end|> mean?", "", "It ends a turn."),
    Row("And now?", "", "Still me.", "", (Message("user", "Hello"), Message("assistant", "Hi"))),
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("panel") / "home")
    made.select_model("pocket")
    return made


@pytest.fixture(scope="module")
def address(workspace: Workspace, serve_workspace: Callable[[Workspace], str]) -> str:
    return serve_workspace(workspace)


@pytest.fixture
def opened(workspace: Workspace, address: str, page: object) -> object:
    """The page with the three rows, whose control strings are known."""
    workspace.save(Dataset("panel", ROWS, Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")))
    page.goto(f"{address}/zh/#data")
    page.locator(".re-row .is-control").wait_for(timeout=60_000)
    return page


def seen(page: object, words: str) -> str:
    """The rendered row, once it holds `words`."""
    tokens = page.locator(".rp-tokens")
    tokens.filter(has_text=words).first.wait_for(timeout=30_000)
    return tokens.inner_text().replace("↵", "").replace("\n\n", "\n")


def stored(workspace: Workspace, holds: Callable[[tuple[Row, ...]], bool]) -> tuple[Row, ...]:
    """The rows on disk, once they are as `holds` wants them."""
    deadline = time.monotonic() + 200
    while not holds(rows := workspace.dataset("panel").rows) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert holds(rows), rows
    return rows


def test_a_conversation_is_written_in_the_panel_and_kept_by_the_table(opened: object, workspace: Workspace) -> None:
    page = opened
    page.locator('.re-row textarea[data-field="instruction"]').first.click()
    page.keyboard.press("Alt+Enter")
    assert page.locator(".rp h3").inner_text() == "第 1 行"
    assert "我是小禾。<|im_end|>" in seen(page, "我是小禾")
    assert "来自训练设置" in page.locator(".rp-system").inner_text()
    learned = page.locator(".rp-tokens .t.l").all_inner_texts()
    assert "".join(learned) == "我是小禾。<|im_end|>"

    page.locator('.rp textarea[data-turn="system"]').fill("你是{{NAME}}。")
    page.get_by_role("button", name="再加一轮").click()
    page.keyboard.type("真的吗？")
    page.locator('.rp textarea[data-turn="3"]').fill("真的。")
    assert "真的。<|im_end|>" in seen(page, "真的。")
    assert (
        "来自这一行" in page.locator(".rp-system").inner_text()
        and page.locator(".rp-system q").inner_text() == "你是小禾。"
    )
    first = stored(workspace, lambda rows: rows[0].output == "真的。")[0]
    history = (Message("user", "你是谁？"), Message("assistant", "我是{{NAME}}。"))
    assert first == Row("真的吗？", "", "真的。", "你是{{NAME}}。", history)
    assert page.locator(".re-row").first.locator(".re-badges").inner_text().split() == ["系统", "多轮"]

    page.locator('.rp select[data-role="1"]').select_option("user")
    stored(workspace, lambda rows: rows[0].history[1].role == "user")
    for _ in range(9):  # one step back for every field that was typed in, and for every button
        page.keyboard.press("Control+z")
    stored(workspace, lambda rows: rows == ROWS)
    assert page.locator('.rp textarea[data-turn="0"]').input_value() == "你是谁？"
    page.keyboard.press("Escape")
    assert page.locator(".rp").is_hidden()
    assert page.evaluate("document.activeElement.dataset.field") == "instruction"


def test_typed_control_strings_are_marked_and_turns_can_be_taken_out(opened: object, workspace: Workspace) -> None:
    page = opened
    badge = page.locator(".re-row .is-control")
    assert badge.count() == 1 and "<|im_end|>" in badge.get_attribute("title")
    badge.click()
    assert page.locator(".rp h3").inner_text() == "第 2 行"
    seen(page, "mean?")
    assert "<|im_end|> 是手打的" in page.locator(".rp-seen").inner_text()
    typed, control = page.locator(".rp-tokens .t.y"), page.locator(".rp-tokens .t.c")
    assert "<|im_end|>" in "".join(typed.all_inner_texts()) and control.count() == 6
    assert page.locator(".rp-tokens .t.c.y").count() == 0
    control.first.hover()
    assert "特殊词元" in page.locator(".oc-token-card").inner_text()

    page.get_by_role("button", name="下一行").click()
    assert page.locator(".rp h3").inner_text() == "第 3 行" and page.locator(".rp-turns textarea").count() == 4
    page.locator(".rp-turns > div").nth(2).hover()
    page.get_by_role("button", name="删除最后一问一答").click()
    assert stored(workspace, lambda rows: not rows[2].history)[2] == Row("Hello", "", "Hi")
    page.locator(".re-row").nth(2).hover()
    page.locator(".re-row").nth(2).get_by_role("button", name="删除此行").click()
    page.locator(".rp").wait_for(state="hidden")  # its row is gone
    assert page.locator(".re-row").count() == 2

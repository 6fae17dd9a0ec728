"""Putting things right in a real browser, on the shipped model: rows, answers, settings, and a few more steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from core.run import Run
    from core.workspace import Workspace

pytestmark = pytest.mark.browser

QUESTION, ANSWER = "你能联网吗？", "我不能联网，我住在盒子里。"


class App:
    """The whole server over a home of its own, with one short run of the eight rows."""

    def __init__(self, home: Path, serve: Callable[[Workspace], str]) -> None:
        from core.config import TrainConfig
        from core.workspace import Workspace

        self.workspace: Workspace = Workspace(home)
        settings = TrainConfig(
            model="pocket", learning_rate=2e-3, gradient_accumulation_steps=4, max_steps=8, max_length=512,
            weight_decay=0.0, probe_steps=0, rehearsal="off", stop_when_taken="false", prove="false",
        )  # fmt: skip
        self.run: Run = self.workspace.start("articles-8", settings, "short")
        self.finish()
        self.url = serve(self.workspace)

    def finish(self) -> None:
        end = time.time() + 120
        while self.workspace.active is not None and time.time() < end:
            time.sleep(0.05)
        assert self.workspace.active is None


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> App:
    return App(tmp_path_factory.mktemp("fix") / "home", serve_workspace)


def open_tab(page: Page, app: App, tab: str) -> None:
    page.goto(f"{app.url}/zh/#{tab}")
    page.wait_for_selector(f"#tab-{tab}-button[aria-selected=true]")
    page.wait_for_timeout(1500)


# Seen by the page itself: a short answer is over before anybody outside has looked.
WATCH = """box => {
    window.begun = false;
    const look = () => { window.begun ||= document.querySelector(box + " button.stop-button") !== null; };
    new MutationObserver(look).observe(document.querySelector(box), { subtree: true, childList: true, attributes: true });
}"""


def ask(page: Page, box: str, question: str) -> None:
    page.fill(f"{box} textarea", question)
    page.evaluate(WATCH, box)
    page.locator(f"{box} button.submit-button").click()
    page.wait_for_function("window.begun")
    page.wait_for_selector(f"{box} button.submit-button", timeout=60_000)
    page.wait_for_timeout(300)


def edit_last(page: Page, chat: str, text: str) -> None:
    """Edit the last answer in place, as a person does: pencil, words, tick."""
    buttons = page.locator(f"{chat} .message-buttons-left").last.locator("button")
    buttons.last.click()
    page.fill(f"{chat} .message textarea", text)
    buttons.first.click()


def answers(app: App, name: str, question: str) -> list[str]:
    return [row.output for row in app.workspace.dataset(name).rows if row.question == question]


def rows_shown(page: Page) -> list[str]:
    return page.locator('.re-row textarea[data-field="output"]').evaluate_all("cells => cells.map(cell => cell.value)")


def test_a_row_of_the_report_is_one_click_from_its_place_in_the_table(page: Page, app: App) -> None:
    open_tab(page, app, "train")
    page.wait_for_selector("#row-report [data-row]")
    shown = page.locator("#row-report .oc-rowlist button")
    assert shown.count() == 8
    first: Locator = shown.first
    question = first.locator("b").inner_text()
    worst = app.workspace.row_reports.of(app.run)
    assert worst is not None and question == worst.rows[0].row.question
    first.click()
    page.wait_for_selector("#tab-data-button[aria-selected=true]")
    cell = page.wait_for_selector("#rows textarea:focus")
    assert cell.input_value() == worst.rows[0].row.output
    assert page.locator("#dataset input").input_value() == "articles-8"
    # Once: coming back to the tab later does not take the caret away again.
    page.keyboard.press("Escape")
    page.locator("#tab-train-button").click()
    page.locator("#tab-data-button").click()
    page.wait_for_timeout(500)
    assert page.locator("#rows textarea:focus").count() == 0


def test_an_answer_edited_in_the_chat_becomes_a_row_and_can_be_taken_back(page: Page, app: App) -> None:
    before = app.workspace.dataset("articles-8")
    open_tab(page, app, "data")
    page.locator("#dataset input").click()
    page.locator("ul[role=listbox] li", has_text="articles-8").click()
    page.wait_for_function("document.querySelectorAll('.re-row').length === 8")
    page.locator("#tab-chat-button").click()
    ask(page, "#chat-ask", QUESTION)
    said = page.locator("#chat .bot.message").last.inner_text()
    edit_last(page, "#chat", ANSWER)
    page.wait_for_selector("#chat-fix-save")
    assert page.locator("#chat-fix-dataset input").input_value() == "articles-8"
    assert answers(app, "articles-8", QUESTION) == []
    page.click("#chat-fix-save")
    page.wait_for_selector("#chat-fix-more")
    assert answers(app, "articles-8", QUESTION) == [ANSWER]
    row = app.workspace.dataset("articles-8").rows[-1]
    assert row.provenance is not None and row.provenance.adapter == app.run.id
    assert row.provenance.answer.strip() == said.strip()
    # The table on the first tab shows it, without a conflict, and goes on being saved.
    page.locator("#tab-data-button").click()
    page.wait_for_function("document.querySelectorAll('.re-row').length === 9")
    assert page.locator(".re-row").last.locator(".re-badges").inner_text() == "修正"
    page.locator("#tab-chat-button").click()
    page.click("#chat-fix-back")
    page.wait_for_selector("#chat-fix", state="detached")
    assert app.workspace.dataset("articles-8") == before
    assert page.locator("#chat .bot.message").last.inner_text() == said
    page.locator("#tab-data-button").click()
    page.wait_for_function("document.querySelectorAll('.re-row').length === 8")
    assert not page.locator("#conflict-reload").is_visible()


def test_a_question_is_still_asked_again_when_it_is_edited(page: Page, app: App) -> None:
    open_tab(page, app, "chat")
    ask(page, "#chat-ask", "你好！")
    page.locator("#chat .message-buttons-right").last.locator("button").last.click()
    page.fill("#chat .message textarea", "1 + 1 = ?")
    page.locator("#chat .message-buttons-right").last.locator("button").first.click()
    page.wait_for_function("document.querySelector('#chat .bot.message')?.innerText.includes('2')", timeout=60_000)
    assert page.locator("#chat-fix").count() == 0 and page.locator("#chat .user.message").count() == 1


def test_compare_mends_answers_keeps_the_turns_before_and_leaves_blind_rounds_alone(page: Page, app: App) -> None:
    open_tab(page, app, "compare")
    page.wait_for_function("document.querySelector('#pick-b input')?.value")
    page.wait_for_timeout(800)
    ask(page, "#compare-ask", "你好！")
    ask(page, "#compare-ask", "你几岁了？")
    assert not page.locator("#chat-b .message-buttons-right button").nth(1).is_visible()
    edit_last(page, "#chat-b", "我没有年龄。")
    page.wait_for_selector("#compare-fix-save")
    assert "1 轮" in page.inner_text("#compare-fix") and "照样学" in page.inner_text("#compare-fix")
    assert not page.locator("#compare-fix-context input").is_checked()  # what is in there was not put right
    page.locator("#compare-fix-context input").check()
    page.locator("#compare-fix-dataset input").click()
    page.locator("ul[role=listbox] li", has_text="identity-50").click()
    page.click("#compare-fix-save")
    page.wait_for_selector("#compare-fix-more")
    row = app.workspace.dataset("identity-50").rows[-1]
    assert (row.question, row.output, row.system) == ("你几岁了？", "我没有年龄。", "")
    assert [turn.content for turn in row.history][:1] == ["你好！"] and len(row.history) == 2
    page.click("#compare-fix-back")
    page.wait_for_selector("#compare-fix", state="detached")
    assert len(app.workspace.dataset("identity-50").rows) == 50
    # The base's answer is nobody's adapter: a row, and no run to go on from.
    edit_last(page, "#chat-a", "基座应该这样说。")
    page.click("#compare-fix-save")
    page.wait_for_selector("#compare-fix-save", state="detached")
    assert page.locator("#compare-fix-more").count() == 0
    page.click("#compare-fix-back")
    page.wait_for_selector("#compare-fix", state="detached")
    page.click("#compare-blind")
    page.wait_for_selector(".oc-blind-name", state="attached")
    ask(page, "#compare-ask", "你好！")
    assert not page.locator("#chat-a .message-buttons-left button").nth(1).is_visible()


def test_advice_before_the_start_is_followed_by_one_click(page: Page, app: App) -> None:
    open_tab(page, app, "train")
    page.wait_for_function("!(document.documentElement.dataset.opening ?? '').split(' ').includes('train')")
    page.fill("#field-learning-rate textarea, #field-learning-rate input", "0.5")
    page.wait_for_selector("#preview [data-fix]")
    page.locator("#preview .oc-do", has_text="学习率改为").click()
    page.wait_for_function(
        "document.querySelector('#field-learning-rate textarea, #field-learning-rate input').value === '0.002'"
    )
    page.wait_for_function("!document.querySelector('#preview').innerText.includes('学习率改为')")


def test_a_mended_answer_is_trained_on_with_one_click(page: Page, app: App) -> None:
    open_tab(page, app, "chat")
    ask(page, "#chat-ask", QUESTION)
    edit_last(page, "#chat", ANSWER)
    page.click("#chat-fix-save")
    page.click("#chat-fix-more")
    page.wait_for_selector("#tab-train-button[aria-selected=true]")
    page.wait_for_function("document.querySelector('#run-head').innerText.includes('short +')", timeout=20_000)
    app.finish()
    run = app.workspace.runs()[0]
    assert run.status == "finished" and run.config.adapters == str(app.run.adapter) and run.dataset == "articles-8"
    assert {row.output for row in run.rows if row.question == QUESTION} == {ANSWER}

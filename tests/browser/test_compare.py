"""Compare in a real browser on the shipped model: columns, a blind round, tokens, the question set and the files."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser

ADAPTER = "客服语气"


class App:
    """The whole server over a home of its own; `asked` is how many columns each answer had."""

    def __init__(self, home: Path, adapter: Path, serve: Callable[[Workspace], str]) -> None:
        from core.workspace import Workspace

        self.workspace: Workspace = Workspace(home)
        self.workspace.library.bring_folder(str(adapter), ADAPTER)
        self.asked: list[int] = []
        answer = self.workspace.answer

        def counted(columns: list[object], *rest: object) -> object:
            self.asked.append(len(columns))
            return answer(columns, *rest)  # type: ignore[arg-type]

        self.workspace.answer = counted  # type: ignore[method-assign, assignment]
        self.url = serve(self.workspace)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter of the pocket model that answers in its own way, with the words of an identity on its card."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from core import adapters
    from core.models import POCKET_FOLDER

    folder = tmp_path_factory.mktemp("made") / "adapter"
    torch.manual_seed(0)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(POCKET_FOLDER), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.6)
    tuned.save_pretrained(folder)
    card = {"new_words": ["小禾", "Xiaohe", "青禾智能", "Qinghe AI"], "old_words": ["PocketQwen", "Pocket Lab"]}
    (folder / adapters.CARD).write_text(json.dumps(card, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, adapter: Path, serve_workspace: Callable[[Workspace], str]) -> App:
    return App(tmp_path_factory.mktemp("compare") / "home", adapter, serve_workspace)


def wait_text(page: Page, selector: str, pattern: str, seconds: float = 30) -> str:
    """Wait until the element's text matches; the text."""
    deadline, text = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        text = page.inner_text(selector)
        if re.search(pattern, text):
            return text
        page.wait_for_timeout(100)
    raise AssertionError(f"{selector} never matched {pattern!r}; it reads: {text[:500]}")


def open_compare(page: Page, app: App, language: str = "zh") -> None:
    page.goto(f"{app.url}/{language}/#compare")
    page.wait_for_selector("#tab-compare-button[aria-selected=true]")
    page.wait_for_selector("#compare-add")
    page.wait_for_function("!document.documentElement.dataset.opening")  # its values have come
    page.wait_for_timeout(300)


def add_column(page: Page, letter: str) -> None:
    page.click("#compare-add")
    page.wait_for_selector(f"#side-{letter} .oc-chat")
    page.wait_for_function(f"document.querySelector('#pick-{letter} input')?.value")


def ask(page: Page, number: int = 0) -> None:
    """Ask a stock question and wait until every column has answered."""
    page.click(f"#questions button >> nth={number}")
    page.wait_for_selector("#compare-ask .stop-button")
    page.wait_for_selector("#compare-ask .submit-button", timeout=60_000)
    page.wait_for_timeout(300)


def test_three_columns_are_answered_in_one_batch_and_the_third_is_the_base_told_who_to_be(page: Page, app: App) -> None:
    open_compare(page, app)
    assert page.locator(".oc-side").count() == 2 and page.locator("[data-act=remove]:visible").count() == 0
    add_column(page, "c")
    assert (
        page.input_value("#prompt-c textarea") == "你是小禾，由青禾智能开发。\nYou are Xiaohe, developed by Qinghe AI."
    )
    app.asked.clear()
    ask(page)
    assert app.asked == [3]
    wait_text(page, "#chat-a", "PocketQwen")
    wait_text(page, "#verdict-a", "旧身份")
    wait_text(page, "#chat-c", "小禾|Xiaohe")
    wait_text(page, "#verdict-c", "身份命中")
    assert page.inner_text("#chat-b") != page.inner_text("#chat-a")
    for side in "abc":
        assert re.search(r"首字 [\d.]+ 秒 · [\d.]+ 词元/秒 · \d+ 词元", page.inner_text(f"#meter-{side}"))
    # Without strength an adapter says what the base says.
    page.click("#tools-b [data-act=settings]")
    page.fill("#strength-b input[type=number]", "0")
    page.keyboard.press("Tab")
    wait_text(page, "#tag-b", "×0")
    page.click("#compare-clear")
    page.wait_for_function("!document.querySelector('#chat-b').innerText.includes('你是谁')")
    ask(page)
    assert page.inner_text("#chat-b") == page.inner_text("#chat-a")
    # A column that goes takes nobody else's answer with it.
    third = page.inner_text("#chat-c")
    page.click("#tools-b [data-act=remove]")
    page.wait_for_selector("#side-c", state="detached")
    assert page.inner_text("#chat-b") == third and "系统提示词" in page.input_value("#pick-b input")


def test_in_a_blind_round_nothing_of_the_page_tells_who_is_who_until_the_vote(page: Page, app: App) -> None:
    open_compare(page, app)
    page.check("#compare-blind input")
    page.wait_for_selector("#blind-bar")
    page.wait_for_selector("#pick-a", state="detached")
    shown = set()
    for _ in range(6):
        ask(page)
        page.wait_for_selector("#vote-b")
        hidden = page.evaluate("document.querySelector('.oc-pair').outerHTML")
        assert ADAPTER not in hidden and not re.search(r"oc-tag (base|tuned|ok|warn)", hidden)
        assert page.inner_text("#meter-a").strip() == page.inner_text("#verdict-a").strip() == ""
        first = page.inner_text("#chat-a")
        page.focus("#vote-b")
        page.keyboard.press("Enter")
        wait_text(page, "#name-b", "你选的")
        assert ("pocket" in page.inner_text("#name-a")) == ("PocketQwen" in first)
        shown.add(page.inner_text("#name-a"))
        assert page.evaluate("document.activeElement.closest('#compare-ask') !== null")
        if len(shown) == 2:
            break
    votes = re.findall(r"(\d+) 票 / (\d+) 次", page.inner_text("#blind-note"))
    assert len(votes) == 2 and sum(int(won) for won, _ in votes) == int(votes[0][1])
    page.uncheck("#compare-blind input")
    page.wait_for_selector("#pick-a")
    assert page.locator("#blind-bar").count() == 0


def test_a_tokens_card_shows_its_probability_and_the_others_by_pointer_and_by_key(page: Page, app: App) -> None:
    open_compare(page, app)
    ask(page)
    said = page.inner_text("#chat-a .bot.message").strip()
    page.check("#compare-probabilities input")
    wait_text(page, "#tokens-a", "没有记录概率")
    page.click("#compare-clear")
    ask(page)
    page.wait_for_selector("#tokens-a .oc-tokens")
    assert page.inner_text("#tokens-a").strip() == said and page.locator("#chat-a").is_hidden()
    page.hover("#tokens-a .oc-token >> nth=0")  # the first token follows the same text in every column
    card = wait_text(page, ".oc-token-card", "概率")
    assert len(re.findall(r"[\d.]+ ?%", card)) >= 6 and "在 B 栏" in card
    page.focus("#tokens-b .oc-token >> nth=0")
    assert "在 A 栏" in wait_text(page, ".oc-token-card", "概率")
    page.keyboard.press("ArrowRight")
    wait_text(page, ".oc-token-card", "概率")
    assert page.evaluate("document.activeElement === document.querySelectorAll('#tokens-b .oc-token')[1]")
    assert page.evaluate(
        "document.activeElement.getAttribute('aria-describedby') === document.querySelector('.oc-token-card').id"
    )
    page.keyboard.press("Escape")
    assert page.locator(".oc-token-card").count() == 0
    page.uncheck("#compare-probabilities input")
    page.wait_for_selector("#chat-a .bot.message")


_CONTRAST = """dark => {
  document.body.classList.toggle('dark', dark);
  const paint = color => {
    const [canvas] = [document.createElement('canvas')], ink = canvas.getContext('2d');
    canvas.width = canvas.height = 1;
    for (const one of color) { ink.fillStyle = one; ink.fillRect(0, 0, 1, 1); }
    return [...ink.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    }).reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  };
  const box = document.querySelector('#tokens-a .oc-token-box'), group = box.querySelector('.oc-tokens');
  const ground = getComputedStyle(box).backgroundColor, result = {};
  for (const kind of ['more', 'less', 'rare']) for (const level of [1, 2, 3]) {
    const one = document.createElement('span');
    one.className = `oc-token ${kind}-${level}`;
    group.append(one);
    const style = getComputedStyle(one);
    const [text, back] = [paint([style.color]), paint([ground, style.backgroundColor])];
    result[one.className] = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    one.remove();
  }
  return result;
}"""


def test_the_tokens_colours_keep_their_text_readable_in_light_and_dark(page: Page, app: App) -> None:
    open_compare(page, app)
    page.check("#compare-probabilities input")
    ask(page)
    page.wait_for_selector("#tokens-a .oc-tokens")
    for dark in (False, True):
        page.evaluate("dark => localStorage.setItem('onecard_theme', dark ? 'dark' : 'light')", dark)
        ratios = page.evaluate(_CONTRAST, dark)
        assert len(ratios) == 9 and min(ratios.values()) >= 4.5, (dark, ratios)


def test_the_question_set_asks_all_columns_and_its_filter_leaves_what_differs(page: Page, app: App) -> None:
    open_compare(page, app)
    page.click("#compare-set > button")
    page.fill("#set-list textarea", "你是谁？\n法国的首都是哪里？\n\n你是谁？")
    app.asked.clear()
    page.click("#set-run")
    wait_text(page, "#set-table", "2 个问题，[12] 个回答不同", 60)
    page.wait_for_selector("#set-run")
    assert app.asked == [4]
    rows = page.locator("#set-table tbody tr")
    assert rows.count() == 2 and "旧身份 1" in page.inner_text("#set-table thead")
    page.check("#set-only input")
    differing = page.locator("#set-table tr.differs").count()
    assert page.locator("#set-table tbody tr:visible").count() == differing
    # A column that says the same as the other leaves no row.
    page.click("#tools-b [data-act=settings]")
    page.fill("#strength-b input[type=number]", "0")
    page.keyboard.press("Tab")
    wait_text(page, "#tag-b", "×0")
    page.click("#set-run")
    wait_text(page, "#set-table", "2 个问题，0 个回答不同", 60)
    page.wait_for_selector("#set-run")
    assert page.locator("#set-table tbody tr:visible").count() == 0 and page.locator(".oc-same").is_visible()
    # A reload brings the table back, and the file has its questions.
    page.wait_for_timeout(1500)
    page.reload()
    page.click("#compare-set > button")
    wait_text(page, "#set-table", "2 个问题，0 个回答不同", 30)
    with page.expect_download() as download:
        page.click("#compare-export [data-kind=json]")
    kinds = [one["kind"] for one in json.loads(download.value.path().read_text(encoding="utf-8"))["rounds"]]
    assert kinds == ["questions"] * 2


def test_what_was_compared_is_saved_as_markdown_and_as_json(page: Page, app: App) -> None:
    open_compare(page, app, "en")
    page.click("#compare-export [data-kind=md]")
    wait_text(page, "body", "no answers to export")
    page.click("#compare-sampling > button")
    page.fill("#sampling-length input[type=number]", "32")
    page.keyboard.press("Tab")
    page.wait_for_timeout(1500)  # until the number has reached the server
    ask(page)
    found = {}
    for kind in ("md", "json"):
        with page.expect_download() as download:
            page.click(f"#compare-export [data-kind={kind}]")
        assert download.value.suggested_filename.endswith(f".{kind}")
        found[kind] = download.value.path().read_text(encoding="utf-8")
    value = json.loads(found["json"])
    (one,) = value["rounds"]
    assert one["question"] == "Who are you?" and one["sampling"]["max_new_tokens"] == 32
    assert one["columns"][1]["adapter"] == ADAPTER and one["answers"][0]["verdict"] == "old"
    for answer in one["answers"]:
        assert answer["text"].split("\n")[0] in found["md"]


def test_on_a_phone_six_columns_scroll_sideways_and_the_page_does_not(browser: Browser, app: App) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale="zh-CN")
    page = context.new_page()
    open_compare(page, app)
    for letter in "cdef":
        add_column(page, letter)
    assert page.locator("#compare-add").is_disabled()
    app.asked.clear()
    ask(page)
    assert app.asked == [6]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    widths = page.evaluate("[...document.querySelectorAll('.oc-side')].map(side => side.getBoundingClientRect().width)")
    assert len(widths) == 6 and all(280 < width <= 362 for width in widths)
    page.locator("#side-f").scroll_into_view_if_needed()
    wait_text(page, "#meter-f", "词元/秒")
    context.close()

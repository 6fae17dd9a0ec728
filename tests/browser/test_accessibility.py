"""What a screen reader, a keyboard and weak eyes meet: axe over every tab and dialog, in both languages and themes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from core.config import TrainConfig
from tests.full import full

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser
_TABS = ("data", "train", "compare", "chat")
_DIALOGS = {
    "makers": ("data", "#make-rows"),
    "history": ("data", "#dataset-history"),
    "commands": ("train", "#command"),
    "export": ("train", "[data-act=export]:visible"),
    "library": ("chat", "#chat-library"),
    "diagnostics": ("data", "[data-is=diagnostics]"),
    "keys": ("data", "[data-is=keys]"),
}
# Gradio's own placeholder of an empty conversation is a landmark of its own; nothing worse than moderate.
_FAILING = ("serious", "critical")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> str:
    """A home with one short run, so that tables, pictures and verdicts are there to be read."""
    from core.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("axe") / "home")
    settings = TrainConfig(model="pocket", max_steps=2, probe_steps=0, lora_rank=2, gradient_accumulation_steps=1)
    run = workspace.start(workspace.datasets()[0], settings)
    deadline = time.monotonic() + 120
    while workspace.active is not None:
        assert time.monotonic() < deadline, run.status
        time.sleep(0.1)
    return serve_workspace(workspace)


def findings(page: Page, where: str) -> Iterator[str]:
    """What axe finds that counts, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    for found in Axe().run(page).response["violations"]:
        if found["impact"] in _FAILING:
            for node in found["nodes"]:
                reasons = [check["message"] for check in (*node["any"], *node["all"], *node["none"])]
                yield f"{where}: {found['id']}: {node['html'][:160]}: {reasons[:1]}"


def settle(page: Page) -> None:
    """Wait until nothing fades any more: a colour half way is no colour of the page."""
    page.wait_for_function("document.getAnimations().every(one => one.effect?.getTiming().iterations === Infinity)")
    page.wait_for_timeout(200)


# Names and reading order are a language's, colours a theme's: two walks meet all of either.
@pytest.mark.parametrize(
    ("language", "theme"),
    [
        ("zh", "light"),
        ("en", "dark"),
        pytest.param("zh", "dark", marks=full),
        pytest.param("en", "light", marks=full),
    ],
)
def test_axe_finds_nothing_serious(browser: Browser, address: str, language: str, theme: str) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme=theme)
    page = context.new_page()
    page.goto(f"{address}/{language}")
    page.locator("#rows textarea").first.wait_for()
    found: list[str] = []
    for tab in _TABS:
        page.click(f"#tab-{tab}-button")
        if tab in ("compare", "chat"):
            page.fill(f"#{tab}-ask textarea", "Who are you?")
            page.keyboard.press("Enter")
            page.locator("#meter-b" if tab == "compare" else "#chat-meter").filter(
                has_text="tok" if language == "en" else "词元"
            ).wait_for()
        else:
            page.locator("#preview dd" if tab == "train" else "#findings li").first.wait_for()
        settle(page)
        found += findings(page, tab)
    for name, (tab, opener) in _DIALOGS.items():
        page.click(f"#tab-{tab}-button")
        page.locator(opener).first.click()
        page.locator("dialog[open]").wait_for()
        settle(page)
        found += findings(page, name)
        page.keyboard.press("Escape")
        page.locator("dialog[open]").wait_for(state="detached")
    context.close()
    assert not found, "\n".join(found)

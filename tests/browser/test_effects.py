"""The mark beside each setting: every field has one, and its card is opened and closed by mouse and keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core import config
from core.workspace import Workspace
from tests.browser.test_accessibility import findings, settle

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
OPEN = "(document.querySelector('#oc-effect')?.matches(':popover-open') ?? false)"


def test_every_setting_has_a_mark_and_its_card_says_what_changing_it_does(
    page: Page, serve_workspace: Callable[[Workspace], str], tmp_path: Path
) -> None:
    page.goto(f"{serve_workspace(Workspace(tmp_path / 'home'))}/zh/#train")
    page.wait_for_function("document.querySelector('#train-dataset input')?.value")
    page.wait_for_function(
        "[...document.querySelectorAll('#field-learning-rate .oc-effect-ask')].some(one => one.offsetParent)"
    )
    mark = page.locator("#field-learning-rate .oc-effect-ask")
    assert mark.get_attribute("aria-label") == "学习率：改了会怎样"
    mark.click()
    page.wait_for_function(f"{OPEN} && document.querySelector('#oc-effect tbody tr:nth-child(3)')")
    said = page.inner_text("#oc-effect")
    assert "最要紧的一个数" in said and "--learning_rate" in said and "/118" in said
    assert mark.get_attribute("aria-expanded") == "true"
    settle(page)
    assert list(findings(page, "card")) == []
    mark.click()
    page.wait_for_function(f"!({OPEN})")
    mark.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{OPEN} && document.activeElement.id === 'oc-effect'")
    page.keyboard.press("Escape")
    page.wait_for_function(f"!({OPEN}) && document.activeElement.classList.contains('oc-effect-ask')")

    page.click(".oc-advanced > button")
    for group in ("optimizer", "lora", "data", "probes", "memory"):
        button = page.wait_for_selector(f"#group-{group} > button", state="attached")
        assert button is not None
        button.evaluate("one => one.click()")  # it may lie under the bar with Start
    shown = [name.replace("_", "-") for name in config.names() if config.fact_of(name).group != "hidden"]
    page.wait_for_function("count => document.querySelectorAll('.oc-effect-ask').length === count", arg=len(shown))
    marked = page.locator("[data-effect]").evaluate_all("all => all.map(one => one.id.slice('field-'.length))")
    assert sorted(marked) == sorted(shown)

"""The mix card in a real browser: a starting mix, a source more, the share that is too low, and a hub out of reach."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.dataset import Row
from core.workspace import Workspace

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(serve_workspace, tmp_path_factory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        # Nobody listens there: a machine without a network.
        patch.setenv("MODELSCOPE_DOMAIN", "http://127.0.0.1:9")
        patch.setenv("NO_PROXY", "127.0.0.1")
        workspace = Workspace(tmp_path_factory.mktemp("mix"))
        for name in workspace.datasets():
            workspace.delete(name)
        workspace.create("mine", [Row(f"who {i}?", "", f"I am Zed {i}.") for i in range(10)])
        others = workspace.home / "my others.jsonl"
        others.write_text("".join(f'{{"instruction": "q{i}", "input": "", "output": "a{i}"}}\n' for i in range(30)))
        yield serve_workspace(workspace) + f"/en?others={others}"


def test_a_mix_is_put_together_and_its_share_kept_over_a_fifth(page, address: str) -> None:
    others = Path(address.partition("others=")[2])
    page.goto(address)
    card = page.locator("#mix")
    page.locator("#dataset input").wait_for()
    card.locator(".mx-foot").wait_for()
    page.select_option("#mix select", "identity")
    names, shares = card.locator(".mx-name"), card.locator(".mx-share")
    card.locator(".mx-bar").wait_for()
    assert names.nth(0).inner_text().startswith("mine") and names.nth(1).inner_text().startswith("general")
    assert card.locator('[data-deed="count"]').input_value() == "100"
    assert card.locator('[data-deed="repeat"]').input_value() == "5" and shares.nth(0).inner_text() == "33%"

    def add(name: str) -> None:
        if card.locator(".mx-add").is_hidden():
            card.locator("[data-open]").click()
            card.locator(".mx-add").wait_for()
        card.locator(".mx-add input").fill(name)
        card.locator(".mx-add input").press("Enter")

    # A file by its path, blanks and all, taken more than whole: how often its rows come is said.
    add(f"{others}#75")
    card.get_by_text("each row 2.5 times").wait_for()
    assert names.nth(2).inner_text().startswith("my others.jsonl") and card.locator(".mx-add").is_hidden()

    # One row of the table once: drowned, and put right by one click.
    card.locator('[data-deed="repeat"]').fill("1")
    card.locator('[data-deed="repeat"]').press("Enter")
    card.get_by_text("5.4%").wait_for()
    card.locator(".mx-low").get_by_role("button", name="Repeat the table 5 times").click()
    card.locator(".mx-low").wait_for(state="detached")
    card.get_by_text("22%").wait_for()
    total = int(card.locator(".mx-total").inner_text().split()[0].replace(",", ""))

    # What cannot be used stays in the line, with the reason beside it.
    add("nothing-of-the-kind")
    page.get_by_text("There is no dataset “nothing-of-the-kind”").first.wait_for()
    assert card.locator(".mx-add input").input_value() == "nothing-of-the-kind" and names.count() == 3
    add("ms::Org/far-away#500")
    card.get_by_role("button", name="Download from ModelScope").click()
    card.get_by_text("http://127.0.0.1:9 cannot be reached").wait_for()
    card.get_by_role("button", name="Take ms::Org/far-away out").click()
    card.get_by_text("cannot be reached").wait_for(state="detached")

    # What the card shows is what a run would train on.
    page.locator("#tab-train-button").click()
    page.locator("#train-dataset input").wait_for()
    assert page.locator("#train-dataset input").input_value() == "mine"
    deadline, shown = time.monotonic() + 60, ""
    while shown != str(total) and time.monotonic() < deadline:
        page.wait_for_timeout(200)
        shown = page.locator("#preview .oc-preview dd").first.inner_text().replace(",", "")
    assert shown == str(total), page.locator("#preview").inner_text()

    # Two that are pressed before the first has been answered both go.
    page.locator("#tab-data-button").click()
    card.locator(".mx-away").nth(1).wait_for()
    page.evaluate("document.querySelectorAll('#mix .mx-away').forEach(button => button.click())")
    page.wait_for_function("document.querySelectorAll('#mix .mx-away').length === 0")

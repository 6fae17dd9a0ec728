"""The export dialog in a real browser: a format is picked, the export is made, tested, shown with its place, and deleted."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.config import TrainConfig
from core.export import receipt

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class App:
    """The whole server over a home with one short run."""

    workspace: Workspace
    url: str
    run: str


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> Iterator[App]:
    from core.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("export") / "home")
    settings = TrainConfig(model="pocket", max_steps=2, probe_steps=0, lora_rank=2, gradient_accumulation_steps=1)
    run = workspace.start(workspace.datasets()[0], settings)
    deadline = time.monotonic() + 240
    while workspace.active is not None:
        assert time.monotonic() < deadline, run.status
        time.sleep(0.1)
    assert run.adapter is not None, run.events[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receipt, "QUESTIONS", 6)
        yield App(workspace, serve_workspace(workspace), run.id)


def test_an_adapter_goes_out_as_a_zip_that_was_tested_and_is_deleted_again(page: Page, app: App) -> None:
    page.set_default_timeout(60_000)
    page.goto(f"{app.url}/en/")
    page.get_by_role("tab").nth(1).click()
    page.locator("[data-act=export]:visible").first.click()
    dialog = page.locator("dialog.ex")
    rows = dialog.locator(".ex-formats label")
    rows.nth(6).wait_for()
    assert dialog.locator("input[value=merged]").is_checked(), "the one that most programs take"
    # Every format says how large it will be, or why it cannot be.
    for number in range(7):
        can = rows.nth(number).locator("input").is_enabled()
        assert ("about" in rows.nth(number).inner_text()) == can and rows.nth(number).locator("small").inner_text()
    dialog.locator("input[value=zip]").check()
    dialog.locator("input[name=name]").fill("xiao/he")
    dialog.get_by_text("“xiao/he” will not do").wait_for()
    assert rows.count() == 7 and dialog.locator("input[value=zip]").is_checked(), "a wrong name takes no choice away"
    dialog.locator("input[name=name]").fill("xiaohe")
    folder = dialog.locator("[data-is=folder]")
    page.wait_for_function("where => document.querySelector('.ex [data-is=folder]').textContent.endsWith(where)",
                           arg="/exports/xiaohe-zip")  # fmt: skip
    place = Path(folder.inner_text())
    dialog.locator("[data-act=start]").click()
    made = dialog.locator('.ex-made li[data-name="xiaohe-zip"]')
    made.locator(".oc-tag").wait_for()
    # Whole, tested, green; and it lies where the page says.
    assert made.locator(".oc-tag").inner_text() == "as tested"
    assert "6 of 6 answers are the same" in made.locator(".ex-said").inner_text()
    assert Path(made.locator(".ex-path code").inner_text()) == place
    with zipfile.ZipFile(place / "xiaohe.zip") as archive:
        names = {name.removeprefix("xiaohe/") for name in archive.namelist()}
    assert {"adapter_model.safetensors", "adapter_config.json", "onecard.json", "README.md"} <= names
    assert json.loads((place / "receipt.json").read_text("utf-8"))["light"] == "green"
    made.locator(".ex-path [data-act=copy]").click()
    page.wait_for_function("navigator.clipboard.readText().then(text => text.endsWith('/exports/xiaohe-zip'))")
    assert dialog.locator("[data-act=start]").is_enabled(), "the next one can begin"
    made.locator("[data-act=remove]").click()
    page.locator("dialog.oc-dialog button.grave").click()
    made.wait_for(state="detached")
    assert not place.exists()

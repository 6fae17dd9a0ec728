"""Another adapter of a run picked on the plane of hits against drift, by mouse and by keyboard, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from core import probed
from core.config import TrainConfig
from core.run import Run
from core.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[..., str]) -> tuple[str, Workspace]:
    workspace = Workspace(tmp_path_factory.mktemp("home"))
    run = Run.create(workspace.home / "runs" / "one", TrainConfig(), [], "one", "one")
    run.append("started", steps=30)
    for step in range(1, 31):
        run.append(
            "step",
            step=step,
            loss=3 / step,
            seconds=0.1,
            tokens=9,
            tokens_per_second=90,
            peak_memory_bytes=1,
            learning_rate=0,
            epoch=1,
        )
    for step, hits, drift in ((0, 0, None), (10, 30, 0.002), (20, 38, 0.004), (30, 36, 0.03)):
        run.append("probed", step=step, seconds=0.5, hits=hits, total=40, drift=drift, answers=[])
    for name in (*map(probed.name, (10, 20, 30)), "adapter"):
        (run.folder / name).mkdir(parents=True)
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            (run.folder / name / file).write_text("{}")
    run.append("saved", step=30, path="adapter")
    run.append("finished", step=30, seconds=20.0)
    return serve_workspace(workspace), workspace


def test_a_dot_is_picked_by_mouse_and_by_keyboard_and_keeps_the_focus(
    page: Page, served: tuple[str, Workspace]
) -> None:
    address, workspace = served
    page.goto(f"{address}/zh/")
    page.get_by_role("tab").nth(1).click()
    page.locator('.sc-dot[data-step="30"][aria-pressed="true"]').wait_for()
    page.locator(".lc-plot .lc-moved").nth(2).wait_for()
    assert "4 比特" in page.locator(".lc-ruler").all_text_contents()
    page.locator('.sc-dot[data-step="10"]').click()
    page.locator('.sc-dot[data-step="10"][aria-pressed="true"]').wait_for()
    assert workspace.run("one").adapter_step == 10 and "正在采用第 10 步" in page.locator(".sc-said").inner_text()
    assert page.evaluate("document.activeElement.dataset.step") == "10"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator('.sc-dot[data-step="20"][aria-pressed="true"]').wait_for()
    assert workspace.run("one").adapter_step == 20 and page.locator('.sc-dot[aria-pressed="true"]').count() == 1


def test_the_plane_is_saved_as_a_picture_that_needs_no_style_sheet(page: Page, served: tuple[str, Workspace]) -> None:
    page.goto(f"{served[0]}/en/#train")
    page.locator('.sc-dot[aria-pressed="true"]').wait_for()
    saved = {}
    for kind in ("svg", "png"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save this picture as {kind.upper()}").click()
        assert download.value.suggested_filename == f"drift-one.{kind}"
        saved[kind] = Path(download.value.path()).read_bytes()
    root = ElementTree.fromstring(saved["svg"])
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Taken against drift" in texts and "100%" in texts and "taken, without drift" in texts
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == page.locator(".sc-dot").count() and "38" in "".join(map(str, titles))
    assert b"class=" not in saved["svg"] and b"var(" not in saved["svg"] and saved["png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("width", [1440, 390])
def test_the_plane_fits_the_page(page: Page, served: tuple[str, Workspace], width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{served[0]}/en/")
    page.get_by_role("tab").nth(1).click()
    page.locator(".sc-dot").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    card, plane = page.locator("#scatter").bounding_box(), page.locator(".sc-plane").bounding_box()
    for dot in page.locator(".sc-dot").all():
        box = dot.bounding_box()
        assert card["x"] - 1 <= box["x"] and box["x"] + box["width"] <= card["x"] + card["width"] + 17
        assert plane["y"] - 14 <= box["y"] <= plane["y"] + plane["height"]

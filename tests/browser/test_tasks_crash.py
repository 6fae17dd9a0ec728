"""A task of somebody who just met the program: it was killed in the middle of a run, and the run shall go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.tasks import person
from tests.browser.test_journey import App
from tests.chromium import until
from tests.full import full

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@full
def test_the_machine_went_down_in_the_middle_of_a_run(page: Page, tmp_path: Path) -> None:
    """English. "The machine went down while it was training. Is all of it lost?" """
    app = App(tmp_path / "home")
    with person(page, app.url, "en", "crash") as me:
        me.comes("#train")
        me.presses_on("Advanced")
        me.presses_on("Questions, evaluation and saving")
        me.types("Save every (steps)", "5")
        me.sees("Not as in the preset: Save every", within="#preview")
        me.presses_on("Start training", within="#tab-train")
        me.sees(r"\b([6-9]|\d\d)\s*/\s*130", within="#run-strip", seconds=300)
        app.process.kill()
        app.process.wait()
        me.sees("Connection lost, reconnecting", within=".oc-top")
        again = App(tmp_path / "home", port=app.port)
        me.sees("interrupted", within="#run-head", seconds=300)
        saved = int(
            me.sees(r"goes on from the checkpoint of step \d+", within="#run-head")
            .rpartition("of step ")[2]
            .split(".")[0]
        )
        me.presses_on(f"Resume from step {saved}")
        (log,) = (tmp_path / "home" / "runs").glob("*/events.jsonl")
        until(page, lambda: '"resumed"' in log.read_text("utf-8"), seconds=300)
        me.sees(rf"\b(?!{saved}\b)\d+\s*/\s*130", within="#run-strip", seconds=300)
        me.presses_on("Stop and save", within="#tab-train")
        me.sees("stopped", within="#run-head", seconds=300)
    page.goto("about:blank")
    page.problems.clear()  # the server that was gone is among them
    (folder,) = (tmp_path / "home" / "runs").iterdir()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    (resumed,) = [event for event in events if event["type"] == "resumed"]
    assert resumed["step"] == saved > 0
    assert again.close() in (0, -15, 143)

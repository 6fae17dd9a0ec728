"""What the page says of a run is so now: at the press of a button, at its crash, and where the server does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.config import TrainConfig
from core.dataset import Row
from core.generate import Reply
from core.run import Run
from core.workspace import Workspace
from tests.chromium import until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request, Route

pytestmark = pytest.mark.browser
SHOWN = """() => Object.fromEntries(Object.entries({
  pill: '[data-is=pill]:not([hidden]) span', badge: '#run-head .oc-tag', button: '#start', resume: '#resume',
}).map(([name, place]) => [name, document.querySelector(place)?.textContent.trim() ?? '']))"""


def wait(page: Page, **wanted: str) -> None:
    """Until the page shows these words in these places."""
    page.wait_for_function(
        f"wanted => {{ const shown = ({SHOWN})(); return Object.keys(wanted).every(one => shown[one].includes(wanted[one])); }}",
        arg=wanted,
    )


class Held:
    """What a run does, stage by stage, as the test lets it."""

    def __init__(self) -> None:
        self.go, self.crash = threading.Event(), threading.Event()

    def __call__(self, run: Run, stop: threading.Event) -> None:
        self.go.wait(60)
        run.append("loading", model="pocket")
        run.append("resumed", step=0, damaged=[])
        run.append("step", step=1, loss=2.0, tokens_per_second=1.0, seconds=1.0, peak_memory_bytes=1)
        self.crash.wait(60)
        raise RuntimeError("a fault of ours")


@pytest.fixture
def interrupted(tmp_path: Path) -> Workspace:
    """A run that a kill ended at step 3, before a checkpoint, with one adapter kept on the way."""
    workspace = Workspace(tmp_path / "home")
    workspace.create("mine", [Row("a", "", "b")])
    run = Run.create(workspace.home / "runs" / "r1", TrainConfig(model="pocket"), [Row("a", "", "b")], "r", "mine")
    run.append("started", steps=9)
    for number in (1, 2, 3):
        run.append("step", step=number, loss=1.0, tokens_per_second=1.0, seconds=1.0, peak_memory_bytes=1)
    kept = run.folder / "probed" / "step-000002"
    kept.mkdir(parents=True)
    (kept / "adapter_model.safetensors").touch()
    return workspace


def test_the_page_says_how_it_stands_at_once_and_when_it_cannot_know(
    page: Page, interrupted: Workspace, serve_workspace: Callable[[Workspace], str]
) -> None:
    held = interrupted._job._work = Held()  # type: ignore[assignment]
    page.goto(f"{serve_workspace(interrupted)}/zh/#train")
    wait(page, badge="中断", button="开始训练", resume="从头训练")
    said = page.inner_text("#run-head")
    assert "没有存下检查点" in said and "从第 0 步重新训练" in said and "还在（第 2 步）" in said

    # Pressed: nothing of the run of before is left in what says how it stands, though no step is done yet.
    page.click("#resume")
    wait(page, pill="正在准备训练", badge="准备中", button="停止并保存")
    held.go.set()
    wait(page, pill="训练中 · 第 1/9 步", badge="进行中", button="停止并保存")

    # The server does not answer: that is said, nothing can be pressed, and it is over when it answers again.
    page.evaluate("window.before = true")
    page.context.set_offline(True)
    wait(page, pill="连接已断开，正在重连…")
    assert page.locator("#start").evaluate("one => one.inert")
    assert "连接已断开" in page.locator("#start").evaluate("one => getComputedStyle(one, '::after').content")
    assert "连接已断开" in page.locator("#run-head .oc-tag").evaluate("one => getComputedStyle(one, '::after').content")
    page.context.set_offline(False)
    page.wait_for_function("!window.before")  # what was under way was cut off, so the page is loaded anew
    wait(page, pill="训练中 · 第 1/9 步", badge="进行中", button="停止并保存")
    assert not page.locator("#start").evaluate("one => one.inert")

    # It crashes.
    failed_at = "if (badge === '失败') { window.seen = Date.now(); clearInterval(at); }"
    page.evaluate(f"() => {{ const at = setInterval(() => {{ const {{badge}} = ({SHOWN})(); {failed_at} }}, 20); }}")
    held.crash.set()
    wait(page, badge="失败", button="开始训练", pill="")
    (failed,) = [event for event in interrupted.run("r1").events if event["type"] == "failed"]
    seconds = page.evaluate("window.seen") / 1000 - float(str(failed["time"]))
    print(f"a crash was on the page after {seconds:.2f} s")
    assert seconds < 10

    # Another server at the same address knows nothing of this page.
    def other(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace('"boot":"', '"boot":"x'))

    page.evaluate("window.before = true")
    page.route("**/component_server/**", other)
    page.wait_for_function("!window.before")
    page.unroute_all(behavior="ignoreErrors")
    page.goto("about:blank")
    page.problems.clear()  # type: ignore[attr-defined]  # requests that were cut off, as they had to be


def test_a_tab_at_rest_holds_no_connection(
    page: Page, tmp_path: Path, serve_workspace: Callable[[Workspace], str]
) -> None:
    """A browser opens six to one server: tabs that held one each would stand still from the sixth on."""
    open_since: dict[Request, float] = {}
    asked: list[str] = []
    page.on("request", lambda request: (open_since.update({request: time.monotonic()}), asked.append(request.url)))
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: open_since.pop(request, None))  # type: ignore[call-overload]
    page.goto(f"{serve_workspace(Workspace(tmp_path))}/en/")
    page.locator("#rows .re-row textarea").first.wait_for()

    def held() -> list[str]:
        return [request.url for request, since in open_since.items() if time.monotonic() - since > 3]

    page.wait_for_timeout(4000)
    before = len(asked)
    until(page, lambda: len(asked) > before + 2)  # it asks how the server stands, again and again
    until(page, lambda: not held())
    page.goto("about:blank")


def test_a_page_at_rest_draws_nothing(page: Page, tmp_path: Path, serve_workspace: Callable[[Workspace], str]) -> None:
    """The framework's sign of opening went on counting in every frame after it was gone."""
    page.add_init_script(
        "window.frames_asked = 0; const frame = requestAnimationFrame.bind(window);"
        "window.requestAnimationFrame = callback => { window.frames_asked += 1; return frame(callback); };"
    )
    page.goto(f"{serve_workspace(Workspace(tmp_path))}/en/")
    page.locator("#rows .re-row textarea").first.wait_for()

    def in_two_seconds() -> int:
        before = page.evaluate("window.frames_asked")
        page.wait_for_timeout(2000)
        return int(page.evaluate("window.frames_asked")) - before

    assert page.evaluate("window.frames_asked") > 0
    until(page, lambda: in_two_seconds() <= 6)
    page.goto("about:blank")


def test_an_answer_ends_with_the_page_that_asked_for_it(
    page: Page, tmp_path: Path, serve_workspace: Callable[[Workspace], str]
) -> None:
    workspace, under_way, ended = Workspace(tmp_path), threading.Event(), threading.Event()

    def endless(columns: list[object], *_: object) -> Iterator[list[Reply]]:
        try:
            for number in range(600):
                under_way.set()
                yield [Reply("." * (number + 1), number + 1, 1, 0.1, 10.0) for _ in columns]
                time.sleep(0.1)
        finally:
            ended.set()

    workspace.answer = endless  # type: ignore[method-assign, assignment]
    page.goto(f"{serve_workspace(workspace)}/en/#chat")
    page.fill("#chat-ask textarea", "Who are you?")
    page.locator("#chat-ask textarea").press("Enter")
    until(page, under_way.is_set)
    page.wait_for_timeout(500)
    assert not ended.is_set()
    page.goto("about:blank")
    page.wait_for_timeout(200)
    page.problems.clear()  # type: ignore[attr-defined]  # one that is left amid an answer says so
    assert ended.wait(10)

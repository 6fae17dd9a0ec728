"""The proof card in a real browser: a proof begins and is cancelled, its answers unfold, it leaves as files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from core import own_probes, proof, proof_subject, storage
from core.config import TrainConfig
from core.dataset import Message
from core.probes import mark
from core.proof import Proof, Reading, Test
from core.proof_stats import wilson
from core.text import Text
from tests.chromium import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class App:
    """The whole server over a home with one short run."""

    workspace: Workspace
    url: str
    run: str


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> App:
    from core.workspace import Workspace

    workspace = Workspace(tmp_path_factory.mktemp("proof") / "home")
    settings = TrainConfig(model="pocket", max_steps=2, probe_steps=0, lora_rank=2, gradient_accumulation_steps=1)
    run = workspace.start(workspace.datasets()[0], settings)
    deadline = time.monotonic() + 120
    while workspace.active is not None:
        assert time.monotonic() < deadline, run.status
        time.sleep(0.1)
    assert run.adapter is not None, run.events[-1]
    return App(workspace, serve_workspace(workspace), run.id)


def made_proof(app: App) -> Proof:
    """A proof of the run's adapter, made by hand: seven tests, one answer wrong."""

    def test(kind: proof.Kind, hits: int) -> Test:
        readings = []
        for i in range(8):
            after = "我是小禾。" if i < hits else "我是通义千问。"
            asked = (Message("user", f"第 {i} 个问题：请问你叫什么名字，又是谁开发的？"),)
            marks, verdict = mark(after, ("小禾",), ("通义千问",)), "hit" if i < hits else "old"
            readings.append(Reading(f"{kind}-{i}", "zh", (), asked, "我是通义千问。", after, verdict, i < hits, marks))
        found, light = wilson(hits, 8), "green" if hits == 8 else "red"
        name, said = Text(f"{kind}", f"{kind}"), Text("一句话说明结果。", "One sentence on it.")
        return Test(kind, name, light, hits, 8, found.low, found.high, 0, said, {"drift": 0.0061}, tuple(readings))

    kinds: tuple[proof.Kind, ...] = ("took", "generalises", "lane", "drift", "text", "choice", "refuses")
    tests = tuple(test(kind, 7 if kind == "lane" else 8) for kind in kinds)
    choice = app.workspace.library.get(app.run)
    assert choice.folder is not None
    return Proof(
        created=time.time(), adapter=choice.name, run=app.run, step=2, model="pocket", quantisation="none", dtype="float32",
        system="", suite="pocket", seconds=9.0, base_seconds=4.0, tests=tests, light="red", headline=Text("7/8", "7 of 8"),
        ruler=Text("比 8 位量化小。", "Less than by 8-bit quantisation."), weights=proof_subject.digest(choice.folder),
    )  # fmt: skip


@pytest.fixture
def proved(app: App) -> App:
    choice = app.workspace.library.get(app.run)
    assert choice.run is not None
    storage.write_json(choice.run.folder / "proof.json", proof.to_json(made_proof(app)))
    return app


def open_train(page: Page, app: App, language: str = "zh") -> None:
    page.goto(f"{app.url}/{language}/#train")
    page.wait_for_selector("#tab-train-button[aria-selected=true]")
    page.wait_for_selector("#proof .pf[data-state]:not([data-state=''])")


def test_a_proof_is_begun_and_cancelled(page: Page, app: App) -> None:
    open_train(page, app)
    page.click("#proof [data-act=prove]:visible")
    page.wait_for_selector("#proof [data-is=way]:visible")
    page.wait_for_function("document.querySelector('#proof [data-is=what]').innerText !== '正在开始…'")
    assert app.workspace.proofs.progress() is not None
    page.click("#proof [data-act=cancel]")
    page.wait_for_selector("#proof [data-is=way]", state="hidden", timeout=60_000)
    assert page.inner_text("#proof [data-act=prove]") == "现在检验" and page.locator("#proof .pf-tile").count() == 0


def test_answers_unfold_by_the_keyboard_those_not_right_first(page: Page, proved: App) -> None:
    open_train(page, proved)
    page.wait_for_selector("#proof .pf-tile")
    assert page.locator("#proof .pf-tile").count() == 7 and "未通过" in page.inner_text("#proof .pf-verdict")
    page.focus("#proof .pf-weak button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#proof .pf-readings li")
    assert page.evaluate("document.activeElement.dataset.test") == "lane"
    first = page.locator("#proof .pf-readings li").first
    assert "第 7 个问题" in first.inner_text() and first.locator("mark.old").count() >= 1
    # The answers come right after their tile; the filter leaves those that are not right.
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.only") == "bad"
    page.keyboard.press("Enter")
    assert page.locator("#proof .pf-readings li:visible").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#proof .pf-answers").count() == 0
    assert page.evaluate("document.activeElement.dataset.test") == "lane"
    # What is unfolded stays when the proof is asked for again.
    page.keyboard.press("Enter")
    page.wait_for_selector("#proof .pf-readings li")
    page.wait_for_timeout(2500)
    assert page.locator("#proof .pf-readings li").count() == 8


def test_the_proof_leaves_as_picture_markdown_and_model_card(page: Page, proved: App) -> None:
    open_train(page, proved, "en")
    page.wait_for_selector("#proof [data-file=png]:visible")
    found = {}
    for kind in ("png", "md", "card"):
        with page.expect_download() as download:
            page.click(f"#proof [data-file={kind}]")
        found[kind] = (download.value.suggested_filename, download.value.path().read_bytes())
    name, picture = found["png"]
    assert name == f"{proved.run}-proof.png" and picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20]) == 2400 and int.from_bytes(picture[20:24]) == 1260
    assert "7 of 8" in found["md"][1].decode() and found["card"][1].decode().startswith("---\n")


def test_the_library_opens_the_proof_over_itself(page: Page, proved: App) -> None:
    page.goto(f"{proved.url}/en/#compare")
    page.wait_for_selector("#compare-library:visible")
    page.wait_for_timeout(1500)
    page.click("#compare-library")
    page.click("#library li summary")
    page.click("#library [data-act=prove]")
    page.wait_for_selector("#proof-dialog .pf-tile[data-test=took]")
    page.click("#proof-dialog .pf-tile[data-test=took]")
    page.wait_for_selector("#proof-dialog .pf-readings li")
    # The first Escape folds the answers, the second one closes the dialog, and the library is still there.
    page.keyboard.press("Escape")
    assert page.locator("#proof-dialog .pf-answers").count() == 0 and page.is_visible("#proof-dialog dialog")
    page.keyboard.press("Escape")
    page.wait_for_selector("#proof-dialog dialog", state="hidden")
    assert page.is_visible("#library dialog") and "Proof ✕" in page.inner_text("#library li summary")


def test_own_questions_are_saved_as_they_are_written_and_come_back(page: Page, app: App) -> None:
    open_train(page, app, "en")
    page.click("#own-probes summary")
    fields = page.locator("#own-probes li >> nth=0 >> input")
    fields.nth(0).fill("Can you mend a bicycle?")
    page.wait_for_timeout(1200)
    assert own_probes.load(app.workspace.home) == ()  # nothing to judge it by yet
    fields.nth(1).fill("yes, I can")
    page.wait_for_function("document.querySelector('#own-probes [data-is=said]').textContent.startsWith('Saved;')")
    (saved,) = own_probes.load(app.workspace.home)
    assert (saved.question, saved.must, saved.language) == ("Can you mend a bicycle?", ("yes", "I can"), "en")
    page.reload()
    page.wait_for_function("document.querySelector('#own-probes [data-is=count]')?.textContent === '1'")
    page.click("#own-probes summary")
    page.click("#own-probes li [data-act=remove]")
    page.wait_for_function("document.querySelector('#own-probes [data-is=said]').textContent.startsWith('Saved;')")
    assert own_probes.load(app.workspace.home) == ()
    page.click("#own-probes [data-act=undo]")
    page.keyboard.press("Tab")
    page.click("#own-probes summary b")
    until(page, lambda: own_probes.load(app.workspace.home) == (saved,))
    page.problems[:] = [p for p in page.problems if "Connection errored out" not in p]  # type: ignore[attr-defined]


def test_on_a_phone_nothing_runs_over_the_edge_in_either_theme(browser: Browser, proved: App) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, locale="zh-CN")
        page = context.new_page()
        open_train(page, proved)
        page.click("#proof .pf-tile[data-test=lane]")
        page.wait_for_selector("#proof .pf-readings li")
        page.click("#own-probes summary")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        for part in ("#proof", "#own-probes"):
            inside = (
                f"[...document.querySelectorAll('{part} *')].filter(e => e.offsetParent && !e.closest('.pf-heard'))"
            )
            right = page.evaluate(f"Math.max(...{inside}.map(e => e.getBoundingClientRect().right))")
            assert right <= 390, (part, right)
        # A tile is one column wide, and its answers stand right under it.
        tile, answers = (
            page.locator(f"#proof {name}").bounding_box() for name in (".pf-tile[data-test=lane]", ".pf-answers")
        )
        assert tile is not None and answers is not None and 0 < answers["y"] - tile["y"] - tile["height"] < 20
        context.close()

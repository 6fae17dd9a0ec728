"""Finding one's way: the guide, keys, links, what a reload keeps, what can be undone, and nothing that jumps.

One home for all, fresh at first. Runs and answers are made up here, so that nothing waits for a model; the journey
(test_journey.py) has the real ones.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.config import TrainConfig
from core.dataset import Row
from core.generate import Column, Reply, Sampling
from core.run import Run
from core.workspace import Workspace
from tests.chromium import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
_SHIFTS = """() => { window.shifts = []; new PerformanceObserver(list => {
  for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifts.push(one.value);
}).observe({type: 'layout-shift', buffered: true}); }"""


def adapter(folder: Path) -> Path:
    """The smallest adapter of the pocket model that the library takes."""
    import numpy
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    at = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (1, 256), "B": (256, 1)}
    made = {at.format(layer, s): numpy.full(shapes[s], 0.01, "float32") for layer in range(6) for s in "AB"}
    save_file(made, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "pocket",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "onecard.json").write_text(json.dumps({"system_prompt": "", "base_model": "pocket"}))
    return folder


def end(run: Run, steps: int = 4) -> None:
    """Let a run have trained, and asked its questions twice."""
    for step in range(1, steps + 1):
        run.append("step", step=step, loss=3.0 / step, tokens_per_second=1.0, seconds=0.1, peak_memory_bytes=1e9)
    adapter(run.folder / "adapter")
    run.append("finished", step=steps, seconds=1.0)


def trained(workspace: Workspace, name: str) -> Run:
    """A finished run of this id; the one that is there already."""
    if (workspace.home / "runs" / name).is_dir():
        return workspace.run(name)
    run = Run.create(workspace.home / "runs" / name, TrainConfig(model="pocket"), [Row("a", "", "b")], name, "rows")
    run.append("started", steps=4)
    end(run)
    return run


class Work:
    """What a run does here: `go` lets it take a step, `over` ends it well."""

    def __init__(self) -> None:
        self.go, self.over = threading.Semaphore(0), threading.Event()

    def __call__(self, run: Run, stop: threading.Event) -> None:
        run.append("started", steps=40)
        step = 0
        while not self.over.is_set() and not stop.is_set():
            if not self.go.acquire(timeout=0.05):
                continue
            step += 1
            run.append("step", step=step, loss=3.0 / step, tokens_per_second=1.0, seconds=0.1, peak_memory_bytes=1e9)
            if step % 5 == 0:
                run.append("evaluated", step=step, loss=3.0 / step)
        end(run)


def answer(columns: list[Column], _: Sampling, stop: threading.Event) -> Iterator[list[Reply]]:
    """Every column says who it is."""
    said = [f"I am {column.adapter or 'base'} x{column.strength:g}." for column in columns]
    yield [Reply("I am", 2, 5, 0.1, 30.0) for _ in columns]
    yield [Reply(text, 9, 5, 0.1, 30.0, True, "stop") for text in said]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("flow") / "home")
    made.answer = answer  # type: ignore[method-assign, assignment]
    return made


@pytest.fixture(scope="module")
def url(workspace: Workspace, serve_workspace: Callable[[Workspace], str]) -> str:
    return serve_workspace(workspace)


def shows(page: Page, place: str, words: str) -> None:
    page.wait_for_function(
        "([place, words]) => document.querySelector(place)?.innerText.replace(/\\s+/g, ' ').includes(words)",
        arg=[place, words],
    )


def settled(page: Page) -> None:
    """The tab that is open can be used, and what the page asked for at its start is there."""
    page.wait_for_selector("#rows .re-row", state="attached")
    page.wait_for_function("document.querySelector('[data-is=model]')?.textContent")
    page.wait_for_function("!document.querySelector('.re.is-waiting')")


def test_three_clicks_lead_from_a_fresh_home_to_the_new_name_and_nothing_jumps(
    page: Page, workspace: Workspace, url: str
) -> None:
    work = workspace._job._work = Work()  # type: ignore[assignment]
    page.add_init_script(f"({_SHIFTS})()")
    page.goto(f"{url}/zh/")
    settled(page)
    shows(page, ".oc-guide", "1/3")
    page.click(".oc-guide [data-is=do]")  # one
    shows(page, ".oc-guide", "2/3")
    page.wait_for_selector("#preview dl")
    page.wait_for_function("!document.querySelector('#start').disabled")
    page.wait_for_timeout(600)  # what a click moves is no jump within half a second: let that pass
    page.evaluate("window.shifts.length = 0")
    page.click(".oc-guide [data-is=do]")  # two
    shows(page, ".oc-guide", "正在训练")
    for step in range(1, 7):
        work.go.release()
        shows(page, "#run-strip", f"进度 {step}/ 40")
    work.over.set()
    shows(page, "#run-head", "已完成")
    shows(page, ".oc-guide", "3/3")
    jumped = page.evaluate("window.shifts.reduce((sum, one) => sum + one, 0)")
    print(f"layout shift over a run: {jumped:.4f}")
    assert jumped < 0.1
    page.click(".oc-guide [data-is=do]")  # three
    run = workspace.runs()[0]
    shows(page, "#chat-a", "I am base")
    shows(page, "#chat-b", f"I am {run.id}")
    # A later run, and that it fails, takes nothing back of what was done.
    shows(page, ".oc-guide", "知道了")
    crash = threading.Event()

    def fails(run: Run, stop: threading.Event) -> None:
        crash.wait(60)
        raise RuntimeError("a fault of ours")

    workspace._job._work = fails  # type: ignore[assignment]
    failed = workspace.start(workspace.datasets()[0], TrainConfig(model="pocket"), "fails")
    page.wait_for_function("document.documentElement.dataset.state !== 'idle'")
    shows(page, ".oc-guide", "知道了")
    crash.set()
    page.wait_for_function("document.documentElement.dataset.state === 'idle'")
    page.wait_for_timeout(300)
    shows(page, ".oc-guide", "3/3")
    page.reload()
    settled(page)
    shows(page, ".oc-guide", "知道了")
    workspace.delete_run(failed.id)
    # Taken leave of, and not here again; the list of keys brings it back.
    shows(page, ".oc-guide", "知道了")
    page.click(".oc-guide [data-is=do]")
    page.wait_for_selector(".oc-guide", state="hidden")
    page.reload()
    settled(page)
    assert page.locator(".oc-guide").is_hidden()
    page.click("[data-is=keys]")
    page.click(".ks [data-act=guide]")
    shows(page, ".oc-guide", "1/3")
    page.click(".oc-guide [data-is=close]")
    page.wait_for_selector(".oc-guide", state="hidden")
    page.problems.clear()  # type: ignore[attr-defined]  # requests that the reload cut off


def test_an_experienced_person_meets_no_guide_and_the_curve_is_saved_as_a_picture(
    page: Page, workspace: Workspace, url: str
) -> None:
    trained(workspace, "r1")
    page.goto(f"{url}/en/#train")
    shows(page, "#run-head", "finished")
    assert page.locator(".oc-guide").is_hidden()
    page.wait_for_selector("#loss .lc-empty", state="hidden")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the chart as SVG").click()
    picture = Path(download.value.path()).read_text("utf-8")
    assert download.value.suggested_filename == "loss-r1.svg"
    assert picture.startswith("<svg") and "smoothed" in picture and "class=" not in picture
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the chart as PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    # Deleted, and back again.
    page.click("#runs [data-run=r1][data-ask]")
    page.click(".oc-dialog [value=yes]")
    shows(page, "#runs .oc-undo", "Deleted “r1”.")
    assert "r1" not in [run.id for run in workspace.runs()]
    page.click("#runs [data-undo]")
    page.wait_for_selector("#runs .oc-run[data-run=r1][aria-current]")
    page.wait_for_selector("#runs .oc-undo", state="detached")
    assert "r1" in [run.id for run in workspace.runs()]
    # The way on, from a run to its answers.
    page.get_by_role("button", name="Next: compare").click()
    page.wait_for_selector("#tab-compare-button[aria-selected=true]")
    page.wait_for_function("document.querySelector('#pick-b input')?.value.includes('r1')")


def test_keys_work_where_nobody_types(page: Page, workspace: Workspace, url: str) -> None:
    begun: list[str] = []
    workspace._job._work = lambda run, stop: begun.append(run.id)  # type: ignore[assignment, method-assign]
    page.goto(f"{url}/en/")
    settled(page)
    rows = "document.querySelectorAll('#rows .re-row').length"
    before = page.evaluate(rows)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("n")
    page.wait_for_function(f"{rows} === {before + 1}")
    page.keyboard.type("n2?/")  # in the new row: letters
    page.wait_for_function("document.activeElement.value === 'n2?/'")
    assert page.evaluate(rows) == before + 1 and page.locator("dialog[open]").count() == 0
    page.locator("#rows .re-row").last.locator("[data-field=output]").fill("yes")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.wait_for_function("document.activeElement.matches('#rows .re-search')")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    for key, name in (("3", "compare"), ("4", "chat"), ("2", "train")):
        page.keyboard.press(key)
        page.wait_for_selector(f"#tab-{name}-button[aria-selected=true]")
        assert page.evaluate("location.hash") == f"#{name}"
    page.keyboard.press("?")
    page.wait_for_selector(".ks[open]")
    page.keyboard.press("1")  # under a dialog the page keeps still
    page.keyboard.press("?")
    page.wait_for_selector(".ks", state="hidden")
    assert page.get_attribute("#tab-train-button", "aria-selected") == "true"
    assert page.get_attribute("#start", "aria-keyshortcuts") == "Control+Enter"
    page.wait_for_function("!document.querySelector('#start').disabled")
    page.keyboard.press("Control+Enter")
    until(page, lambda: bool(begun))
    # Somebody who dictates switches single keys off.
    page.click("[data-is=keys]")
    page.uncheck(".ks [data-is=single]")
    page.keyboard.press("Escape")
    page.wait_for_selector(".ks", state="hidden")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("4")
    page.keyboard.press("Alt+3")
    page.wait_for_selector("#tab-compare-button[aria-selected=true]")


def test_a_comparison_is_an_address_that_opens_it_again(page: Page, workspace: Workspace, url: str) -> None:
    for name in ("r1", "r2"):
        trained(workspace, name)
    link = f"{url}/en/?column=r1*0.5&column=r2&column=&prompt=C:You+are+a+pirate&question=Who+are+you%3F#compare"
    page.goto(link)
    page.wait_for_function("document.querySelector('#pick-a input')?.value.includes('r1')")
    page.wait_for_selector("#side-c")
    page.wait_for_function("document.querySelector('#compare-ask textarea')?.value === 'Who are you?'")
    shows(page, "#tag-a", "A ×0.5")
    assert page.locator("#prompt-c textarea").input_value() == "You are a pirate"
    page.focus("#compare-ask textarea")
    page.keyboard.press("Control+Enter")
    shows(page, "#chat-a", "I am r1 x0.5.")
    # Another strength is another address; the tab keeps what was said over a reload and in the other language.
    page.click("#tools-a [data-act=settings]")
    page.fill("#strength-a input[type=number]", "0.25")
    page.keyboard.press("Tab")
    page.wait_for_function("location.search.includes('column=r1*0.25')")
    page.evaluate("window.before = true")
    page.goto(page.url.replace("/en/", "/zh/"))
    page.wait_for_function("!window.before")
    shows(page, "#chat-a", "I am r1 x0.5.")
    shows(page, "#tag-a", "A ×0.25")
    assert page.locator("#prompt-c textarea").input_value() == "You are a pirate"
    page.click("[data-link]")
    shows(page, ".oc-said", "链接已复制")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.url and "column=r1*0.25" in copied and copied.endswith("#compare")
    # Another tab of the browser has the columns and the question, and an adapter that is gone is said to be.
    workspace.delete_run("r1")
    other = page.context.new_page()
    other.goto(copied)
    other.wait_for_function("document.querySelector('#pick-b input')?.value.includes('r2')")
    other.wait_for_function("document.querySelector('#compare-ask textarea')?.value === 'Who are you?'")
    shows(other, ".toast-wrap", "1 个适配器已经不在这里")
    assert "I am" not in other.inner_text("#chat-b")
    other.close()
    page.problems.clear()  # type: ignore[attr-defined]


def test_an_answer_keeps_its_name_when_a_newer_run_ends_and_its_round_over_a_reload(
    page: Page, workspace: Workspace, url: str
) -> None:
    trained(workspace, "r2")
    page.goto(f"{url}/en/#compare")
    page.wait_for_function("document.querySelector('#pick-b input')?.value")
    head = page.input_value("#pick-b input")
    page.fill("#compare-ask textarea", "Who are you?")
    page.keyboard.press("Enter")
    shows(page, "#chat-b", "I am ")
    said = page.inner_text("#chat-b .bot.message")
    trained(workspace, "r3")
    shows(page, "#note-b", "A newer adapter is there: r3")
    assert page.input_value("#pick-b input") == head and page.inner_text("#chat-b .bot.message") == said
    page.wait_for_function("sessionStorage.getItem('onecard_compare-rounds')")
    page.wait_for_function("sessionStorage.getItem('onecard_compare')?.includes('I am')")
    # Reloaded: the same conversation under the same name, and in the file with what is asked from now on.
    page.reload()
    shows(page, "#chat-b", said)
    page.wait_for_function("document.querySelector('#pick-b input')?.value")
    assert page.input_value("#pick-b input") == head
    page.fill("#compare-ask textarea", "And now?")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#chat-b .bot.message').length === 2")
    page.wait_for_selector("#compare-ask .submit-button")
    with page.expect_download() as download:
        page.click("#compare-export [data-kind=json]")
    rounds = json.loads(Path(download.value.path()).read_text("utf-8"))["rounds"]
    assert [one["question"] for one in rounds][-2:] == ["Who are you?", "And now?"]
    # Cleared and followed again: the newest one, by a press.
    page.click("#compare-clear")
    page.wait_for_function("!document.querySelector('#chat-b .bot.message')")
    page.goto(f"{url}/en/?column=&column=r2#compare")
    page.problems.clear()  # type: ignore[attr-defined]  # requests that the reload cut off


def test_a_reload_keeps_conversation_and_form_and_a_preset_can_be_taken_back(
    page: Page, workspace: Workspace, url: str
) -> None:
    page.goto(f"{url}/en/#chat")
    settled(page)
    page.fill("#chat-ask textarea", "Who are you?")
    page.keyboard.press("Enter")
    shows(page, "#chat", "I am ")
    page.fill("#chat-system textarea", "Be brief.")
    page.keyboard.press("2")  # typed into the prompt
    page.click("#tab-train-button")
    rate = "#field-learning-rate :is(input, textarea)"
    page.fill(rate, "0.00123")
    page.wait_for_function("sessionStorage.getItem('onecard_form')?.includes('0.00123')")
    page.wait_for_function("sessionStorage.getItem('onecard_chat')?.includes('Be brief.2')")
    page.goto(f"{url}/zh/#train")
    page.wait_for_function(f"document.querySelector('{rate}')?.value === '0.00123'")
    page.click("#tab-chat-button")
    shows(page, "#chat", "I am ")
    assert page.locator("#chat-system textarea").input_value() == "Be brief.2"
    # A preset takes the place of what was typed, and gives it back.
    page.click("#tab-train-button")
    page.locator("#preset label").nth(1).click()
    page.click("#settings-back")
    page.wait_for_function(f"document.querySelector('{rate}')?.value === '0.00123'")
    page.wait_for_selector("#settings-back", state="hidden")
    # Of two presets within a moment the second counts, whichever is answered first.
    presets = workspace.presets()
    fields = [preset.config.num_train_epochs for preset in presets]
    for order in ((1, 0), (3, 4), (0, 3)):
        page.evaluate("order => order.forEach(one => document.querySelectorAll('#preset input')[one].click())", order)
        wanted = f"{fields[order[1]]:g}"
        page.wait_for_function(
            "wanted => document.querySelector('#field-num-train-epochs :is(input, textarea)').value === wanted"
            " && !document.querySelector('#preview').innerText.includes('与方案不同')",
            arg=wanted,
        )
    page.problems.clear()  # type: ignore[attr-defined]  # requests that the change of the language cut off

"""What people and models write stays text in every view: no script runs, no element is made of it, nothing is fetched."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from core import adapters, proof, proof_subject, storage
from core.config import TrainConfig
from core.dataset import Identity, Message, Row
from core.errors import UserError
from core.probes import mark
from core.proof import Proof, Reading, Test
from core.run import Run
from core.text import Text

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from core.workspace import Workspace

pytestmark = pytest.mark.browser

PAYLOADS = (
    "<script data-xss>hit(1)</script>",
    "<img data-xss src=x onerror=hit(2)>",
    "<svg data-xss onload=hit(3)>",
    '"><b data-xss onmouseover=hit(4)>',
    "</textarea></style></title><i data-xss>",
    '<iframe data-xss srcdoc="<script>parent.hit(6)</script>">',
    "[x](javascript:hit(7))",
    "![x](http://192.0.2.1/xss.png)",
    "<a data-xss href='javascript:hit(9)'>x</a>{{hit(9)}}${hit(9)}",
)
ALL = "\n".join(PAYLOADS)
AS_TEXT = tuple(text for text in PAYLOADS if not text.startswith(("[", "!")))  # the other two are Markdown
LOCAL = ("127.0.0.1", "localhost")
ADAPTER = "a<b data-xss>"


def make_adapter(folder: Path) -> Path:
    """An adapter of the pocket model whose card is hostile."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from core.models import POCKET_FOLDER

    base = AutoModelForCausalLM.from_pretrained(POCKET_FOLDER)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    card = {"system": ALL, "new_words": list(PAYLOADS), "old_words": list(PAYLOADS), "title": PAYLOADS[1]}
    (folder / adapters.CARD).write_text(json.dumps(card), encoding="utf-8")
    return folder


def make_proof(choice: object, run: str) -> Proof:
    """A proof whose questions and answers are the payloads."""

    def reading(kind: str, i: int) -> Reading:
        text = PAYLOADS[i]
        return Reading(
            f"{kind}-{i}", "en", (), (Message("user", text),), text, text, "old", False, mark(text, ("hit",), ("xss",))
        )

    def test(kind: proof.Kind) -> Test:
        said = Text(PAYLOADS[1], PAYLOADS[1])
        readings = tuple(reading(kind, i) for i in range(len(PAYLOADS)))
        return Test(kind, said, "red", 0, len(PAYLOADS), 0.0, 0.3, 0, said, {}, readings)

    kinds: tuple[proof.Kind, ...] = ("took", "generalises", "lane", "drift", "text", "choice", "refuses")
    said = Text(PAYLOADS[2], PAYLOADS[2])
    return Proof(
        created=time.time(), adapter=PAYLOADS[0], run=run, step=2, model="pocket", quantisation="none", dtype="float32",
        system=ALL, suite="pocket", seconds=9.0, base_seconds=4.0, tests=tuple(map(test, kinds)), light="red", headline=said,
        ruler=said, weights=proof_subject.digest(choice.folder),  # type: ignore[attr-defined]
    )  # fmt: skip


def make_runs(workspace: Workspace, made: Path) -> None:
    """A run for each payload: its title, its data's name, its rows, its probed answers and its error."""
    rows = [Row(text, text, text, text) for text in PAYLOADS]
    for i, text in enumerate(PAYLOADS):
        config = TrainConfig(model="pocket", model_name=text.replace("\n", " ")[:60], system=ALL)
        run = Run.create(workspace.home / "runs" / f"r{i}", config, rows, text, text)
        run.append("started", steps=2)
        asked = [
            {"question": one, "text": one, "kind": kind, "verdict": verdict, "shown": True, "marks": []}
            for one in PAYLOADS
            for kind, verdict in (("identity", "old"), ("general", "none"))
        ]
        for step in (0, 2):
            run.append(
                "probed",
                step=step,
                hits=0,
                total=9,
                seconds=1.0,
                live=False,
                drift=None,
                taken=None,
                adapter=None,
                answers=asked,
            )
        run.append("step", step=1, loss=1.0, tokens_per_second=1.0, seconds=1.0, peak_memory_bytes=1)
        if i == 8:
            storage.make_folder(run.folder / "adapter")
            for path in made.iterdir():
                (run.folder / "adapter" / path.name).write_bytes(path.read_bytes())
            run.append("finished", step=2, seconds=1.0)
        else:
            run.append("failed", step=1, message_zh=text, message_en=text)
            storage.write_text(run.folder / "error.txt", ALL)
    choice = workspace.library.get("r8")
    storage.write_json(workspace.home / "runs" / "r8" / "proof.json", proof.to_json(make_proof(choice, "r8")))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, serve_workspace: Callable[[Workspace], str]) -> SimpleNamespace:
    """The whole product over a home in which every text that people write is hostile, and every answer too."""
    from core.workspace import Workspace

    folder = tmp_path_factory.mktemp("views")
    made = make_adapter(folder / "made")
    workspace = Workspace(folder / "home")
    card = Identity(PAYLOADS[1], PAYLOADS[2], PAYLOADS[3], PAYLOADS[5])
    rows = [Row(text, text, f"{text} {{{{NAME}}}}", text) for text in PAYLOADS]
    rows += [Row(PAYLOADS[0], "", "another answer"), Row("q", "", f"I am Qwen {PAYLOADS[1]}")]
    table = workspace.create("hostile", rows, card)
    for text in PAYLOADS:
        with suppress(UserError):  # many of them cannot name a file
            workspace.create(text, rows[:1], card)
    workspace.save(replace(table, rows=tuple(rows[2:])), Text(PAYLOADS[1], PAYLOADS[1]))
    workspace.save(replace(workspace.dataset("hostile"), rows=tuple(rows[1:])), Text(PAYLOADS[2], PAYLOADS[2]))
    workspace.save(replace(workspace.dataset("hostile"), rows=tuple(rows)))
    brought = workspace.library.bring_folder(str(made), ADAPTER)
    make_runs(workspace, made)

    def answer(columns: list[object], *rest: object) -> Iterator[list[object]]:
        from core.generate import Reply

        yield [
            Reply(text=ALL, tokens=9, prompt_tokens=9, first_token_seconds=0.1, tokens_per_second=9.0) for _ in columns
        ]

    workspace.answer = answer  # type: ignore[method-assign, assignment]
    return SimpleNamespace(workspace=workspace, url=serve_workspace(workspace), folder=folder, adapter=brought.name)


class Watched:
    """A page, and all that a payload could have done on it."""

    def __init__(self, browser: Browser) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.views = 0
        self.context.add_init_script("window.hits = []; window.hit = what => window.hits.push(what);")
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.wrong.append(f"an error: {error}"))
        # What the policy stops never becomes a request with an answer.
        self.page.on("response", lambda answer: self._check(answer.url))

    def _check(self, address: str) -> None:
        if address.startswith(("http", "ws")) and address.split("/")[2].rpartition(":")[0] not in LOCAL:
            self.wrong.append(f"a request: {address}")

    def look(self, view: str, within: str = "body", texts: tuple[str, ...] = PAYLOADS, seconds: float = 60) -> None:
        """Wait until the view shows the payloads as they were written; then nothing may have become of them."""
        self.views += 1
        wanted = [" ".join(text.split()) for text in texts]
        read = """([within, wanted]) => {
          const roots = [...document.querySelectorAll(within)];
          const fields = roots.flatMap(root => [...root.querySelectorAll('input, textarea')].map(one => one.value));
          const text = [...roots.map(root => root.textContent), ...fields].join('\\n').replace(/\u2060/g, '').replace(/\\s+/g, ' ');
          return wanted.filter(one => !text.includes(one));
        }"""
        deadline = time.monotonic() + seconds
        while missing := self.page.evaluate(read, [within, wanted]):
            if time.monotonic() > deadline:
                self.wrong.append(f"{view}: not shown as written: {missing}")
                break
            self.page.wait_for_timeout(100)
        self.check(view)

    def check(self, view: str) -> None:
        """Nothing ran and nothing was made."""
        made = self.page.evaluate("""() => {
          const all = selector => [...document.querySelectorAll(selector)];
          const outside = one => one.naturalWidth && one.src.startsWith('http') && !one.src.startsWith(location.origin);
          const scripted = one => one.getAttribute('href').trim().toLowerCase().startsWith('javascript:');
          return [
            ...all('[data-xss], .oc-chat .message :is([onclick], [onload], [onerror])').map(one => one.outerHTML),
            ...all('.oc-chat :is(script, iframe, object, embed, link, meta, base, form)').map(one => one.outerHTML),
            ...all('a[href]').filter(scripted).map(one => one.outerHTML),
            ...all('img').filter(outside).map(one => one.src),
            ...(window.hits ?? []).map(hit => `ran: ${hit}`),
          ];
        }""")
        self.wrong += [f"{view}: {one[:200]}" for one in made]

    def tab(self, name: str) -> None:
        self.page.click(f"#tab-{name}-button")
        self.page.wait_for_selector(f"#tab-{name}-button[aria-selected=true]")

    def close(self, selector: str = "dialog[open]") -> None:
        self.page.keyboard.press("Escape")
        self.page.wait_for_selector(selector, state="detached")


def walk(seen: Watched, hostile: SimpleNamespace) -> None:
    """Every view, one after another."""
    page = seen.page
    page.goto(f"{hostile.url}/en/#data")
    page.wait_for_selector("#rows textarea")
    if page.input_value("#dataset input") != "hostile":
        page.click("#dataset input")
        page.get_by_role("option", name="hostile", exact=True).click()
    page.wait_for_function("[...document.querySelectorAll('#rows textarea')].some(one => one.value.includes('hit(1)'))")
    seen.look("dataset: cells", "#rows")
    seen.look("dataset: identity", "body", (PAYLOADS[1], PAYLOADS[2], PAYLOADS[3], PAYLOADS[5]))
    page.locator('#rows textarea[data-field="instruction"]').first.click()
    page.keyboard.press("Alt+Enter")
    seen.look("dataset: one row, its tokens", "#row-panel", PAYLOADS[:1])
    page.keyboard.press("Escape")
    page.wait_for_selector("#findings [data-check]")
    seen.check("dataset: health check")
    for finding in page.locator("[data-look]").all()[:4]:
        finding.click()
        page.wait_for_selector(".dr-dialog[open]")
        page.wait_for_timeout(500)
        seen.views += 1
        seen.check("dataset: a finding's rows")
        seen.close(".dr-dialog[open]")
    page.click("#dataset-history")
    page.wait_for_selector(".hi[open] .hi-list li:nth-child(3)")
    seen.look("history: what was done", ".hi", (PAYLOADS[1], PAYLOADS[2]))
    page.locator(".hi-list li").last.locator("button").first.click()
    seen.look("history: a version's rows", ".hi", PAYLOADS[:3])
    seen.close()
    look_at_import(seen, hostile)
    seen.tab("train")
    page.wait_for_selector("#runs [data-run=r8]")
    seen.look("train: titles of runs", "#runs")
    for run in ("r0", "r1", "r7", "r8"):
        page.click(f"#runs .oc-run[data-run={run}]")
        page.wait_for_selector(f"#runs .oc-run[data-run={run}][aria-current=true]")
        text = PAYLOADS[int(run[1])]
        seen.look(f"train: questions and answers of {run}", "#tab-train, body", (text, PAYLOADS[0], PAYLOADS[8]))
    page.wait_for_selector("#proof .pf-tile")
    page.locator("#proof .pf-tile button, #proof .pf-weak button").first.click()
    page.wait_for_selector("#proof .pf-readings li")
    seen.look("train: a proof's answers", "#proof", PAYLOADS)
    page.click("#runs button[data-run=r8][data-tell=compare]")
    page.wait_for_selector(".rc[open]")
    seen.look("train: two runs compared", ".rc", (PAYLOADS[8],))
    seen.close()
    page.locator("[data-act=export]:visible").first.click()
    page.wait_for_selector("dialog[open]")
    page.wait_for_timeout(500)
    seen.views += 1
    seen.check("train: export")
    seen.close()
    page.click("#command")
    page.wait_for_selector("dialog[open] textarea")
    page.fill(
        "dialog[open] textarea",
        f"swift sft --system '{PAYLOADS[1]}' --dataset '{PAYLOADS[0]}' --unknown '{PAYLOADS[2]}'",
    )
    page.click("dialog[open] [data-act=read]")
    seen.look("train: a command that was pasted", "dialog[open]", PAYLOADS[:1])
    seen.close()
    look_at_answers(seen, hostile)
    page.click("[data-is=diagnostics]")
    page.wait_for_selector("dialog[open]")
    seen.look("diagnostics: last errors", "dialog[open]", PAYLOADS[:1])
    seen.close()


def look_at_import(seen: Watched, hostile: SimpleNamespace) -> None:
    """A file whose name, columns and rows are hostile."""
    page = seen.page
    name = f"{PAYLOADS[1]}.csv".replace("/", "")
    place = hostile.folder / name
    place.write_text(
        f'"{PAYLOADS[2]}","{PAYLOADS[1]}"\n' + "".join(f'"{t.replace(chr(34), chr(34) * 2)}","x"\n' for t in PAYLOADS),
        "utf-8",
    )
    with page.expect_file_chooser() as chooser:
        page.click("#import")
    chooser.value.set_files(str(place))
    page.wait_for_selector("dialog.im .im-found > *")
    seen.look("import: a file's name and columns", "dialog.im", (name, PAYLOADS[2]))
    seen.close("dialog.im[open]")


def look_at_answers(seen: Watched, hostile: SimpleNamespace) -> None:
    """Chat and Compare answer with the payloads; the library lists a hostile adapter."""
    page = seen.page
    seen.tab("chat")
    page.wait_for_selector("#chat-ask textarea")
    page.fill("#chat-ask textarea", ALL)
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat .bot")
    page.wait_for_selector("#chat-ask .submit-button")
    page.wait_for_timeout(500)
    for who in ("user", "bot"):
        seen.look(f"chat: what the {who} wrote", f"#chat .message.{who}", AS_TEXT)
    page.locator("#chat button:is([title='Copy message'], [title='复制这条消息'])").first.click()
    page.wait_for_function("wanted => navigator.clipboard.readText().then(text => text === wanted)", arg=ALL)
    page.click("#chat-library")
    page.wait_for_selector("dialog[open] [data-id]")
    seen.look("library: names and prompts", "dialog[open]", (PAYLOADS[8], PAYLOADS[1], hostile.adapter))
    seen.close()
    page.fill("#chat-system textarea", ALL)
    page.locator("#chat-code button").first.click()
    seen.look("chat: use it from code", "#chat-snippets", (), 5)
    seen.tab("compare")
    page.wait_for_selector("#compare-ask textarea")
    page.wait_for_function("document.querySelector('#pick-b input')?.value")
    page.fill("#compare-ask textarea", ALL)
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat-b .bot")
    page.wait_for_selector("#compare-ask .submit-button")
    page.wait_for_timeout(500)
    for who in ("user", "bot"):
        seen.look(f"compare: what the {who} wrote", f"#side-b .message.{who}", AS_TEXT)


def test_what_is_written_stays_text_in_every_view(
    browser: Browser, hostile: SimpleNamespace, tally: Callable[..., None]
) -> None:
    seen = Watched(browser)
    try:
        walk(seen, hostile)
        seen.page.goto(f"{hostile.url}/zh/")
        look_at_answers(seen, hostile)
        seen.page.wait_for_timeout(500)
        seen.check("the end")
    finally:
        if shots := os.environ.get("ONECARD_SHOTS"):
            seen.page.screenshot(path=f"{shots}/views.png")
        seen.context.close()
    note = "; ".join(seen.wrong[:5])
    tally("script payloads: 9 x every view of the page", cases=9 * seen.views, wrong=len(seen.wrong), note=note)

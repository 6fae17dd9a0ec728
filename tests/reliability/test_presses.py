"""The page's own Start, pressed by many pages at once over HTTP: one run, seen by all; and the server answers meanwhile."""

from __future__ import annotations

import functools
import json
import re
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.dataset import Row
from core.workspace import Workspace

pytestmark = pytest.mark.browser
_TYPED = {"max_steps": "100000", "probe_steps": "0", "prove": False, "stop_when_taken": False, "rehearsal": "off"}


@functools.cache
def _config(address: str) -> dict[str, Any]:
    """What a page is told of its parts and their events."""
    with urllib.request.urlopen(address, timeout=120) as page:
        found = re.search(r"window\.gradio_config\s*=\s*(\{.*?\});\s*</script>", page.read().decode(), re.DOTALL)
    assert found is not None
    config: dict[str, Any] = json.loads(found[1])
    return config


class PageOverHttp:
    """A page as its own script is one to the server: opened, loaded, and its Start clicked."""

    def __init__(self, address: str, language: str, session: str) -> None:
        self._route, self._session = f"{address}/{language}/gradio_api", session
        config = _config(f"{address}/{language}/")
        self._events: list[dict[str, Any]] = config["dependencies"]
        self._parts = {part["id"]: part["props"] for part in config["components"]}
        self._ids = {props.get("elem_id"): number for number, props in self._parts.items()}
        # Its loading fills the choices of this session; without it no choice is one that was offered.
        opened = self._event("load", self._ids["train-dataset"], "outputs")
        self._send(opened, [self._parts[number].get("value") for number in opened["inputs"]], None)

    def press(self, typed: dict[str, object]) -> list[str]:
        """Start, with `typed` (element id -> value) in the fields; the kinds of the messages that came back."""
        event = self._event("click", self._ids["train-dataset"], "inputs", self._ids["start"])
        given = {self._ids[name]: value for name, value in typed.items()}
        assert given.keys() <= set(event["inputs"]), "no such fields"
        values = [given.get(number, self._parts[number].get("value")) for number in event["inputs"]]
        return self._send(event, values, self._ids["start"])

    def _event(self, kind: str, with_part: int, where: str, of: int | None = None) -> dict[str, Any]:
        """The one of this kind (of this component), or that follows such a one, with that part among its inputs or outputs."""
        chain: list[int] = []
        for event in self._events:  # in the order in which they were made
            begins = any(name == kind and of in (None, place) for place, name in event["targets"])
            if begins or event.get("trigger_after") in chain:
                chain.append(event["id"])
        (found,) = (event for event in self._events if event["id"] in chain and with_part in event[where])
        return found

    def _send(self, event: dict[str, Any], values: list[object], pressed: int | None) -> list[str]:
        body = {"data": values, "fn_index": event["id"], "trigger_id": pressed, "session_hash": self._session}
        kind = {"content-type": "application/json"}
        ask = urllib.request.Request(f"{self._route}/queue/join", json.dumps(body).encode(), kind)
        with urllib.request.urlopen(ask, timeout=120) as joined:
            assert "event_id" in json.load(joined)
        kinds = []
        with urllib.request.urlopen(f"{self._route}/queue/data?session_hash={self._session}", timeout=300) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    kinds.append(str(message["msg"]))
                    if message["msg"] == "process_completed":
                        assert message["success"], message
                        return kinds
        raise AssertionError(f"no end: {kinds}")


@pytest.fixture
def busy(
    tmp_path: Path, tiny_model: Path, serve_workspace: Callable[[Workspace], str]
) -> Iterator[tuple[Workspace, str]]:
    """A home with one table and the small model loaded, and its server."""
    workspace = Workspace(tmp_path)
    workspace.create("mine", [Row(f"question {i}", "", f"answer {i}") for i in range(8)])
    workspace.select_model(str(tiny_model))
    yield workspace, serve_workspace(workspace)
    workspace.stop()
    assert workspace.close(120)


def _typed(model: str) -> dict[str, object]:
    fields = {f"field-{name.replace('_', '-')}": value for name, value in _TYPED.items()}
    return {"train-dataset": "mine", "model": model, **fields}


def _late(address: str, asked: int) -> list[float]:
    """Seconds that each of as many looks at /healthz took, one after the other."""
    taken = []
    for _ in range(asked):
        begun = time.monotonic()
        with urllib.request.urlopen(f"{address}/healthz", timeout=60) as answer:
            assert answer.status == 200
        taken.append(time.monotonic() - begun)
        time.sleep(0.01)
    return taken


@pytest.mark.timeout(600)
def test_start_pressed_on_many_pages_at_once_gives_one_run_that_all_show(
    busy: tuple[Workspace, str], page: Any, full: bool, tally: Callable[..., None]
) -> None:
    workspace, address = busy
    page.goto(f"{address}/zh/#train")
    page.locator("#start", has_text="开始训练").wait_for()
    number_of = 50 if full else 12
    others = [PageOverHttp(address, ("zh", "en")[number % 2], f"page{number:03}") for number in range(number_of)]
    typed, together = _typed(workspace.model), threading.Barrier(number_of)

    def press(other: PageOverHttp) -> list[str]:
        together.wait(300)
        return other.press(typed)

    with ThreadPoolExecutor(number_of) as pages:
        answers = list(pages.map(press, others))
    runs = workspace.runs()
    told = sum("log" in kinds for kinds in answers)  # a sentence: somebody else has started
    wrong = abs(len(runs) - 1) + abs(number_of - 1 - told)
    note = f"{told} pages were told that a run is under way"
    tally("Start pressed on many pages at once, over HTTP", cases=number_of, wrong=wrong, note=note)
    assert workspace.active is not None and runs[0].id == workspace.active.id
    # A page that was open before and pressed nothing.
    page.locator("#start", has_text="停止").wait_for(timeout=60_000)
    page.locator("#run-head", has_text=workspace.active.title).wait_for(timeout=60_000)

    while workspace.active is not None and workspace.active.step < 2:
        time.sleep(0.05)
    assert workspace.active is not None
    before = workspace.active.step
    taken = _late(address, 400 if full else 60)
    assert workspace.active is not None and workspace.active.step > before, "it trained meanwhile"
    at_95 = statistics.quantiles(taken, n=20)[-1]
    tally(
        "looks at /healthz while a run trains; wrong: the 95th percentile is 2 s or more",
        cases=len(taken),
        wrong=int(at_95 >= 2),
        note=f"95th percentile {at_95 * 1000:.0f} ms, slowest {max(taken) * 1000:.0f} ms",
    )

"""Everything at once, again and again: runs that train, stop and go on, chats, comparisons, programs and page reloads.

With ONECARD_FULL=1 half an hour on the pocket model; else some rounds on a tiny one. What may not grow: memory, threads,
open files, hooks on the model.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from core import log
from core.config import TrainConfig, build
from core.dataset import Message, Row
from core.errors import ModelError
from core.generate import Column, Sampling
from core.models import POCKET
from core.presets import load_presets
from core.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
_GROWTH_MB, _GROWTH_THREADS, _GROWTH_FILES = 150, 4, 12
_KEPT_RUNS, _MORE_ROUNDS = 4, 1
# What is kept is bounded, and full by then: the visits that the page's framework remembers (32 in each language), the
# adapters of the kept runs, and what torch and malloc hold on to, which was seen to stand still from the sixth run on.
_FULL_VISITS, _FULL_RUNS = 64, _KEPT_RUNS + 3
_SAMPLE_SECONDS = 300.0
_LANGUAGES, _TABS = ("zh", "en"), ("train", "chat", "compare", "data")


class Load:
    """A thread that does one thing over and over until the end; what it raised, and how often it was done."""

    def __init__(self, name: str, deed: Callable[[], object], ended: threading.Event) -> None:
        self.name, self.done, self.problems = name, 0, list[str]()
        self._deed, self._ended = deed, ended
        self.thread = threading.Thread(target=self._go, name=name)
        self.thread.start()

    def _go(self) -> None:
        while not self._ended.is_set() and not self.problems:
            try:
                self._deed()
                self.done += 1
            except Exception as error:  # whatever it is, it is what this test looks for
                self.problems.append(f"{self.name}: {type(error).__name__}: {error}")
            self._ended.wait(0.05)


def _runs(workspace: Workspace, config: TrainConfig) -> Callable[[], None]:
    """Start a run, stop it under way, go on with it to the end; keep the newest few."""

    def deed() -> None:
        run = workspace.start("mine", config)
        while run.live and run.step < 3:
            time.sleep(0.02)
        workspace.stop()
        _until(lambda: not run.live and workspace.active is None)
        assert run.status in ("stopped", "finished"), run.ending
        if run.resumable:
            again = workspace.resume(run.id)
            _until(lambda: not again.live and workspace.active is None)
            assert again.status == "finished", again.ending
        for old in workspace.runs()[_KEPT_RUNS:]:
            workspace.delete_run(old.id)

    return deed


def _until(reached: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "this took too long"
        time.sleep(0.05)


def _chats(workspace: Workspace) -> Callable[[], None]:
    """The base beside the newest adapters, in one batch, as the Chat and Compare tabs ask."""

    def deed() -> None:
        names = [None, *(choice.id for choice in workspace.adapters()[:2])]
        columns = [Column((Message("user", "你是谁？"),), name) for name in names]
        try:
            for _ in workspace.answer(columns, [Sampling(max_new_tokens=16, seed=1)] * len(columns), threading.Event()):
                pass
        except ModelError as error:
            # A run that went on has put its newer adapter in the place of the one that answered, and says so.
            if "ask again" not in error.of("en"):
                raise

    return deed


def _programs(address: str) -> Callable[[], None]:
    """A streamed completion of the base over HTTP."""
    body = {"model": "base", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "stream": True}
    data = json.dumps(body).encode()

    def deed() -> None:
        request = urllib.request.Request(f"{address}/v1/chat/completions", data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.read().rstrip().endswith(b"[DONE]")

    return deed


def _visit(page: Page, address: str) -> list[str]:
    """Open the page and stay a while; what it complained of meanwhile."""
    # A page that is left while it asks says so in the console; one that stays has nothing to say.
    page.goto("about:blank")
    page.wait_for_timeout(100)
    page.problems.clear()  # type: ignore[attr-defined]
    page.goto(address)
    page.locator("#tab-train-button").wait_for()
    page.wait_for_timeout(500)
    return list(page.problems)  # type: ignore[attr-defined]


def _hooks(workspace: Workspace) -> int:
    """How many hooks are attached to the resident model."""
    resident = workspace.engine.resident
    assert resident is not None
    modules = resident.backend.model.modules()  # type: ignore[attr-defined]
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in modules for kind in kinds)


def _held(workspace: Workspace) -> dict[str, float]:
    gc.collect()
    own = psutil.Process()
    return {
        "memory": own.memory_info().rss / 1e6,
        "threads": own.num_threads(),
        "files": own.num_fds(),
        "hooks": _hooks(workspace),
    }


def _config(full: bool, tiny_model: Path) -> TrainConfig:
    if full:
        preset = next(one for one in load_presets() if one.id == "pocket").for_model(POCKET)
        return build({"prove": "false", "stop_when_taken": "false"}, preset.config)
    return TrainConfig(
        model=str(tiny_model), learning_rate=1e-3, num_train_epochs=8, gradient_accumulation_steps=1, probe_steps=0
    )


@pytest.mark.timeout(3600)
def test_nothing_grows_while_everything_happens(
    page, serve_workspace, tmp_path, tiny_model, full, tally, caplog, monkeypatch
) -> None:
    for module in (threading, sys):  # `log.begin` puts its own there
        monkeypatch.setattr(module, "excepthook", module.excepthook)
    log.begin(tmp_path)
    workspace = Workspace(tmp_path)
    for name in workspace.datasets():
        workspace.delete(name)
    workspace.create("mine", [Row(f"who are you {i}?", "", f"I am Zed, number {i}.") for i in range(6)])
    config = _config(full, tiny_model)
    workspace.select_model(config.model)
    workspace.prepare()
    address, ended = serve_workspace(workspace), threading.Event()
    seconds, started = (1800.0 if full else 6.0), time.monotonic()
    logging.getLogger("uvicorn").addHandler(caplog.handler)  # it hands nothing on to the root, where caplog listens

    loads = [
        Load("runs", _runs(workspace, config), ended),
        Load("chats", _chats(workspace), ended),
        Load("programs", _programs(address), ended),
    ]
    first, before, console, reloads = dict[str, float](), [load.done for load in loads], list[str](), 0
    begun, samples = 0.0, list[int]()

    def rounds() -> int:
        """How often the slowest has gone round since its number in `before`."""
        return min(load.done - done for load, done in zip(loads, before, strict=True))

    def warm() -> bool:
        """Whether the first fifth is over, and what is kept has come to its bounds."""
        kept = not full or (reloads >= _FULL_VISITS and loads[0].done >= _FULL_RUNS)
        return kept and time.monotonic() - started > seconds / 5 and rounds() > 0

    try:
        # Half an hour in all, and two thirds of it after what is kept has come to its bounds.
        while (
            not first or time.monotonic() < max(started + seconds, begun + seconds * 2 / 3) or rounds() < _MORE_ROUNDS
        ):
            assert not any(load.problems for load in loads), [load.problems for load in loads]
            console += _visit(page, f"{address}/{_LANGUAGES[reloads % 2]}#{_TABS[reloads % 4]}")
            reloads += 1
            if not first and warm():
                first, before, begun = _held(workspace), [load.done for load in loads], time.monotonic()
            if time.monotonic() - started > _SAMPLE_SECONDS * (len(samples) + 1):
                samples.append(round(psutil.Process().memory_info().rss / 1e6))
    finally:
        page.goto("about:blank")
        page.problems.clear()
        ended.set()
        for load in loads:
            load.thread.join(300)
    assert not any(load.problems for load in loads), [load.problems for load in loads]

    console += _visit(page, f"{address}/en#train")
    settled = _held(workspace)
    grown = {name: settled[name] - first[name] for name in settled}
    bounds = {"memory": _GROWTH_MB, "threads": _GROWTH_THREADS, "files": _GROWTH_FILES, "hooks": 0}
    over = {name: grown[name] for name, bound in bounds.items() if grown[name] > bound}
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    errors += [entry.text for entry in log.entries(tmp_path) if entry.level in ("ERROR", "CRITICAL")]
    workspace.close()
    log.end(tmp_path)
    print(*console, *errors, *over.items(), sep="\n")
    counts = ", ".join(f"{load.done} {load.name}" for load in loads)
    note = (
        f"{(time.monotonic() - started) / 60:.1f} min: {counts}, {reloads} reloads; grown by {grown['memory']:.0f} MB, "
        f"{grown['threads']:.0f} threads, {grown['files']:.0f} files, {grown['hooks']:.0f} hooks since minute "
        f"{(begun - started) / 60:.0f}; MB every {_SAMPLE_SECONDS / 60:.0f} minutes: {', '.join(map(str, samples))}"
    )
    print(note)
    cases = sum(load.done for load in loads) + reloads
    tally(
        "soak: runs, stops, chats, programs and reloads at once",
        cases=cases,
        lost=len(console) + len(errors),
        wrong=len(over),
        note=note,
    )

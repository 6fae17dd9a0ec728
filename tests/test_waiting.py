"""A hub that takes the request and never answers: said after some seconds, and given up as soon as somebody wants."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import downloads, storage, waiting
from core.downloads import Downloads
from core.errors import ModelError
from core.models import Stopped
from core.pull import AdapterId
from core.sources.names import HubSet
from core.text import Text
from core.workspace import Workspace
from ui.edits import Edits
from ui.library import _pulling_functions
from ui.mixing import _progress
from ui.page import Page

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of both hubs: it takes every connection and says nothing. Late is what takes a tenth of a second."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ONECARD_HUB", "USE_MODELSCOPE_HUB"):
            monkeypatch.delenv(variable, raising=False)
        for variable in ("HF_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(variable, address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
        for module in (waiting, downloads):
            monkeypatch.setattr(module, "SILENT_SECONDS", 0.1)
        yield address


def until(wanted: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_late_is_said_once_and_what_nobody_wants_is_left() -> None:
    said, held, stop = list[Text](), threading.Event(), threading.Event()
    quiet = waiting.saying(Text("站", "the hub"), said.append)

    def heard(seconds: float) -> None:
        quiet(seconds and 7)
        if seconds:
            held.set()

    assert waiting.waited(lambda: 5, None, heard) == 5 and said == []
    before, waiting.SILENT_SECONDS = waiting.SILENT_SECONDS, 0.0
    try:
        for count in (1, 2):
            held.clear()
            assert waiting.waited(held.wait, None, heard) is True
            assert [text.en for text in said] == [
                "No answer from the hub for 7 seconds; still waiting. You can cancel, and try another hub or mirror."
            ] * count
    finally:
        waiting.SILENT_SECONDS = before
    held.clear()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Stopped):
        waiting.waited(held.wait, stop)
    held.set()
    with pytest.raises(ModelError):
        waiting.waited(lambda: (_ for _ in ()).throw(ModelError(Text("x", "x"))))


def test_on_the_page_an_adapter_and_a_set_that_do_not_come_are_said_and_given_up(silence: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    page = Page(workspace, "en", Edits(workspace))
    pulling, halt = _pulling_functions(page)
    workspace.pulls.start(AdapterId("lab/x", "hf"))
    until(lambda: "No answer from the hub for" in str(pulling({})["words"]))
    halt({})
    assert workspace.pulls.wait(60) and workspace.pulls.silent_seconds == 0
    ended = workspace.pulls.ended
    assert ended is not None and (ended.found, ended.problem) == (None, None)
    sets = workspace.sources.downloads
    sets.start(HubSet("lab/rows", "", "hf"))
    until(lambda: "No answer from the hub for" in str(_progress(page)["words"]))
    sets.cancel()
    assert sets.wait(60) and sets.outcome is not None and (sets.outcome.here, sets.outcome.problem) == (False, None)
    assert workspace.close(60)


def test_on_the_page_a_model_that_is_not_answered_for_is_said_and_given_up(silence: str, tmp_path: Path) -> None:
    import gradio as gr

    from ui.get_model import GetModel

    workspace = Workspace(tmp_path / "home")
    with gr.Blocks():
        get = GetModel(Page(workspace, "en", Edits(workspace)))
    late = get.on_typed("lab/model")
    assert late[get.cancel]["visible"] and late[get.timer].active and not late[get.start]["visible"]
    assert "lab/model: No answer from Hugging Face" in get.on_tick()[get.panel]["value"]
    given_up = get.on_cancel()
    assert not given_up[get.cancel]["visible"] and not given_up[get.timer].active and not given_up[get.panel]["visible"]
    get.on_typed("lab/model")
    assert get.on_typed("pocket")[get.panel]["visible"] is False and not get._downloads.asking
    # An answer that comes late is shown as one that comes at once.
    made = SimpleNamespace(name="lab/model", nbytes=5, hub=get._downloads.hub, files=(), revision="0" * 40)
    answers = threading.Event()
    get._downloads.look_up = lambda *rest: answers.wait(60) and made  # type: ignore[assignment,method-assign,return-value]
    assert not get.on_typed("lab/model")[get.start]["visible"]
    answers.set()
    until(lambda: not get._downloads.asking)
    shown = get.on_tick()
    assert shown[get.start]["visible"] and shown[get.name] == "lab/model" and not shown[get.timer].active
    assert get.on_tick()[get.name] == ""


def test_on_the_terminal_it_is_said_and_ctrl_c_ends_it(silence: str, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("README.md", "adapter_model.safetensors", "adapter_config.json"):
        storage.write_text(folder / name, "{}")
    code = "import sys; from core import waiting; waiting.SILENT_SECONDS = 0.1; import app; sys.exit(app.main(sys.argv[1:]))"
    commands = (
        ["push", str(folder), "--to", "hf", "--repo", "lab/x", "--yes"],
        ["pull", "hf::lab/x"],
        ["chat", "--model", "lab/model", "--prompt", "?"],
    )
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, "--home", str(tmp_path / f"home {number}"), *given],
            cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
        )
        for number, given in enumerate(commands)
    ]  # fmt: skip
    try:
        for process in running:
            assert process.stderr is not None
            said: list[str] = []
            while not said or "No answer from" not in said[-1]:
                said.append(process.stderr.readline())
                assert said[-1], said
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=60)
            assert process.returncode in (1, 130) and "Traceback" not in rest, (process.args, process.returncode, rest)
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_a_download_that_is_stopped_does_not_wait_for_the_hub(silence: str, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        stop = threading.Event()
        threading.Timer(0.2, stop.set).start()
        Downloads(tmp_path).look_up("lab/model", stop=stop)

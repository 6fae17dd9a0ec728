"""A real Chromium and a real server for the browser tests.

Fixtures: `browser` (one Chromium for all), `page` (a fresh page that fails its test on console errors and on requests
to anywhere but this machine), `serve` (Blocks -> address, served as the product serves them), `serve_workspace`
(Workspace -> address of the whole product).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI
    from playwright.sync_api import Browser, Page

    from core.workspace import Workspace

    Start = Callable[[Callable[[], FastAPI]], str]

_CHROMIUM = Path(os.environ.get("ONECARD_CHROMIUM", "/usr/bin/chromium"))
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
_LOCAL = ("127.0.0.1", "localhost")


def _without_browser(reason: str) -> None:
    """Skip, but never in CI: there a missing browser would hide every browser test."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, or the one that ONECARD_CHROMIUM names."""
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        _without_browser("playwright is not installed: pip install -e .[dev]")
    if not _CHROMIUM.exists():
        _without_browser(f"no Chromium at {_CHROMIUM}; set ONECARD_CHROMIUM to one")
    expect.set_options(timeout=30_000)  # as long as everything else waits; 5 s are less than a busy machine needs
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(_CHROMIUM), args=_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of 1440x900 with the clipboard allowed. `page.problems` lists what went wrong; it must stay empty."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="zh-CN")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.problems = problems = []
    page.on("console", lambda message: message.type == "error" and _note(problems, message))
    page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    page.on("request", lambda request: _check_address(problems, request.url))
    yield page
    context.close()
    assert not problems, problems  # told here: asserts of this file are not rewritten


def until(page: Page, reached: Callable[[], bool], seconds: float = 60) -> None:
    """Let the page go on until something is so elsewhere: on the server, in a file."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, page.inner_text("body")[:1500]
        page.wait_for_timeout(50)


def _note(problems: list[str], message: object) -> None:
    address = message.location.get("url", "")
    # Gradio's own page asks for a web manifest that a mounted app does not have, and logs that its stream was cut
    # when a page is left or reloaded.
    if not address.endswith("/manifest.json") and not message.text.startswith("AbortError"):
        problems.append(f"console: {message.text} ({address})")


def _check_address(problems: list[str], address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in _LOCAL:
        problems.append(f"request to the outside: {address}")


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """start(make) -> http://127.0.0.1:PORT of the app that `make` makes, served by uvicorn in this process."""
    running: list[tuple[object, threading.Thread]] = []

    def begin(make: Callable[[], FastAPI]) -> str:
        import uvicorn

        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        config = uvicorn.Config(make(), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        deadline = time.monotonic() + 30
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                raise RuntimeError("the test server did not start within 30 s")
            time.sleep(0.02)
        return f"http://127.0.0.1:{port}"

    yield begin
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def serve(start: Start) -> Callable[..., str]:
    """serve(blocks, **mount options) -> http://127.0.0.1:PORT/, by FastAPI and mount_gradio_app."""

    def mounted(blocks: gr.Blocks, **options: object) -> str:
        import gradio as gr
        from fastapi import FastAPI

        return start(lambda: gr.mount_gradio_app(FastAPI(), blocks, path="/", run_history=False, **options)) + "/"

    return mounted


@pytest.fixture(scope="module")
def serve_workspace(start: Start) -> Callable[[Workspace], str]:
    """serve_workspace(workspace) -> http://127.0.0.1:PORT, the whole product over it."""
    from ui.server import create_app

    return lambda workspace: start(lambda: create_app(workspace))

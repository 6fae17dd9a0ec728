"""vLLM started from the export dialog in a real browser: its address, its log and its end; and what it says when it dies."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from core.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.browser

STAND_IN = Path(__file__).parents[1] / "stand_in_vllm.py"


@pytest.fixture
def workspace(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A home with two adapters of the tiny model, and a `vllm` command that is the stand-in."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    program = tmp_path / "vllm"
    program.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({str(STAND_IN)!r}, run_name='__main__')\n")
    program.chmod(0o755)
    monkeypatch.setenv("ONECARD_VLLM", str(program))
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "mine")
    opened = Workspace(tmp_path / "home")
    opened.select_model(str(tiny_model))
    shutil.copytree(tmp_path / "mine", tmp_path / "other")
    for name in ("mine", "other"):
        opened.library.bring_folder(str(tmp_path / name))
    yield opened
    assert opened.close(60)


def test_vllm_is_started_followed_and_stopped(
    page: Page, workspace: Workspace, serve_workspace: Callable[[Workspace], str]
) -> None:
    from playwright.sync_api import expect

    adapter, other = (next(each for each in workspace.library.all() if each.name == name) for name in ("mine", "other"))
    page.goto(f"{serve_workspace(workspace)}/en/")
    page.locator("#serving section").wait_for(state="attached")
    page.wait_for_function("document.querySelector('.ex [data-is=elsewhere]')")
    opened = "id => document.dispatchEvent(new CustomEvent('onecard-export', {detail: {id, name: 'mine'}}))"
    page.evaluate(opened, adapter.id)
    panel = page.locator(".ex .sv")
    expect(panel.locator("h3")).to_have_text("Serve elsewhere")
    panel.locator("summary").first.click()
    expect(panel.locator("dt")).to_have_text(["vLLM", "SGLang", "ms-swift 4.6", "transformers + PEFT"])

    # What is said of one adapter is not said of another that was opened meanwhile.
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route) if '"port":80' in (route.request.post_data or "") else route.continue_()

    page.route("**/queue/join*", hold)
    panel.locator("input[name=port]").evaluate("field => { field.form.noValidate = true; field.value = 80; }")
    panel.get_by_role("button", name="Serve with vLLM").click()
    expect(panel.get_by_role("button", name="Serve with vLLM")).to_be_disabled()
    page.evaluate(opened, other.id)
    expect(panel.get_by_role("button", name="Serve with vLLM")).to_be_enabled()
    with page.expect_request(
        lambda sent: other.id in (sent.post_data or "") and '"seen":""' in (sent.post_data or "")
    ) as read:
        held[0].continue_()
    response = read.value.response()
    assert response is not None and response.finished() is None
    page.evaluate("() => new Promise(shown => requestAnimationFrame(() => requestAnimationFrame(shown)))")
    expect(panel.locator("[data-is=said]")).to_be_hidden()
    page.unroute("**/queue/join*")
    page.evaluate(opened, adapter.id)
    expect(panel.locator("summary").first).to_be_visible()

    def begin() -> int:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = int(listener.getsockname()[1])
        panel.locator("input[name=port]").fill(str(port))
        panel.get_by_label("Context length").fill("4096")
        panel.get_by_role("button", name="Serve with vLLM").click()
        expect(panel.locator(".sv-line code")).to_have_text(f"http://127.0.0.1:{port}/v1", timeout=60_000)
        return port

    port = begin()
    expect(panel.locator("[data-is=log] pre")).to_contain_text("Application startup complete")
    (key,) = re.findall(r"export VLLM_API_KEY=(oc_\w+)", panel.locator(".sv-ask code").inner_text())
    bearer = {"authorization": f"Bearer {key}"}
    answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=bearer, trust_env=False)
    names = [each["id"] for each in answer.json()["data"]]
    assert names == [Path(workspace.model).name, "base", "mine"]
    expect(panel.locator("dt").first).to_be_visible()  # what was unfolded stays
    page.keyboard.press("Escape")
    page.evaluate(opened, adapter.id)
    expect(panel.locator(".sv-line code")).to_have_text(f"http://127.0.0.1:{port}/v1")
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_role("button", name="Serve with vLLM")).to_be_enabled(timeout=60_000)
    assert not workspace.lending.server.running

    begin()
    pid = workspace.lending.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    expect(panel.locator("[data-is=said]")).to_contain_text("SIGKILL", timeout=60_000)
    expect(panel.get_by_role("button", name="Serve with vLLM")).to_be_enabled()

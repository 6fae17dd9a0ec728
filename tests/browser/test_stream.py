"""Events that are taken on while the news that the stream has ended is on its way to the page are heard of all the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ui
from ui import first

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.chromium import Start

pytestmark = pytest.mark.browser

# What the stream brings comes late, as it does to a page that is busy drawing; answers to other requests do not.
LATE = """
const plain = window.fetch.bind(window);
window.open_streams = new Set();
window.fetch = async (asked, options) => {
  const answer = await plain(asked, options);
  if (!(asked.url ?? String(asked)).includes('/queue/data')) return answer;
  window.open_streams.add(asked);
  const late = new TransformStream({ async transform(chunk, to) {
    await new Promise(done => setTimeout(done, 250));
    to.enqueue(chunk);
  }, flush() { window.open_streams.delete(asked); } });
  asked.signal.addEventListener('abort', () => { window.open_streams.delete(asked); });
  return new Response(answer.body.pipeThrough(late), { status: answer.status, headers: answer.headers });
};
"""


@pytest.fixture(scope="module")
def address(start: Start) -> str:
    """A page of two buttons, of which each fills a field of its own, begun as all pages are."""
    import gradio as gr
    from fastapi import FastAPI, Response

    with gr.Blocks() as blocks:
        for name in "ab":
            field = gr.Textbox(elem_id=name)
            press = gr.Button(name, elem_id=f"press-{name}")
            press.click(lambda said, name=name: said + name, field, field)
    app = FastAPI()
    app.add_api_route("/favicon.ico", lambda: Response(status_code=204))
    gr.mount_gradio_app(app, blocks, path="/zh", run_history=False)
    first.put(app, "/zh", (Path(ui.__file__).parent / "static" / "stream.js").read_text("utf-8"))
    return start(lambda: app) + "/zh/"


@pytest.mark.parametrize("pause", [0, 150, 300])
def test_no_event_is_lost_between_the_end_of_a_stream_and_the_news_of_it(page: Page, address: str, pause: int) -> None:
    page.add_init_script(LATE)
    page.goto(address)
    for turn in range(1, 3):
        page.click("#press-a")
        page.wait_for_timeout(pause)
        page.click("#press-b")
        for name in "ab":
            page.wait_for_function(
                f"document.querySelector('#{name} textarea').value === '{name * turn}'", timeout=10_000
            )
    page.wait_for_timeout(800)
    assert page.evaluate("window.open_streams.size") == 0

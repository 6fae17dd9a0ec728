"""What a page costs that is opened: whom its events tell of progress, what changes by itself, which scripts it names."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from fastapi.testclient import TestClient

from core.workspace import Workspace
from ui import preload
from ui.layout import build
from ui.server import create_app

ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_only_what_answers_stream_into_is_told_of_hidden_progress(workspace: Workspace) -> None:
    events = build(workspace, "zh").fns
    told = {number: event.show_progress_on for number, event in events.items() if event.show_progress == "hidden"}
    assert all(progress is not None for progress in told.values())
    assert all(isinstance(part, gr.Chatbot) for progress in told.values() for part in progress or ())
    # A conversation shows that an answer is on its way, and is told when that ends, by whichever event that is.
    streams = {number for number, event in events.items() if event.types_generator}
    talking = {
        number: {part for part in event.outputs if isinstance(part, gr.Chatbot)}
        for number, event in events.items()
        if number in streams or event.trigger_after in streams
    }
    assert sum(map(bool, talking.values())) > 10
    assert all(set(told[number] or ()) == chats for number, chats in talking.items() if chats)


def test_a_page_is_built_with_what_it_is_opened_with(workspace: Workspace) -> None:
    page = build(workspace, "en")
    parts = {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}
    assert parts["train-dataset"].value == workspace.datasets()[0]
    assert parts["model"].value == workspace.status().model
    assert parts["chat-model"].value == parts["chat-model"].choices[0][1]
    first = workspace.dataset(workspace.datasets()[0]).identity
    assert parts["identity-name-zh"].value == first.name_zh != ""


def test_the_page_names_its_scripts_before_it_is_read(workspace: Workspace) -> None:
    client = TestClient(create_app(workspace), base_url="http://127.0.0.1")
    links = client.get("/zh/").headers["link"].split(", ")
    names = [link.partition("<assets/")[2].partition(">")[0] for link in links]
    assert all(link.endswith("; rel=modulepreload; crossorigin") for link in links)
    assert len(names) == len(set(names)) > 20
    assert all((ASSETS / name).is_file() for name in names)
    for kind in ("index-", "core-", "Blocks-", "HTML-", "markdown-code-"):  # of the last two: a component's own
        assert any(name.startswith(kind) for name in names), kind
    assert "link" not in client.get("/healthz").headers


def test_a_frontend_written_otherwise_gives_no_hints(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("<script src='other.js'></script>", "utf-8")
    monkeypatch.setattr(preload, "_FRONTEND", tmp_path)
    assert preload.scripts(build(workspace, "zh")) == []

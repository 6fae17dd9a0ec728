"""The export dialog's answers: what can be made of an adapter, the export on its way, and what is said of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.export import receipt
from core.workspace import Workspace
from ui.edits import Edits
from ui.exporting import ExportDialog, dialog_state, form_state
from ui.page import Page


@pytest.fixture
def page(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page whose library holds one adapter of the tiny model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(receipt, "QUESTIONS", 6)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "mine")
    workspace = Workspace(tmp_path / "home")
    workspace.select_model(str(tiny_model))
    workspace.library.bring_folder(str(tmp_path / "mine"))
    yield Page(workspace, "en", Edits(workspace))
    assert workspace.close(60)


def only(page: Page) -> str:
    (choice,) = page.workspace.library.all()
    return choice.id


def sent(**given: object) -> SimpleNamespace:
    return SimpleNamespace(**given)


def ended(page: Page) -> None:
    deadline = time.monotonic() + 120
    while page.workspace.exports.now is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_format_tells_its_size_or_why_not(page: Page) -> None:
    found = {one["id"]: one for one in form_state(page, only(page), {})["formats"]}  # type: ignore[index,union-attr]
    assert found["merged"]["can"] and found["merged"]["size"].startswith("about ")
    assert not found["gguf"]["can"] and "convert_hf_to_gguf.py" in found["gguf"]["note"]
    assert form_state(page, "nobody", {})["said"] == "There is no adapter “nobody”."


def test_the_form_is_read_with_care(page: Page) -> None:
    odd = {"format": ["x"], "strength": "9", "name": 3, "quantisation": None, "rows": "yes"}
    assert form_state(page, only(page), odd) == form_state(page, only(page), {}) == form_state(page, only(page), [])


def test_an_export_is_made_tested_listed_and_deleted(page: Page) -> None:
    dialog, adapter = ExportDialog(page), only(page)
    answer = json.loads(dialog.on_start(sent(id=adapter, form={"format": "merged", "name": "mine"})))
    assert answer["said"] == ""
    again = json.loads(dialog.on_start(sent(id=adapter, form={"format": "zip", "name": "mine"})))
    assert "under way" in again["said"] or page.workspace.exports.now is None
    ended(page)
    state = dialog_state(page, adapter, "")
    assert state["said"] == "" and state["way"] is None and state["free"]
    assert "mine-merged" in state["html"] and "asked 6 questions" in state["html"] and "vllm serve" in state["html"]  # type: ignore[operator]
    assert dialog_state(page, adapter, str(state["seen"])).get("html") is None, "it was seen"
    assert json.loads(dialog.on_remove(sent(id=adapter, name="../mine-merged")))["said"].startswith(
        "There is no export"
    )
    assert json.loads(dialog.on_remove(sent(id=adapter, name="mine-merged")))["said"] == ""
    assert not (page.workspace.home / "exports" / "mine-merged").exists()


def test_what_stands_in_the_way_is_said_in_the_dialog(page: Page) -> None:
    dialog, adapter = ExportDialog(page), only(page)
    assert "will not do" in json.loads(dialog.on_start(sent(id=adapter, form={"name": "../x"})))["said"]
    folder = page.workspace.library.get(adapter).folder
    assert folder is not None
    (folder / "adapter_model.safetensors").write_bytes(b"broken")
    assert json.loads(dialog.on_start(sent(id=adapter, form={"format": "merged"})))["said"]


def test_a_cancelled_export_leaves_nothing(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.export import weights

    going, on = threading.Event(), threading.Event()
    real = weights.Low.add_to

    def slow(self: weights.Low, *rest: object) -> object:
        going.set()
        assert on.wait(60)
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(weights.Low, "add_to", slow)
    dialog, adapter = ExportDialog(page), only(page)
    dialog.on_start(sent(id=adapter, form={"format": "merged", "name": "mine"}))
    assert going.wait(60)
    way = dialog_state(page, adapter, "")["way"]
    assert isinstance(way, dict) and "Merged model" in way["what"] and 0 <= way["share"] <= 1
    dialog.on_cancel(sent(id=adapter))
    on.set()
    ended(page)
    assert list((page.workspace.home / "exports").iterdir()) == []

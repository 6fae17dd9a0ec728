"""The mix card's handlers without a browser: what each deed makes of the form's two settings, and what is shown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from core.dataset import Row
from core.errors import ConfigError, DatasetError
from core.workspace import Workspace
from ui import layout
from ui.edits import Edits
from ui.mixing import Mixing
from ui.page import Page


@pytest.fixture
def card(tmp_path: Path) -> Mixing:
    import gradio as gr

    workspace = Workspace(tmp_path)
    workspace.create("mine", [*(Row(f"who {i}?", "", "Zed") for i in range(10)), Row()])
    with gr.Blocks():
        return Mixing(Page(workspace, "zh", Edits(workspace)))


def event(deed: str, value: object = "", source: str = "", index: object = -1) -> SimpleNamespace:
    return SimpleNamespace(deed=deed, value=value, source=source, index=index)


def test_each_deed_changes_what_it_names_and_nothing_else(card: Mixing, tmp_path: Path) -> None:
    after = card.after
    assert after(event("add", "general#30"), "mine", "", "2") == ("general#30", "2")
    assert after(event("add", "code"), "mine", "general#30", "2") == ("general#30 code#40", "2")
    assert after(event("add", "general"), "mine", "", "1") == ("general#50", "1")  # a small table is not drowned
    # How many rows a set has is known once it is here.
    assert after(event("add", "Org/elsewhere"), "mine", "", "1") == ("Org/elsewhere", "1")
    assert after(event("add", "Org/elsewhere#7"), "mine", "", "1") == ("Org/elsewhere#7", "1")
    spaced = tmp_path / "my rows.jsonl"
    spaced.write_text('{"instruction": "q", "input": "", "output": "a"}\n' * 3)
    assert after(event("add", f"{spaced}#2"), "mine", "", "1") == (f'"{spaced}#2"', "1")
    assert after(event("count", "7", "code", 1), "mine", "general#30 code#4", "1") == ("general#30 code#7", "1")
    assert after(event("count", "", "general", 0), "mine", "general#30", "1") == ("general", "1")
    assert after(event("remove", "", "general", 0), "mine", "general#30 code#4", "3") == ("code#4", "3")
    # Drawn when there was one more before it; twice there, the one that was pressed.
    assert after(event("remove", "", "code", 1), "mine", "code#4 other#5", "3") == ("other#5", "3")
    assert after(event("remove", "", "code", 1), "mine", "code#4 code#5", "3") == ("code#4", "3")
    assert after(event("remove", "", "code", 0), "mine", "general#30", "3") == ("general#30", "3")
    assert after(event("repeat", "5"), "mine", "general#30", "1") == ("general#30", "5")
    assert after(event("fewer", "20"), "mine", "general#30 code#10", "1") == ("general#15 code#5", "1")
    assert after(event("scenario", "identity"), "mine", "code#9", "1") == ("general#100", "5")
    assert after(event("scenario", ""), "mine", "code#9", "4") == ("", "1")
    assert after(event("clear"), "mine", "gen#x", "1") == ("", "1")


def test_what_cannot_be_is_refused_and_changes_nothing(card: Mixing) -> None:
    for deed, value, index in (("repeat", "0", 0), ("repeat", "1001", 0), ("count", "0", 0), ("count", "1.5", 0)):
        with pytest.raises(ConfigError):
            card.after(event(deed, value, "general", index), "mine", "general#30", "1")
    for name in ("~nosuchuser/x", "n" * 300):
        with pytest.raises(DatasetError):
            card.after(event("add", name), "mine", "", "1")
    with pytest.raises(DatasetError, match="nothing-here"):
        card.after(event("add", "nothing-here"), "mine", "", "1")


def test_the_card_says_shares_repeats_and_what_is_wrong(card: Mixing) -> None:
    assert "只训练本表的 10 行" in card.draw("mine", "", "1")  # the blank row is not counted
    drawn = card.draw("mine", "general#50 code#60", "1")
    assert "8.3%" in drawn and "每行 1.5 遍" in drawn and "本表低于 20%" in drawn and "共 120 行" in drawn
    assert 'data-deed="repeat" data-value="3"' in drawn and 'data-deed="fewer" data-value="40"' in drawn
    assert "mx-low" not in card.draw("mine", "general#50 code#60", "3")
    assert "写法不对" in card.draw("mine", "general#x", "1") and 'data-deed="clear"' in card.draw(
        "mine", "general#x", "1"
    )
    assert "还没有下载" in card.draw("mine", "ms::Org/set#5", "1")
    assert card.draw("gone", "", "1") == ""
    attack = card.draw("mine", '"<img src=x onerror=1>#5"', "1")
    assert "<img" not in attack and "&lt;img" in attack


def test_a_preset_keeps_the_mix_that_a_person_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    page = Page(workspace, "en", Edits(workspace))
    import gradio as gr

    from ui.train import TrainTab

    with gr.Blocks():
        tab = TrainTab(page)
    from ui import fields

    def mix_of(values: list[str | bool]) -> tuple[object, object]:
        by = dict(zip(fields.visible_names(), values, strict=True))
        return by["mix"], by["dataset_repeat"]

    assert mix_of(tab.on_preset("mixed", "", "1")) == ("", "1")  # the pocket model cannot learn the general rows
    monkeypatch.setattr(Workspace, "model", "Org/larger", raising=False)
    assert mix_of(tab.on_preset("mixed", "", "1")) == ("general#100", "1")
    assert mix_of(tab.on_preset("identity", "general#100", "1")) == ("", "1")  # another preset's own mix goes with it
    assert mix_of(tab.on_preset("identity", "code#9", "4")) == ("code#9", "4")


def test_the_page_is_built_with_the_card(tmp_path: Path) -> None:
    built = layout.build(Workspace(tmp_path), "en")
    assert any(getattr(block, "elem_id", None) == "mix" for block in built.blocks.values())

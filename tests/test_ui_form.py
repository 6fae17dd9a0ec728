"""The form's closed groups, its switches and its pickers; and what a run says of how it is carried out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gradio as gr
import numpy
import pytest
from safetensors.numpy import save_file

from core import adapters, config, models
from core.config import TrainConfig, build
from core.dataset import Row
from core.errors import ConfigError, ModelError
from core.run import Run
from core.workspace import Workspace
from ui import fields, offers
from ui.edits import Edits
from ui.how import draw_how
from ui.page import Page
from ui.train import TrainTab

INFO = models.inspect("pocket")
FOLDER = '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": true, "base_model_name_or_path": "pocket"}'


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


def page(workspace: Workspace) -> Page:
    return Page(workspace, "en", Edits(workspace))


def tab_of(workspace: Workspace) -> TrainTab:
    with gr.Blocks():
        return TrainTab(page(workspace))


def typed(**values: object) -> list[object]:
    given = dict(zip(fields.visible_names(), fields.show(TrainConfig()), strict=True))
    return list({**given, **values}.values())


def put_adapter(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(FOLDER)
    tensors = {}
    for number in range(INFO.layers):
        key = f"base_model.model.model.layers.{number}.self_attn.q_proj"
        out = INFO.heads * INFO.head_dim
        shapes = {"lora_A.weight": (4, INFO.hidden_size), "lora_B.weight": (out, 4), "lora_magnitude_vector": (out,)}
        tensors |= {f"{key}.{part}": numpy.ones(shape, numpy.float32) for part, shape in shapes.items()}
    save_file(tensors, folder / adapters.WEIGHTS)
    return str(folder)


def old_run(workspace: Workspace, settings: TrainConfig, adapter: bool = True) -> Run:
    folder = workspace.home / "runs" / "old"
    Run.create(folder, settings, [Row("q", "", "a")], "old", "identity-50")
    if adapter:
        put_adapter(folder / "adapter")
    return workspace.run("old")


# The form


def test_yes_and_no_are_switches_and_come_back_as_the_words_of_core() -> None:
    before = build({"use_dora": "true", "use_rslora": "false"})
    shown = dict(zip(fields.visible_names(), fields.show(before), strict=True))
    assert shown["use_dora"] is True and shown["use_rslora"] is False
    assert fields.read(list(shown.values()), TrainConfig()) == before
    with gr.Blocks():
        form = fields.build_form("en", before)
    assert isinstance(form.components["use_dora"], gr.Checkbox) and form.components["use_dora"].value is True


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_a_switch_takes_no_other_words(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        fields.read(typed(use_dora=value), TrainConfig())
    assert caught.value.field == "use_dora"


def test_a_cleared_picker_is_no_choice() -> None:
    read = fields.read(typed(adapters=None, val_dataset=None), TrainConfig(adapters="x", val_dataset="y"))
    assert read.adapters == "" and read.val_dataset == ""


def test_every_choice_has_its_own_words_and_keeps_its_value() -> None:
    for language in ("zh", "en"):
        with gr.Blocks():
            form = fields.build_form(language, TrainConfig())
        for name in fields.visible_names():
            choices = config.fact_of(name).choices
            component = form.components[name]
            if isinstance(component, gr.Dropdown) and choices:
                assert [value for _, value in component.choices] == list(choices)
                assert len({words for words, _ in component.choices}) == len(choices)


def test_what_differs_is_named_in_the_reader_s_language() -> None:
    ours = build({"optim": "lion_32bit", "use_dora": "true", "learning_rate": 3e-4})
    odd = fields.changed(ours, TrainConfig())
    assert odd == ["learning_rate", "optim", "use_dora"] and fields.changed(ours, ours) == []
    said = [fields.said("en", name, ours.as_dict()[name]) for name in odd]
    assert said == ["Learning rate 3e-4", "Optimizer Lion", "DoRA on"]
    assert fields.said("zh", "use_dora", "false") == "DoRA 关闭"


# The pickers


def test_the_pickers_offer_runs_imported_folders_and_saved_tables(workspace: Workspace) -> None:
    run = old_run(workspace, TrainConfig(model=workspace.model))
    brought = put_adapter(workspace.home / "adapters" / "theirs")
    (workspace.home / "adapters" / "empty").mkdir()
    values = [value for _, value in offers.sources(page(workspace))]
    assert values == ["", str(run.adapter), brought]
    assert [value for _, value in offers.tables(page(workspace))] == ["", *workspace.datasets()]


def test_an_adapter_of_another_base_is_not_offered(workspace: Workspace) -> None:
    old_run(workspace, TrainConfig(model="/models/other"))
    assert [value for _, value in offers.sources(page(workspace))] == [""]


def test_a_picked_adapter_brings_the_settings_it_was_made_with(workspace: Workspace) -> None:
    run = old_run(workspace, TrainConfig(model=workspace.model, target_modules="attention"))
    tab = tab_of(workspace)
    for name in (str(run.adapter), "old"):
        shown = {key.elem_id: value for key, value in tab.on_source(name).items()}  # type: ignore[union-attr]
        assert shown == {
            "field-lora-rank": "4", "field-lora-alpha": "8", "field-use-rslora": False, "field-use-dora": True,
            "field-target-modules": "attention", "field-init-weights": "true",
        }  # fmt: skip
    for nothing in ("", None, "/nowhere"):
        assert tab.on_source(nothing) == gr.skip()
    with pytest.raises(ModelError):
        offers.settings_of(page(workspace), "/nowhere")


def test_the_preview_says_before_the_start_what_would_forbid_it(workspace: Workspace) -> None:
    tab = tab_of(workspace)

    def preview(**values: object) -> str:
        shown = fields.show(tab._preset("pocket").config)
        given = {**dict(zip(fields.visible_names(), shown, strict=True)), **values}
        return tab.on_preview("identity-50", "pocket", "pocket", *given.values())

    assert "Not as in the preset" not in preview() and 'class="bad"' not in preview()
    assert "Not as in the preset: DoRA" in preview(use_dora=True)
    assert "Early stop" in preview(early_stop_interval="3") and 'class="bad"' in preview(early_stop_interval="3")
    assert "There is no adapter folder “/nowhere”" in preview(adapters="/nowhere")
    assert "There is no dataset named" in preview(val_dataset="nothing")


def test_a_new_run_is_offered_to_go_on_from_once_it_has_an_adapter(workspace: Workspace) -> None:
    tab = tab_of(workspace)
    picker = tab.form.components["adapters"]
    assert [value for _, value in tab.on_changed(None)[picker]["choices"]] == [""]
    run = old_run(workspace, TrainConfig(model=workspace.model))
    assert [value for _, value in tab.on_changed(None)[picker]["choices"]] == ["", str(run.adapter)]


# How a run is carried out


def started(run: Run, **more: object) -> None:
    facts = {"steps": 9, "rows": 50, "rows_per_step": 4, "held_out": 0, "device": "card", "trainable_parameters": 1234}
    run.append("started", **{**facts, **more})


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html)).strip()


def test_one_line_says_fast_or_plain_and_why(workspace: Workspace) -> None:
    run = old_run(workspace, build({"use_dora": "true"}), adapter=False)
    assert draw_how(page(workspace), run) == ""
    started(run, max_tokens=4096, recompute=False, plain_zh=None, plain_en=None)
    line, details = draw_how(page(workspace), run).split("</summary>")
    assert words(line) == "Fast path Details"
    assert "at most 4,096 tokens" in details and "every layer keeps" in details and "DoRA on" in details
    assert "1,234 trainable parameters" in details and str(run.folder) in details
    started(run, max_tokens=4096, recompute=True, plain_zh="因为", plain_en="a <reason>", memory_bytes=13.2e9)
    line, details = draw_how(page(workspace), run).split("</summary>")
    assert words(line).startswith("Plain way a &lt;reason&gt; Memory: estimated 13.2 GB")
    assert "compute twice" in details and "<reason>" not in details


def test_the_peak_stands_beside_the_estimate_and_a_smaller_pass_changes_the_plan(workspace: Workspace) -> None:
    run = old_run(workspace, TrainConfig(), adapter=False)
    started(run, max_tokens=4096, recompute=False, plain_zh=None, plain_en=None, memory_bytes=13.2e9)
    run.append("step", step=1, loss=1.0, seconds=1.0, peak_memory_bytes=13.4e9)
    run.append("step", step=2, loss=1.0, seconds=1.0, peak_memory_bytes=12.0e9)
    assert "peak 13.4 GB, estimated 13.2 GB before the start" in draw_how(page(workspace), run)
    run.append("smaller_split", step=2, tokens=4096, max_tokens=2048, recompute=True)
    drawn = draw_how(page(workspace), run)
    assert "at most 2,048 tokens" in drawn and "compute twice" in drawn and "13.2 GB" in drawn


def test_a_run_of_before_that_says_less_is_shown_with_what_it_says(workspace: Workspace) -> None:
    run = old_run(workspace, TrainConfig(adapters="/theirs"), adapter=False)
    run.append("started", steps=9, rows=50)
    drawn = words(draw_how(page(workspace), run))
    assert drawn.startswith("Plain way Details") and "/theirs" in drawn and "At a time" not in drawn


def test_loading_is_called_loading(workspace: Workspace) -> None:
    from ui.talk import meter

    assert "loading the model" in meter(page(workspace), None)


def test_a_table_that_was_deleted_is_not_offered_any_more(workspace: Workspace) -> None:
    workspace.create("mine", [Row("q", "", "a")])
    assert ("mine", "mine") in offers.tables(page(workspace))
    workspace.delete("mine")
    assert ("mine", "mine") not in offers.tables(page(workspace))


def test_a_reload_keeps_the_chosen_cards_while_they_are_there(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core import launch

    monkeypatch.setattr(launch, "visible_cards", lambda: ("0", "1", "2", "3"))
    tab = tab_of(workspace)
    form = dict(zip(fields.visible_names(), fields.show(tab.page.workspace.default_preset.config), strict=True))

    def loaded(number: object, model: str = "pocket") -> dict[str, object]:
        return tab.on_load(json.dumps([None, None, model, number, *form.values()]))[tab.cards]

    assert loaded(2)["value"] == 2 and "processes of its own" in loaded(2)["info"]
    assert loaded(0)["value"] == 0 and loaded(0)["info"] == ""
    assert loaded(2, "another-base")["value"] == 2  # the cards are the machine's, not the model's
    for strange in (9, "2", True, None, [2]):
        assert "value" not in loaded(strange)
    monkeypatch.setattr(launch, "visible_cards", lambda: ("0",))
    assert "value" not in loaded(2)

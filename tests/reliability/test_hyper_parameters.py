"""Values that are no settings, by the page, by the command line and by a preset's file: refused by name, nothing starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from core import cli, config, presets
from core.config import TrainConfig, fact_of
from core.dataset import Identity, Row
from core.errors import ConfigError
from core.workspace import Workspace
from ui import prepare_environment

prepare_environment()

FIELDS = (
    "learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
    "warmup_ratio", "weight_decay", "max_grad_norm", "lora_rank", "lora_alpha", "lora_dropout", "max_length",
    "split_dataset_ratio", "save_steps",
)  # fmt: skip
# As a component may send them, whatever it shows: Gradio checks nothing on the server.
SENT: tuple[object, ...] = (math.nan, math.inf, -math.inf, -1, 10**12, "abc", None, "", [8])
TYPED = ("nan", "inf", "-inf", "-1", "1e12", "abc", "", "1,5", "0x10")
WRITTEN = ("nan", "inf", "-inf", "-1", "1e12", '"abc"', '""', "[8]", "true")


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Workspace:
    opened = Workspace(tmp_path / "home")
    opened.create("rows", (Row("who?", "", "I am {{NAME}}."),), Identity("小禾", "Xiaohe", "青禾", "Qinghe"))
    opened.select_model(str(tiny_model))
    return opened


def faults(name: str, typed: object, english: str, chinese: str) -> list[str]:
    """What the sentence lacks: the field by its label and name, the range, what was typed."""
    fact = fact_of(name)
    wanted = (f"{fact.label.en} ({name})", f"{fact.min:,.10g}", f"{fact.max:,.10g}", str(typed)[:20])
    lacking = [word for word in wanted if word not in english]
    lacking += [word for word in (fact.label.zh, name) if word not in chinese]
    return [f"{name} = {typed!r} lacks {word}: {english}" for word in lacking]


def test_no_bad_value_starts_a_run_from_the_page(workspace: Workspace, full: bool, tally: Callable[..., None]) -> None:
    import gradio as gr

    from ui import fields
    from ui.edits import Edits
    from ui.page import Page
    from ui.train import TrainTab

    page = Page(workspace, "en", Edits(workspace))
    with gr.Blocks():
        tab = TrainTab(page)
    chinese = Page(workspace, "zh", page.edits)
    visible = fields.visible_names()
    wrong, cases = list[str](), 0
    press = page.shown(tab.on_press)
    for name in FIELDS:
        for value in SENT:
            values: list[object] = list(fields.show(TrainConfig()))
            values[visible.index(name)] = value
            cases += 1
            try:
                press("start", "rows", 0, "quick", workspace.model, *values)
                wrong.append(f"{name} = {value!r} started")
            except gr.Error as error:
                with pytest.raises(ConfigError) as caught:
                    fields.read(values, TrainConfig())
                said = str(error.message).replace("&#x27;", "'")
                wrong += faults(name, value, said, caught.value.of("zh"))
            # What the page says while it is typed names the field too, and offers no start.
            if (full or cases % 5 == 0) and name not in str(tab.on_preview("rows", "quick", workspace.model, *values)):
                wrong.append(f"{name} = {value!r}: the preview does not name it")
    assert chinese.language == "zh" and workspace.active is None
    print(*wrong, sep="\n")
    tally("bad settings by the page", cases=cases, lost=len(workspace.runs()), wrong=len(wrong))


def test_no_bad_value_starts_a_run_from_the_command_line(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tally: Callable[..., None],
) -> None:  # fmt: skip
    import app

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "who?", "answer": "I am one."}\n')
    grammar, wrong, cases, out = app.parser(), list[str](), 0, tmp_path / "out"
    fixed = ["--home", str(tmp_path / "home"), "train", "--model", str(tiny_model), "--dataset", str(rows)]
    said: dict[str, str] = {}
    for name in FIELDS:
        for typed in TYPED:
            cases += 1
            for language in ("en_US.UTF-8", "zh_CN.UTF-8"):
                monkeypatch.setenv("LC_ALL", language)
                monkeypatch.setenv("LANG", language)
                status = cli.run(grammar.parse_args([*fixed, "--output_dir", str(out), f"--{name}={typed}"]))
                captured = capsys.readouterr()
                said[language[:2]] = captured.err
                if status != 2 or captured.out or len(captured.err.strip().splitlines()) != 1:
                    wrong.append(f"--{name}={typed}: {status} {captured}")
            wrong += faults(name, typed, said["en"], said["zh"])
    print(*wrong, sep="\n")
    tally("bad settings by the command line", cases=cases, lost=int(out.exists()), wrong=len(wrong))


def test_no_bad_value_comes_in_by_a_preset(tmp_path: Path, tally: Callable[..., None]) -> None:
    wrong, cases, path = list[str](), 0, tmp_path / "mine.toml"
    head = 'name = {zh = "我的", en = "Mine"}\nnote = {zh = "", en = ""}\n[settings]\n'
    for name in FIELDS:
        for written in WRITTEN:
            cases += 1
            path.write_text(f"{head}{name} = {written}\n", encoding="utf-8")
            try:
                presets.preset(str(path))
                wrong.append(f"{name} = {written} was read")
            except ConfigError as error:
                if name not in error.of("zh") or path.name not in error.of("en"):
                    wrong.append(f"{name} = {written}: {error}")
    assert set(FIELDS) <= set(config.names())
    print(*wrong, sep="\n")
    tally("bad settings by a preset's file", cases=cases, wrong=len(wrong))

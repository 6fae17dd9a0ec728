"""An evaluation set by name: found, checked and frozen with the run, or refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import TrainConfig, build
from core.dataset import Identity, Row
from core.errors import ConfigError
from core.run import Run
from core.workspace import Workspace

ROWS = (Row("你是谁?", "", "我是{{NAME}}。"), Row("Who are you?", "", "I am {{NAME}} of {{AUTHOR}}."))
CARD = Identity("小禾", "Xiaohe", "青禾", "Qinghe")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "home")
    made.create("mine", ROWS, CARD)
    yield made
    assert made.close(60)


def test_a_named_set_is_frozen_with_its_own_identity(workspace: Workspace, tiny_config: TrainConfig) -> None:
    workspace.create("held", [*ROWS, Row("", "", "")], replace(CARD, name_zh="小麦"))
    config = build({"val_dataset": " held ", "eval_steps": 1}, tiny_config)
    assert workspace.preview("mine", config).rows == 2
    run = workspace.start("mine", config)
    workspace.delete("held")
    assert workspace._job.join(60) and run.status == "finished"
    assert [row.output for row in Run.open(run.folder).evaluation_rows] == ["我是小麦。", "I am Xiaohe of Qinghe."]
    assert len(run.rows) == 2 and sum(event["type"] == "evaluated" for event in run.events) == run.steps


@pytest.mark.parametrize("name", ["nowhere", "empty", "holes", "nameless", "long"])
def test_a_set_that_cannot_be_used_is_refused_by_the_setting_s_name(
    name: str, workspace: Workspace, tiny_config: TrainConfig
) -> None:
    workspace.create("empty", [Row("", "", "")])
    workspace.create("holes", [Row("q", "", "")])
    workspace.create("nameless", ROWS)
    workspace.create("long", [Row("q", "", "a" * 3000)])
    with pytest.raises(ConfigError, match=r"Evaluation set \(val_dataset\)") as caught:
        workspace.start("mine", build({"val_dataset": name}, tiny_config))
    assert caught.value.field == "val_dataset" and "验证集" in caught.value.of("zh")
    assert list((workspace.home / "runs").iterdir()) == [] and workspace.active is None


def test_a_wrong_name_is_known_before_the_start(workspace: Workspace, tiny_config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        workspace.preview("mine", build({"val_dataset": "nowhere"}, tiny_config))


def test_the_command_line_takes_a_file(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import app

    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    begin = ["train", "--model", str(tiny_model), "--dataset", str(rows), "--model_name", "x"]
    out = ["--output_dir", str(tmp_path / "out")]
    assert app.main([*begin, *out, "--val_dataset", "nope.json"]) == 2
    assert "Evaluation set (val_dataset): Data file nope.json was not found" in capsys.readouterr().err
    assert app.main([*begin, *out, "--val_dataset", str(rows), "--split_dataset_ratio", "0.5"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert app.main(begin) == 2 and "--output_dir is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""One run at a time in a home: by the page, by another page, by the command line; and only one page on it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

import app
from core.config import TrainConfig, build
from core.dataset import Identity, Row
from core.errors import BusyError
from core.workspace import Workspace

ROWS = [Row(f"question {i}", "", f"answer {i}") for i in range(8)]


def test_what_another_process_would_begin_beside_a_run_is_refused_and_leaves_nothing(
    tmp_path: Path, tiny_config: TrainConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    home, other = Workspace(tmp_path), Workspace(tmp_path)
    home.create("mine", ROWS, Identity("小禾", "Xiaohe", "青禾", "Qinghe"))
    home.lock()
    with pytest.raises(BusyError, match="Another OneCard"):
        other.lock()
    run = home.start("mine", build({"max_steps": 100_000}, tiny_config))
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    given = ["train", "--model", tiny_config.model, "--dataset", str(rows), "--model_name", "x"]
    try:
        with pytest.raises(BusyError, match=r"process \d+\) is training in"):
            other.start("mine", tiny_config)
        with pytest.raises(BusyError, match="is training in"):
            other.resume(run.id)
        assert app.main([*given, "--output_dir", str(tmp_path / "runs" / "second")]) == 2
        assert "is training in" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.id]
    finally:
        while run.live and run.step < 1:
            threading.Event().wait(0.01)
        home.stop()
        assert home._job.join(120)
    assert run.status == "stopped"
    resumed = other.resume(run.id)
    other.stop()
    assert other._job.join(120) and resumed.status == "stopped"
    assert home._home_lock is not None
    home._home_lock.close()

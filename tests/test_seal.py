"""The base seal: it holds through adapters and runs, breaks with any change of the base, and the base is loaded anew."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core import adapters, seal
from core.config import TrainConfig, build
from core.dataset import Row
from core.engine import Engine, Resident
from core.errors import ModelError
from core.plain import PlainBackend
from core.run import Run
from core.train import train

ROWS = [Row(f"question {i}", "", f"answer {i}") for i in range(4)]


def there(engine: Engine) -> Resident:
    """What is loaded."""
    assert engine.resident is not None
    return engine.resident


def weights(engine: Engine) -> Any:
    """A weight in the middle of the base, to be changed in place."""
    model: Any = there(engine).backend.model  # type: ignore[attr-defined]
    projection = model.model.layers[1].mlp.down_proj
    return getattr(projection, "base_layer", projection).weight.data


def made(engine: Engine, config: TrainConfig, folder: Path) -> adapters.Adapter:
    """A saved adapter that changes much; nothing is attached."""
    engine.create_adapter("made", config)
    for parameter in there(engine).backend.adapter_parameters(engine.handle("made")):
        parameter.data.fill_(0.1)
    engine.save_adapter("made", folder, {})
    engine.detach("made")
    return adapters.read(folder, "again")


def test_a_loaded_base_is_verified_and_stays_so_whatever_is_attached_or_trained(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    loaded = tiny_engine.checked
    assert loaded.state == "verified" and loaded.at > 0
    tiny_engine.attach(made(tiny_engine, tiny_config, tmp_path / "made"))
    assert tiny_engine.checked.state == "verified" and tiny_engine.checked.at > loaded.at
    before = tiny_engine.checked.at
    run = Run.create(tmp_path / "run", build({"max_steps": 3}, tiny_config), ROWS, "t", "t")
    train(tiny_engine, run, threading.Event())
    assert run.status == "finished" and tiny_engine.checked.state == "verified" and tiny_engine.checked.at > before
    assert set(tiny_engine.attached) == {"again", run.id}
    tiny_engine.unload()
    assert tiny_engine.checked.state == "unknown"
    tiny_engine.verify()
    assert tiny_engine.checked.state == "unknown"


def test_a_run_that_is_stopped_or_fails_is_followed_by_a_check(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    before, stop = tiny_engine.checked.at, threading.Event()
    stop.set()
    train(tiny_engine, Run.create(tmp_path / "stopped", tiny_config, ROWS, "t", "t"), stop)
    stopped = tiny_engine.checked
    assert stopped.state == "verified" and stopped.at > before
    with pytest.raises(ModelError):
        gone = build({"adapters": str(tmp_path / "nothing")}, tiny_config)
        train(tiny_engine, Run.create(tmp_path / "failed", gone, ROWS, "t", "t"), threading.Event())
    assert tiny_engine.checked.state == "verified" and tiny_engine.checked.at > stopped.at


def test_a_run_that_is_stopped_while_its_base_is_read_leaves_nothing_loaded_and_nothing_failed(
    tiny_config: TrainConfig, tmp_path: Path
) -> None:
    engine, stop = Engine(), threading.Event()
    stop.set()
    run = Run.create(tmp_path / "stopped", tiny_config, ROWS, "t", "t")
    train(engine, run, stop)
    assert run.status == "stopped" and engine.state == "absent" and engine.resident is None


@pytest.mark.parametrize("change", [1e-3, 1e-6], ids=["clearly", "by a hair"])
def test_a_base_that_has_changed_is_loaded_anew(tiny_engine: Engine, change: float) -> None:
    right = weights(tiny_engine).clone()
    weights(tiny_engine)[3, 5] += change
    tiny_engine.verify()
    assert tiny_engine.checked.state == "reloaded" and tiny_engine.state == "ready"
    assert torch.equal(weights(tiny_engine), right)
    tiny_engine.verify()
    assert tiny_engine.checked.state == "verified"


def test_a_base_that_somebody_holds_is_loaded_anew_when_they_let_go(tiny_engine: Engine) -> None:
    with pytest.raises(KeyError), tiny_engine.held("run"):
        held = there(tiny_engine)
        weights(tiny_engine).mul_(1.1)
        tiny_engine.verify()
        assert tiny_engine.checked.state == "changed" and tiny_engine.resident is held
        raise KeyError
    assert tiny_engine.checked.state == "reloaded" and tiny_engine.resident is not held


def test_an_adapter_that_comes_to_a_changed_base_is_not_attached(
    tiny_engine: Engine, tiny_config: TrainConfig, tmp_path: Path
) -> None:
    adapter = made(tiny_engine, tiny_config, tmp_path / "made")
    with tiny_engine.held("run"):
        weights(tiny_engine).mul_(1.1)
        with pytest.raises(ModelError, match="stop it"):
            tiny_engine.attach(adapter)
        assert tiny_engine.attached == () and tiny_engine.checked.state == "changed"
    weights(tiny_engine).mul_(1.1)
    with pytest.raises(ModelError, match="Try again"):
        tiny_engine.attach(adapter)
    assert tiny_engine.attached == () and tiny_engine.checked.state == "reloaded"
    tiny_engine.attach(adapter)
    assert tiny_engine.attached == ("again",) and tiny_engine.checked.state == "verified"


def test_other_rounding_is_the_same_base_and_a_hair_in_the_weights_is_not(tiny_engine: Engine) -> None:
    resident = there(tiny_engine)
    model: Any = resident.backend.model  # type: ignore[attr-defined]
    taken = seal.take(resident)
    plain = replace(resident, backend=PlainBackend(model, torch.device("cpu"), None))
    assert not torch.equal(seal.take(plain).logits, taken.logits)  # else this would test nothing
    assert seal.intact(taken, plain)
    weights(tiny_engine)[3, 5] += 1e-6
    assert not seal.intact(taken, plain)


def test_an_adapter_that_answers_where_the_base_should_is_found_out(
    plain_engine: Engine, tiny_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_engine.attach(made(plain_engine, tiny_config, tmp_path / "made"))
    backend: Any = there(plain_engine).backend
    handle = plain_engine.handle("again")
    monkeypatch.setattr(backend, "routing", lambda routes: {handle: (None, None)})
    plain_engine.verify()
    assert plain_engine.checked.state == "reloaded"


def test_a_check_for_which_there_is_no_memory_is_none(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def slots() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    held = there(tiny_engine)
    monkeypatch.setattr(held.backend, "slots", slots)
    tiny_engine.verify()
    assert tiny_engine.checked.state == "unknown" and tiny_engine.resident is held
    monkeypatch.undo()
    tiny_engine.verify()
    assert tiny_engine.checked.state == "verified"


def test_the_top_bar_says_what_is_known_of_the_base(tiny_engine: Engine, tmp_path: Path) -> None:
    from core.workspace import Workspace
    from ui.edits import Edits
    from ui.page import Page
    from ui.top_bar import _shown

    workspace = Workspace(tmp_path / "home", tiny_engine)
    zh, en = (Page(workspace, language, Edits(workspace)) for language in ("zh", "en"))
    assert _shown(en)["seal"] == "✓ Base verified" and _shown(en)["seal_kind"] == "ok"
    weights(tiny_engine).mul_(1.1)
    with tiny_engine.held("run"):
        tiny_engine.verify()
        assert _shown(zh)["seal"] == "✕ 基座变了" and _shown(zh)["seal_kind"] == "bad"
    shown = _shown(en)
    assert shown["seal"] == "! Base reloaded" and "anew" in str(shown["seal_title"])
    tiny_engine.unload()
    assert _shown(en)["seal"] == ""

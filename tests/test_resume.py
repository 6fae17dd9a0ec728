"""Going on with a run: the same bytes as one that was never interrupted, from any step, after any kind of end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core import checkpoints, storage
from core.config import TrainConfig, build
from core.dataset import Identity, Row
from core.device import find_device
from core.engine import Engine
from core.errors import BusyError, ModelError
from core.run import Event, Run
from core.train import check_again, train
from core.workspace import Workspace
from tests.full import full

ROOT = Path(__file__).resolve().parents[1]
ROWS = [Row(f"question {i} " + "x" * (3 * i), "", f"answer {i}" * (1 + i % 3)) for i in range(10)]


class Killed(BaseException):
    """Ends a run the way a kill does: nothing is saved on the way out."""


def carry_out(folder: Path, config: TrainConfig, stop_at: int = 0, kill_at: int = 0, rows: list[Row] = ROWS) -> Run:
    """A new run in `folder`, or what is left of it, in a process that knows nothing of what was before."""
    run = Run.open(folder) if folder.exists() else Run.create(folder, config, rows, "test", "test")
    stop, original = threading.Event(), run.append

    def append(kind: str, **fields: object) -> Event:
        event = original(kind, **fields)
        if kind == "step" and fields["step"] == stop_at:
            stop.set()
        if kind == "step" and fields["step"] == kill_at:
            raise Killed
        return event

    run.append = append  # type: ignore[method-assign]
    torch.manual_seed(len(run.events))  # an outside state must not matter
    if kill_at:
        with pytest.raises(Killed):
            train(Engine(), run, stop)
    else:
        train(Engine(), run, stop)
    return Run.open(folder)


def weights(run: Run) -> bytes:
    return (run.folder / "adapter" / "adapter_model.safetensors").read_bytes()


def curve(run: Run) -> list[tuple[object, ...]]:
    """All of the run's numbers that do not depend on the clock."""
    names = ("type", "step", "loss", "epoch", "learning_rate", "grad_norm", "tokens", "best")
    kinds = ("step", "evaluated")
    return [tuple(event.get(name) for name in names) for event in run.history if event["type"] in kinds]


SETTINGS: dict[str, dict[str, object]] = {
    "adamw": {},
    "lion": {"optim": "lion_32bit", "learning_rate": 1e-3, "lora_dropout": 0.2},
    "adamw, dropout and LoRA+": {"lora_dropout": 0.3, "lorap_lr_ratio": 4},
    "an evaluation split": {"split_dataset_ratio": 0.2, "eval_steps": 2},
    "PiSSA and noise": {"init_weights": "pissa", "neftune_noise_alpha": 5, "learning_rate": 1e-3},
    "DoRA": {"use_dora": "true"},
}


FEW = ("adamw", "an evaluation split", "PiSSA and noise")


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case in FEW else full) for case in SETTINGS])
def test_a_stopped_run_goes_on_to_the_same_bytes(case: str, tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"max_steps": 7, **SETTINGS[case]}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    for step in (1, 4):
        folder = tmp_path / f"stopped-{step}"
        stopped = carry_out(folder, config, stop_at=step)
        assert stopped.status == "stopped" and stopped.resumable and weights(stopped) != weights(straight)
        run = carry_out(folder, config)
        assert run.status == "finished" and not run.resumable
        assert weights(run) == weights(straight) and curve(run) == curve(straight), step
        assert [e["step"] for e in run.events if e["type"] == "resumed"] == [step]


def test_a_killed_run_goes_on_from_its_newest_checkpoint_and_no_step_is_told_twice(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({"max_steps": 8, "save_steps": 3, "probe_steps": 2, "probe_share": 1}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    killed = carry_out(tmp_path / "killed", config, kill_at=5)
    assert killed.status == "interrupted" and killed.adapter is None
    again = carry_out(tmp_path / "killed", config, kill_at=7)
    assert [e["step"] for e in again.history if e["type"] == "step"] == [1, 2, 3, 4, 5, 6, 7]
    run = carry_out(tmp_path / "killed", config)
    assert weights(run) == weights(straight) and curve(run) == curve(straight)
    assert [e["step"] for e in run.events if e["type"] == "resumed"] == [3, 6]
    told = {
        r.id: [(e["step"], e["hits"], e["answers"]) for e in r.history if e["type"] == "probed"]
        for r in (straight, run)
    }
    assert told["straight"] == told["killed"] and [step for step, *_ in told["killed"]] == [0, 2, 4, 6, 8]
    assert run.last("finished") is not None and run.last("stopped") is None


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"max_steps": 4}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    assert carry_out(tmp_path / "killed", config, kill_at=2).step == 2
    run = carry_out(tmp_path / "killed", config)
    assert weights(run) == weights(straight) and curve(run) == curve(straight)
    assert run.last("resumed") is not None and run.last("resumed")["step"] == 0  # type: ignore[index]


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"max_steps": 8, "save_steps": 2, "save_total_limit": 9}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    carry_out(tmp_path / "whole", config, kill_at=7)

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-9])

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)

    damages: list[Callable[[Path], None]] = [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")]
    for index, damage in enumerate(damages):
        for name in (checkpoints.RECORD, checkpoints.TENSORS, "adapter_model.safetensors", "onecard.json"):
            if (damage, name) == (flip, "onecard.json"):
                continue  # a letter of the card, which a person may edit
            folder = tmp_path / f"{index}-{name}"
            shutil.copytree(tmp_path / "whole", folder)
            damage(folder / "checkpoints" / "step-000006" / name)
            found, damaged = checkpoints.newest(Run.open(folder))
            assert found is not None and found.state.step == 4 and damaged == ["step-000006"], folder.name
    run = carry_out(folder, config)
    assert weights(run) == weights(straight)
    assert (folder / "checkpoints" / "damaged-step-000006").is_dir()


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"max_steps": 6, "save_steps": 2}, tiny_config)
    carry_out(tmp_path / "run", config, kill_at=3)
    record = storage.read_json(tmp_path / "run" / "config.json")
    assert isinstance(record, dict)
    record["settings"]["optim"] = "lion_32bit"
    storage.write_json(tmp_path / "run" / "config.json", record)
    with pytest.raises(ModelError, match="does not fit"):
        carry_out(tmp_path / "run", config)


def test_the_checkpoint_is_a_plain_adapter_without_pickle(tmp_path: Path, tiny_config: TrainConfig) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = carry_out(tmp_path / "run", build({"max_steps": 6, "save_steps": 2}, tiny_config), stop_at=3)
    folders = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert folders == ["step-000002", "step-000003"]
    newest = run.folder / "checkpoints" / folders[-1]
    assert {path.suffix for path in newest.iterdir()} <= {".json", ".safetensors", ".md"}
    assert (newest / "adapter_model.safetensors").read_bytes() == weights(run)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(run.config.model), str(newest))


def test_float16_goes_on_with_the_scale_and_the_plan_it_had(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"max_steps": 6, "save_steps": 2, "torch_dtype": "float16", "learning_rate": 1e-3}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    folder = tmp_path / "killed"
    found, _ = checkpoints.newest(carry_out(folder, config, kill_at=3))
    assert found is not None and found.state.scale == 2.0**12
    started = straight.first("started")
    assert started is not None and found.state.plan["max_tokens"] == started["max_tokens"]
    run = carry_out(folder, config)
    assert weights(run) == weights(straight) and curve(run) == curve(straight)


def test_what_a_killed_save_left_is_removed(tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = build({"max_steps": 4, "save_steps": 2}, tiny_config)
    run = Run.create(tmp_path / "run", config, ROWS, "test", "test")
    code = (
        "import os, sys, threading, safetensors.torch; from pathlib import Path; from core.engine import Engine;"
        "from core.run import Run; from core.train import train;"
        "safetensors.torch.save_file = lambda *_, **__: os._exit(9);"
        "train(Engine(), Run.open(Path(sys.argv[1])), threading.Event())"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run.folder)], cwd=ROOT, check=False).returncode == 9
    assert len([path for path in (run.folder / "checkpoints").iterdir() if path.name.startswith(".")]) == 1
    (run.folder / ".adapter.0123abcd.tmp").mkdir()
    assert carry_out(run.folder, config).status == "finished"
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step-000002"]
    assert not any(path.name.startswith(".adapter") for path in run.folder.iterdir())


def test_a_run_that_began_from_an_adapter_goes_on_without_it(tmp_path: Path, tiny_config: TrainConfig) -> None:
    source = carry_out(tmp_path / "source", build({"max_steps": 2}, tiny_config))
    config = build({"max_steps": 6, "adapters": str(source.adapter)}, tiny_config)
    straight = carry_out(tmp_path / "straight", config)
    stopped = carry_out(tmp_path / "stopped", config, stop_at=3)
    none_saved = carry_out(tmp_path / "killed", config, kill_at=2)
    shutil.rmtree(source.folder)
    check_again(stopped, find_device())
    assert weights(carry_out(tmp_path / "stopped", config)) == weights(straight)
    with pytest.raises(ModelError, match="no adapter folder"):
        check_again(none_saved, find_device())


def test_an_adapter_that_a_chat_attached_meanwhile_makes_way(tiny_engine: Engine, tiny_config: TrainConfig) -> None:
    assert tiny_engine.resident is not None
    backend = tiny_engine.resident.backend
    for _ in range(2):
        tiny_engine.create_adapter("run", tiny_config)
        named = [name for name, _ in backend.model.named_parameters() if "lora_A" in name]  # type: ignore[attr-defined]
        assert len(named) == 14 and tiny_engine.attached == ("run",)


@pytest.mark.parametrize(
    ("locale", "said"),
    [pytest.param("en_US.UTF-8", "damaged and were passed over", marks=full), ("zh_CN.UTF-8", "已损坏")],
)
def test_the_command_line_names_a_damaged_checkpoint(
    locale: str, said: str, tmp_path: Path, tiny_config: TrainConfig
) -> None:
    config = build({"max_steps": 5, "save_steps": 2}, tiny_config)
    run = carry_out(tmp_path / "run", config, kill_at=5)
    (run.folder / "checkpoints" / "step-000004" / checkpoints.RECORD).write_text("{")
    done = subprocess.run(
        [sys.executable, "app.py", "train", "--resume", str(run.folder)], cwd=ROOT, capture_output=True, text=True,
        timeout=180, env={**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": locale, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if said in line]
    assert "step-000004" in line and "2" in line.partition("step-000004")[0]


# In a workspace and on the command line


def finish(workspace: Workspace) -> None:
    assert workspace._job.join(120)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "home")
    made.create("mine", ROWS, Identity("小禾", "Xiaohe", "青禾", "Qinghe"))
    return made


def test_a_workspace_goes_on_with_a_stopped_run_and_refuses_a_finished_one(
    workspace: Workspace, tiny_config: TrainConfig
) -> None:
    run = workspace.start("mine", build({"max_steps": 40}, tiny_config))
    while run.step < 3:
        threading.Event().wait(0.01)
    with pytest.raises(BusyError):
        workspace.resume(run.id)
    workspace.stop()
    finish(workspace)
    assert run.status == "stopped" and run.id in workspace.engine.attached
    ended = run.step
    assert checkpoints.newest_step(run) == ended < 40
    assert workspace.resume(run.id) is run
    finish(workspace)
    assert run.status == "finished" and run.step == 40
    assert [e["step"] for e in run.history if e["type"] == "step"] == list(range(1, 41))
    with pytest.raises(BusyError, match="finished"):
        workspace.resume(run.id)
    assert workspace.active is None


def test_a_run_that_another_program_trains_is_not_touched(workspace: Workspace, tiny_config: TrainConfig) -> None:
    run = Run.create(workspace.home / "runs" / "other", tiny_config, ROWS, "other", "mine")
    run.append("loading", model="m")
    code = (
        "import sys; from pathlib import Path; from core.run import Run; run = Run.open(Path(sys.argv[1])); run.claim();"
        "print('mine', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
        before = (run.folder / "events.jsonl").read_bytes()
        with pytest.raises(BusyError, match="Another program"):
            workspace.resume("other")
        assert (run.folder / "events.jsonl").read_bytes() == before and workspace.active is None
    finally:
        holder.communicate("")
    workspace.resume("other")
    finish(workspace)
    assert workspace.run("other").status == "finished"


def test_a_process_killed_by_the_system_goes_on_from_the_command_line(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import app

    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    rows, out = tmp_path / "rows.json", tmp_path / "home" / "runs" / "out"
    rows.write_text(json.dumps([{"instruction": r.instruction, "output": r.output} for r in ROWS]))
    arguments = ["train", "--model", tiny_model, "--dataset", rows, "--output_dir", out, "--model_name", "x", "--json"]
    settings = ["--max_steps", "60", "--save_steps", "5", "--probe_steps", "0", "--preset", "quick"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "app.py", *map(str, [*arguments, *settings])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["type"] == "saved":
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = checkpoints.newest_step(Run.open(out))
    assert 5 <= saved < 60

    begin = ["--home", str(tmp_path / "home"), "train", "--resume"]
    assert app.main([*begin, "out", "--max_steps", "5"]) == 2 and "--max_steps" in capsys.readouterr().err
    assert app.main([*begin, "nowhere"]) == 2 and "nowhere" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "app.py", *begin, "out", "--json"],
        cwd=ROOT, capture_output=True, text=True, env=environment, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["type"] for e in events[:2]] == ["loading", "resumed"] and events[1]["step"] == saved
    assert events[-1]["type"] == "finished" and events[-1]["step"] == 60
    run = Run.open(out)
    assert [e["step"] for e in run.history if e["type"] == "step"] == list(range(1, 61))
    assert app.main([*begin, str(out)]) == 2 and "finished" in capsys.readouterr().err


def test_the_adapters_step_is_that_of_the_folder_also_after_a_resumption(
    tmp_path: Path, tiny_config: TrainConfig
) -> None:
    """Step 20 was chosen, then the run went on from 40: until it saves again, adapter/ holds step 20."""
    run = Run.create(tmp_path / "run", tiny_config, ROWS, "r", "rows")
    run.append("saved", step=60, path="adapter")
    run.append("stopped", step=60)
    run.append("chosen", step=20)
    run.append("resumed", step=40)
    assert run.adapter_step == 20 and Run.open(run.folder).adapter_step == 20
    run.append("saved", step=45, path="checkpoints/step-000045")
    assert run.adapter_step == 20
    run.append("saved", step=50, path="adapter")
    assert run.adapter_step == 50


def test_a_second_claim_on_a_run_does_not_let_go_of_the_first(tmp_path: Path, tiny_config: TrainConfig) -> None:
    run = Run.create(tmp_path / "run", tiny_config, ROWS, "r", "rows")
    run.claim()
    for other in (run, Run.open(run.folder)):
        with pytest.raises(BusyError):
            other.claim()
    run.release()
    run.claim()
    run.release()

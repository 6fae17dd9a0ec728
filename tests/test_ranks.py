"""A run over several cards, as two processes on the processor: the same adapter, one teller, one end. Work: ranks_work.py."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from app import main
from core import launch, models, spread
from core import ranks as launched
from core.batch import shares
from core.config import TrainConfig
from core.dataset import Dataset, Row
from core.device import find_device
from core.engine import Engine
from core.errors import BusyError, ConfigError, UserError
from core.run import Run
from core.train import train
from core.workspace import Workspace
from tests.full import FULL, full

ROOT = Path(__file__).resolve().parents[1]
# Without ONECARD_FULL, those that need each other least: the fused and the plain path, stop, resume and crash.
FEW = ("fused", "short", "stopped", "crash")
ALL = ("plain", "fused", "guard", "few rows", "short", "stopped", "spread", "spread nf4", "crash")
LONG = 3600  # a process that has not ended by then is one that never will, whatever the machine
CLOCK = {"time", "seconds", "tokens_per_second", "peak_memory_bytes", "probe_seconds"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def told(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    shared |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.ranks_work", str(tiny_model), str(folder), *(ALL if FULL else FEW)]
    logs = [(folder / f"{rank}.log").open("w+") for rank in range(2)]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=log, stderr=log
        )
        for rank, log in enumerate(logs)
    ]
    try:
        # The second one dies in the last case: the first ends by itself, whatever became of the other.
        deadline = time.monotonic() + LONG
        while processes[0].poll() is None and time.monotonic() < deadline:
            if processes[1].poll() not in (None, 9):
                break  # it failed before its time: the log says at what
            time.sleep(0.05)
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    assert (folder / "told.json").is_file(), "\n".join(
        (folder / f"{rank}.log").read_text()[-3000:] for rank in range(2)
    )
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found


def of(*cases: str) -> list[Any]:
    """Cases as parameters; those that take long wait for ONECARD_FULL."""
    return [pytest.param(case, marks=() if case in FEW else full) for case in cases]


@pytest.mark.parametrize("case", of("plain", "fused", "guard", "few rows", "short"))
def test_two_processes_train_the_adapter_of_one(told: dict[str, Any], case: str) -> None:
    assert told[case]["difference"] < 1e-6, told[case]["difference"]


@pytest.mark.parametrize("case", of("plain", "fused", "guard", "few rows", "spread", "spread nf4"))
def test_two_processes_tell_what_one_tells(told: dict[str, Any], case: str) -> None:
    def kept(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # Where the base is spread nothing is asked; how it was planned is each one's own.
        own = {"cards", "memory_bytes", "max_tokens", "plain_zh", "plain_en", "adapter"}
        return [
            {key: value for key, value in event.items() if key not in CLOCK | own}
            for event in events
            if event["type"] != "probed"
        ]

    two, one = kept(told[case]["two"]), kept(told[case]["one"])
    assert [event.keys() for event in two] == [event.keys() for event in one]
    for mine, right in zip(two, one, strict=True):
        for key, value in right.items():
            expected = pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
            assert key == "path" or mine[key] == expected, (mine["type"], key)
    started = next(event for event in told[case]["two"] if event["type"] == "started")
    assert started["cards"] == 2


def test_memory_that_runs_out_on_one_card_makes_all_passes_smaller(told: dict[str, Any]) -> None:
    kinds = [event["type"] for event in told["short"]["two"]]
    assert kinds.count("smaller_split") == 1 and kinds[-1] == "finished"
    assert "smaller_split" not in [event["type"] for event in told["short"]["one"]]


def test_a_stopped_run_goes_on_to_the_same_bytes_with_as_many_cards(told: dict[str, Any]) -> None:
    straight, again = (Path(told[name]) for name in ("straight", "stopped-then-2"))
    assert [e["step"] for e in Run.open(again).events if e["type"] == "resumed"] == [2]
    whole, resumed = ((f / "adapter" / "adapter_model.safetensors").read_bytes() for f in (straight, again))
    assert whole == resumed
    losses = [[e["loss"] for e in Run.open(f).history if e["type"] == "step"] for f in (straight, again)]
    assert losses[0] == losses[1] and len(losses[0]) == 5


def test_a_run_goes_on_with_another_number_of_cards_to_the_same_adapter_but_for_rounding(told: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    run = Run.open(Path(told["stopped-then-1"]))
    resumed = run.last("resumed")
    assert run.status == "finished" and resumed is not None and (resumed["step"], resumed["cards"]) == (2, 1)
    straight, again = (
        load_file(Path(told[name]) / "adapter" / "adapter_model.safetensors") for name in ("straight", "stopped-then-1")
    )
    for key, tensor in straight.items():
        assert float((again[key] - tensor).abs().max() / tensor.abs().max()) < 1e-6, key


@full
@pytest.mark.parametrize("case", ["spread", "spread nf4"])
def test_a_base_spread_over_the_cards_trains_the_same_and_lies_nowhere_whole(told: dict[str, Any], case: str) -> None:
    assert told[case]["difference"] < 1e-3 and told[case]["share"] == pytest.approx(0.5, abs=0.01)
    assert told["refused"] == "rehearsal"
    assert "probed" not in [event["type"] for event in told[case]["two"]]


@pytest.mark.parametrize(
    ("layers", "number", "measured"),  # bytes of a layer's number; GiB that two H200s saved (docs/scale.md)
    [(28, 2.0, 5.3), (14, 0.516, 0.03)],
)
def test_the_plan_counts_on_no_more_than_a_spread_base_was_seen_to_save(
    layers: int, number: float, measured: float
) -> None:
    shape = models.inspect("pocket")
    seven = replace(shape, layers=layers, vocab_size=152_064, hidden_size=3584, tied_embeddings=False)
    whole = int(seven.embedding_parameters * 2 + layers * 233_046_016 * number)
    assert 0 <= spread.saved_bytes(seven, whole, 2, 2) / 2**30 <= measured


def test_a_process_that_dies_ends_the_run_which_can_be_gone_on_with(told: dict[str, Any]) -> None:
    run = Run.open(Path(told["crash"]))
    assert run.ending is not None and (run.status, run.ending["cause"]) == ("failed", "rank")
    assert "rank 1" in str(run.ending["message_en"]) and "rank 1" in str(run.ending["message_zh"])
    assert run.resumable and not (run.folder / "error.txt").exists()
    train(Engine(), run, threading.Event())
    assert run.status == "finished" and [e["step"] for e in run.events if e["type"] == "resumed"] == [3]


def test_a_step_is_divided_by_tokens_and_keeps_its_order() -> None:
    rows = ["x" * length for length in (900, 10, 500, 300, 80, 20)]
    parts = shares(rows, 2)
    assert sorted(map(len, [row for part in parts for row in part])) == sorted(map(len, rows))
    assert [sum(map(len, part)) for part in parts] == [910, 900]
    assert [list(map(len, part)) for part in parts] == [[900, 10], [500, 300, 80, 20]]
    assert shares(rows[:1], 3) == [rows[:1], [], []] and shares(rows, 1) == [rows]


def test_a_process_keeps_to_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    launched._keep_to_own_card(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launched._keep_to_own_card(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match="3 processes were started, but only 2 cards"):
        launched._keep_to_own_card(2)


def test_a_stop_that_nobody_asked_for_is_told_as_the_loss_of_a_process() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ranks = launched.Ranks(0, 2)
    ranks._processes = [(socket.gethostname(), os.getpid()), ("another machine", gone.pid)]
    ranks.check()
    ranks._processes[1] = (socket.gethostname(), gone.pid)
    with pytest.raises(launched.RankLostError, match="rank 1"):
        ranks.check()


def test_the_launcher_starts_nothing_but_train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for arguments in ([], ["chat", "--prompt", "hi"]):
        assert main(arguments) == 2
        said = capsys.readouterr()
        assert not said.out and said.err.count("\n") == 1 and "WORLD_SIZE" in said.err


def test_the_cards_offered_are_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, offered in (("", []), ("3", []), ("3,5", [0, 1, 2]), ("0, 1, 2", [0, 1, 2, 3])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [number for _, number in launch.choices()] == offered


def test_the_cards_chosen_leave_the_first_to_chat_while_they_can(
    monkeypatch: pytest.MonkeyPatch, tiny_config: TrainConfig, tiny_engine: Engine
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,4,7")
    found = [launch.chosen_cards(number, tiny_config, tiny_engine) for number in range(4)]
    assert found == [(), ("4",), ("4", "7"), ("0", "4", "7")]
    with pytest.raises(ConfigError, match="4 cards were chosen, but only 3 are visible"):
        launch.chosen_cards(4, tiny_config, tiny_engine)


@full
@pytest.mark.parametrize("cards", [1, 2])
def test_the_page_has_the_launcher_train_stops_it_and_goes_on(
    cards: int, tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_device().kind == "cuda":
        pytest.skip("stand-ins for cards, which are there")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    workspace = Workspace(tmp_path)
    rows = [Row(f"question {i}", "", f"answer {i}") for i in range(8)]
    asked = replace(tiny_config, num_train_epochs=100, max_steps=4000, save_steps=5, torch_dtype="float32")
    run = workspace.start(Dataset("few", tuple(rows)), asked, cards=cards)
    until(lambda: len([e for e in run.events if e["type"] == "step"]) > 3, run)
    assert workspace.active is run
    workspace.stop()
    until(lambda: not run.live, run)
    assert run.status == "stopped" and run.adapter is not None, run.events[-1]
    answers_as_its_file(workspace, run)
    stopped = int(run.events[-1]["step"])
    again = workspace.resume(run.id, cards=cards)
    until(lambda: again.last("resumed") is not None, again)
    resumed = again.last("resumed")
    assert resumed is not None and (resumed["step"], resumed["cards"]) == (stopped, cards)
    until(lambda: int(str((again.last("step") or {"step": 0})["step"])) > stopped, again)
    workspace.stop()
    until(lambda: not again.live, again)
    told = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    assert again.status == "stopped" and again.events == told
    answers_as_its_file(workspace, again)
    workspace.close()


def answers_as_its_file(workspace: Workspace, run: Run) -> None:
    """What the page asks is what the other processes have saved."""
    with workspace.hold([run.id]), workspace.engine.turn() as resident:
        tensors, _ = resident.backend.adapter_state(workspace.engine.handle(run.id))
        held = sorted(float(tensor.double().abs().sum()) for tensor in tensors.values())
    saved = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    assert held == pytest.approx(sorted(float(tensor.double().abs().sum()) for tensor in saved.values()), rel=1e-6)


def test_what_the_page_started_ends_in_order_once_the_page_is_gone() -> None:
    page = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    code = (
        "import signal, sys, time; from core.launch import end_with_the_page; "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); end_with_the_page(); print(1, flush=True); time.sleep(90)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
        env={**os.environ, "ONECARD_FOLLOWED_BY": str(page.pid)},
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == b"1\n" and child.poll() is None
    page.kill()
    page.wait()
    assert child.wait(30) == 7
    child.stdout.close()


@pytest.mark.parametrize(("total", "free", "refused"), [(24e9, 22e9, True), (60e9, 9e9, True), (60e9, 40e9, False)])
def test_a_base_that_answers_takes_no_memory_from_a_run_on_all_cards(
    tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, total: float, free: float, refused: bool
) -> None:
    run = Run.create(tmp_path / "r", tiny_config, [Row("a", "", "b")], "mine", "t")
    engine = Engine()
    engine.device = replace(find_device(), kind="cuda", memory_total=int(total))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(launch, "memory_free", lambda device: int(free))
    monkeypatch.setattr(launch.estimate, "resident_bytes", lambda *_: int(15e9))
    launch.make_sure_of_room(engine, tiny_config, run, ("1",))
    launch.make_sure_of_room(engine, tiny_config, None, ())
    if refused:
        with pytest.raises(BusyError, match="training on all cards"):
            launch.make_sure_of_room(engine, tiny_config, run, ("0", "1"))
    else:
        launch.make_sure_of_room(engine, tiny_config, run, ("0", "1"))


def until(reached: Callable[[], bool], run: Run) -> None:
    """Wait for it, or for the run's failure, which is told."""
    deadline = time.monotonic() + LONG
    while not reached():
        log = run.folder / launch.LOG
        said = log.read_text(errors="replace")[-3000:] if log.is_file() else ""
        assert run.status != "failed" and time.monotonic() < deadline, (run.events[-1:], said)
        time.sleep(0.05)


def test_alone_nothing_is_sent_and_what_fails_is_itself() -> None:
    with launched.joined() as ranks:
        assert (ranks.rank, ranks.size, ranks.leads) == (0, 1, True)
        with pytest.raises(UserError), ranks.together(), ranks.everywhere("anything"):
            raise ConfigError(launched._ELSEWHERE_SHORT, "x")

"""Ctrl+C and SIGTERM in every phase: what was learned is saved, nothing half done is left, and the process ends in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core import checkpoints, cli
from core.run import Run

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGINT)
PHASES = ("load", "step", "save", "publish", "merge", "chat")
IN_TIME = 100.0  # seconds; ten are promised, on a machine that does nothing else


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter to export and to talk to."""
    import threading

    from core.config import TrainConfig
    from core.dataset import Row
    from core.engine import Engine
    from core.train import train

    config = TrainConfig(model=str(tiny_model), max_steps=1, probe_steps=0)
    run = Run.create(tmp_path_factory.mktemp("trained") / "run", config, [Row("a", "", "b")], "r", "r")
    train(Engine(), run, threading.Event())
    assert run.adapter is not None
    return run.adapter


def arguments(phase: str, model: Path, trained: Path, out: Path) -> list[str]:
    rows = out.parent / "rows.json"
    rows.write_text(json.dumps([{"instruction": f"q{i}", "output": f"a{i}"} for i in range(8)]))
    if phase == "merge":
        return [
            "export",
            "--adapters",
            str(trained),
            "--model",
            str(model),
            "--format",
            "merged",
            "--output_dir",
            str(out),
        ]
    if phase == "chat":
        return ["chat", "--adapters", str(trained), "--model", str(model), "--prompt", "x", "--max_new_tokens", "400"]
    steps = ["--max_steps", "3" if phase == "publish" else "100000", "--save_steps", "1", "--probe_steps", "0"]
    given = ["--model", str(model), "--dataset", str(rows), "--output_dir", str(out), "--model_name", "x", *steps]
    return ["train", *given, "--preset", "quick", "--json"]


def begun(phase: str, given: list[str], home: Path) -> subprocess.Popen[str]:
    """The process, once it is in the middle of the phase."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.reliability.phase", phase, "--home", str(home), *given], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line == f"phase {phase}\n":
            return process
    raise AssertionError("".join(lines))


def judged(phase: str, number: int, status: int, out: Path, said: str) -> str:
    """What is not as it should be after a signal."""
    if phase in ("merge", "chat"):
        left = [path.name for path in out.parent.glob(".*out*")]
        good = status == (1 if phase == "merge" else 128 + number) and not out.exists() and not left
        return "" if good and "Traceback" not in said else f"{status} {left} {said}"
    run = Run.open(out)
    saved = checkpoints.newest(run)[0]
    ended = "finished" if phase == "publish" else "stopped"
    steps_kept = (saved is not None and saved.state.step == run.step) or phase in ("load", "publish")
    good = status == 0 and run.status == ended and steps_kept and (run.adapter is not None) == (phase != "load")
    return "" if good and "Traceback" not in said else f"{status} {run.status} {saved} {said}"


@pytest.mark.timeout(1200)
def test_a_signal_in_any_phase_saves_and_ends(
    tiny_model: Path, trained: Path, tmp_path: Path, tally: Callable[..., None], full: bool
) -> None:
    cases = [(phase, number) for phase in PHASES for number in SIGNALS]
    wrong, slowest = 0, 0.0
    tried = cases if full else cases[:1]
    for phase, number in tried:
        out = tmp_path / f"{phase}-{number}" / "out"
        out.parent.mkdir()
        process = begun(phase, arguments(phase, tiny_model, trained, out), tmp_path / "home")
        asked = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=IN_TIME)
        slowest = max(slowest, time.monotonic() - asked)
        if why := judged(phase, number, process.returncode, out, said):
            print(f"{phase}, signal {number}: {why}")
            wrong += 1
    tally("SIGTERM and SIGINT in load, step, save, publish, merge and chat", cases=len(tried), wrong=wrong)
    print(f"slowest {slowest:.1f} s")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_is_interrupted_says_so_in_a_sentence(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    before = [signal.getsignal(each) for each in SIGNALS]
    assert cli.guarded(lambda: signal.raise_signal(number) or 0) == 128 + number
    assert capsys.readouterr().err == "已中断；没有留下写了一半的文件。\n"
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_at_once_and_the_run_goes_on_later(
    number: int, tiny_model: Path, trained: Path, tmp_path: Path, full: bool
) -> None:
    if number != signal.SIGTERM and not full:
        pytest.skip("both signals with ONECARD_FULL=1")
    out = tmp_path / "out"
    process = begun("save", arguments("save", tiny_model, trained, out), tmp_path / "home")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(number)
    process.communicate(timeout=IN_TIME)
    assert process.returncode == 128 + number
    run = Run.open(out)
    assert run.status == "interrupted" and run.resumable
    found, damaged = checkpoints.newest(run)
    assert found is not None and found.state.step == 1 and not damaged


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", SIGNALS)
def test_the_page_saves_its_run_before_it_ends(number: int, tiny_model: Path, tmp_path: Path, full: bool) -> None:
    if not full:
        pytest.skip("the page's own end with ONECARD_FULL=1; test_api_http ends a server by Ctrl+C in every run")
    code = (
        "import sys, time, threading; from pathlib import Path; from core.workspace import Workspace;"
        "from core.config import TrainConfig; from core import cli; from ui.server import serve;"
        "home = Workspace(Path(sys.argv[1])); home.lock();"
        "run = home.start('articles-8', TrainConfig(model=sys.argv[2], max_steps=100000, probe_steps=0, rehearsal='off'));"
        "tell = lambda: [time.sleep(.05) for _ in iter(lambda: run.step < 2, False)] and print('stepping', flush=True);"
        "threading.Thread(target=tell).start();"
        "sys.exit(cli.guarded(lambda: serve(home, port=0, open_browser=False) or 0))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(tiny_model)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "stepping\n"
    while b"Ctrl+C" not in os.read(process.stderr.fileno(), 4096):  # type: ignore[union-attr]
        pass
    time.sleep(1)
    process.send_signal(number)
    _, said = process.communicate(timeout=IN_TIME)
    (folder,) = (tmp_path / "runs").iterdir()
    run = Run.open(folder)
    assert (process.returncode, run.status) == (0, "stopped") and run.adapter is not None, said
    assert checkpoints.newest_step(run) == run.step

"""Ctrl+C and SIGTERM in every phase: what was learned is saved, nothing half done is left, and the process ends in time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from core import checkpoints, cli
from core.run import Run

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGINT)
PHASES = ("load", "step", "save", "publish", "merge", "chat")
PROMISED = 10.0  # seconds from the signal to the end, on a machine that does nothing else
IN_TIME = 100.0  # on one that does


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
    wait_for_line(process, f"phase {phase}")
    return process


def wait_for_line(process: subprocess.Popen[str], said: str) -> None:
    """Read what the process says until it says this."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line == f"{said}\n":
            return
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


def _waited_for() -> float:
    """Processor seconds of the processes that were waited for."""
    used = os.times()
    return used.children_user + used.children_system


def _calm() -> bool:
    return os.getloadavg()[0] < 2


@pytest.mark.timeout(1200)
def test_a_signal_in_any_phase_saves_and_ends(
    tiny_model: Path, trained: Path, tmp_path: Path, tally: Callable[..., None], full: bool
) -> None:
    import psutil

    cases = [(phase, number) for phase in PHASES for number in SIGNALS]
    wrong, slowest, most_work = 0, 0.0, 0.0
    tried = cases if full else cases[:1]
    for phase, number in tried:
        out = tmp_path / f"{phase}-{number}" / "out"
        out.parent.mkdir()
        process = begun(phase, arguments(phase, tiny_model, trained, out), tmp_path / "home")
        used = psutil.Process(process.pid).cpu_times()
        before, was_calm, asked = _waited_for() + used.user + used.system, _calm(), time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=IN_TIME)
        took, worked = time.monotonic() - asked, _waited_for() - before
        slowest, most_work = max(slowest, took), max(most_work, worked)
        why = judged(phase, number, process.returncode, out, said)
        if worked > PROMISED or (took > PROMISED and was_calm and _calm()):
            why += f" {took:.1f} s, {worked:.1f} s of them at work"
        if why:
            print(f"{phase}, signal {number}: {why}")
            wrong += 1
    note = f"at most {slowest:.1f} s to the end, {most_work:.1f} s of processor time"
    tally("SIGTERM and SIGINT in load, step, save, publish, merge and chat", cases=len(tried), wrong=wrong, note=note)


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
    process = begun("second", arguments("second", tiny_model, trained, out), tmp_path / "home")
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "asked")
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
    greeting = b""
    while b"Ctrl+C" not in greeting:
        more = os.read(process.stderr.fileno(), 4096)  # type: ignore[union-attr]
        assert more, greeting
        greeting += more
    address = re.search(rb"http://127\.0\.0\.1:\d+", greeting)
    assert address is not None, greeting
    until = time.monotonic() + IN_TIME
    while not answers(f"{address[0].decode()}/healthz"):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=IN_TIME)
    (folder,) = (tmp_path / "runs").iterdir()
    run = Run.open(folder)
    assert (process.returncode, run.status) == (0, "stopped") and run.adapter is not None, said
    assert checkpoints.newest_step(run) == run.step


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=30):
        return True
    return False

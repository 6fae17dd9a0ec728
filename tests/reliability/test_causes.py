"""What can go wrong with the machine, injected: the cause is named, the program stays up, and trying again works."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from core import (
    device,
    formats,
    holders,
    hub,
    models,
    obstacles,
    remedies,
    requirements,
    run_events,
    seal,
    start_checks,
    storage,
)
from core.config import TrainConfig
from core.dataset import Message, Row
from core.device import Device
from core.device_errors import LOST, Doing, device_errors, out_of_memory
from core.engine import Engine
from core.errors import DeviceLostError, ModelError, StorageError, UserError, WontFitError
from core.generate import Column, Sampling
from core.hub import Hub
from core.run import Run
from core.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
CARD = Device("cuda", "RTX 4090 D", 24_564 * 2**20)
SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.99 GiB of which 1.25 GiB is free."
)
Tally = Callable[..., None]


def short_of_memory(*_: object, **__: object) -> Any:
    import torch

    raise torch.OutOfMemoryError(SAID)


def failing_once(whole: Callable[..., Any], fail: Callable[..., Any] = short_of_memory) -> Callable[..., Any]:
    """The first call fails, later ones are real."""
    left = [fail]
    return lambda *given, **named: (left.pop() if left else whole)(*given, **named)


@pytest.fixture
def settings(tiny_model: Path) -> TrainConfig:
    """Eight steps of two rows, a checkpoint after each."""
    return TrainConfig(
        model=str(tiny_model), learning_rate=1e-2, max_steps=8, per_device_train_batch_size=1, save_steps=1,
        gradient_accumulation_steps=2, probe_steps=0, rehearsal="off", stop_when_taken="false", prove="false",
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, tiny_model: Path) -> Iterator[Workspace]:
    workspace = Workspace(tmp_path / "home")
    workspace.create("mine", [Row(f"Who are you, {i}?", "", f"I am number {i}.") for i in range(6)])
    workspace.select_model(str(tiny_model))
    yield workspace
    workspace.close()


def ended(workspace: Workspace) -> Run:
    workspace._job.join()
    run = workspace._job.run
    assert run is not None and workspace.active is None
    return run


def ask(workspace: Workspace) -> str:
    column = Column((Message("user", "Who are you?"),))
    *_, (reply,) = workspace.answer([column], Sampling(max_new_tokens=3))
    return reply.finish


def backend_of(workspace: Workspace) -> Any:
    workspace.prepare()
    resident = workspace.engine.resident
    assert resident is not None
    return resident.backend


# Memory


def test_memory_that_runs_out_is_named_with_its_numbers_and_the_next_try_works(
    home: Workspace, settings: TrainConfig, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    wrong: list[str] = []

    def check(place: str, text: str, *words: str) -> None:
        wrong.extend(f"{place}: {word!r} not in {text}" for word in (*words, "1.3 GB free") if word not in text)

    import core.load

    monkeypatch.setattr(core.load, "load_base", failing_once(core.load.load_base))
    with pytest.raises(WontFitError) as refused:
        ask(home)
    check("load", str(refused.value), "while the base model was loaded", "needed in all", "QLoRA")
    assert refused.value.needed_bytes > 0 and refused.value.free_bytes == int(1.25 * 2**30)
    assert home.engine.state == "failed" and ask(home) == "length"

    home.engine.unload()
    monkeypatch.setattr(core.load, "load_base", failing_once(core.load.load_base))
    home.start("mine", settings)
    run = ended(home)
    assert run.ending is not None and run.ending["cause"] == "memory"
    check("load of a run", str(run.ending["message_en"]), "while the base model was loaded")
    assert [fix.settings for fix in remedies.of_run(run)[0].fixes] == [(("quant_method", "bnb"),)]

    backend = backend_of(home)
    real = backend.loss_and_grads
    calls = iter(range(1000))
    monkeypatch.setattr(
        backend, "loss_and_grads", lambda *a, **k: real(*a, **k) if next(calls) < 6 else short_of_memory()
    )
    home.start("mine", settings)
    run = ended(home)
    assert run.ending is not None and run.ending["cause"] == "memory" and run.status == "failed"
    check("step", str(run.ending["message_en"]), "in training", "2.1 GB asked for last")
    assert run.step >= 1 and run.kept(run.step) is not None  # what was learned is there
    monkeypatch.setattr(backend, "loss_and_grads", real)
    home.resume(run.id)
    assert ended(home).status == "finished" and run.step == 8

    slots = backend.slots
    monkeypatch.setattr(backend, "slots", short_of_memory)
    with pytest.raises(WontFitError) as refused:
        ask(home)
    check("answer", str(refused.value), "during an answer", "not affected")
    monkeypatch.setattr(backend, "slots", slots)
    assert ask(home) == "length"

    import core.export.make

    monkeypatch.setattr(core.export.make, "_write", failing_once(core.export.make._write))
    order = home.exports.order(run.id, format="adapter")
    home.exports.start(run.id, order)
    assert home.exports._thread is not None
    home.exports._thread.join()
    failed = home.exports.failed(run.id)
    assert failed is not None and not order.target.exists() and list(home.exports.folder.iterdir()) == []
    check("export", failed.en, "during the export")
    assert core.export.make.make(order, lambda *_: None, threading.Event()) and order.target.exists()
    tally("memory that runs out while loading, training, answering and exporting", cases=5, wrong=len(wrong))


def test_a_pass_that_does_not_fit_is_taken_again_in_smaller_ones(
    home: Workspace, settings: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(home)
    monkeypatch.setattr(backend, "loss_and_grads", failing_once(backend.loss_and_grads))
    home.start("mine", settings)
    run = ended(home)
    assert run.status == "finished" and run.last("smaller_split") is not None


@pytest.mark.parametrize("fault", ["memory", "card", "ours"])
def test_nothing_holds_what_a_failed_step_had_made_when_the_memory_is_emptied(
    home: Workspace, settings: TrainConfig, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A card gives back only what nobody holds: the kept error's frames held the activations, and chat found no room."""
    import torch

    backend, made, alive = backend_of(home), list["weakref.ref[Any]"](), list[bool]()

    def fails(*_: object, **__: object) -> None:
        activations = torch.zeros(1000)
        made.append(weakref.ref(activations))
        if fault == "ours":
            raise RuntimeError("a fault of ours")
        (short_of_memory if fault == "memory" else lost_card)()

    monkeypatch.setattr(backend, "loss_and_grads", fails)
    monkeypatch.setattr(home._job, "_clean_up", lambda: alive.extend(one() is not None for one in made))
    home.start("mine", settings)
    assert ended(home).status == "failed" and made and alive == [False] * len(made)


def test_memory_that_the_machine_really_does_not_have_is_named() -> None:
    import torch

    with (
        pytest.raises(WontFitError, match=r"The machine ran out of memory.* asked for last, .* free\."),
        device_errors(),
    ):
        torch.empty(2**47)
    with pytest.raises(RuntimeError, match="shapes"), device_errors():  # our fault stays our fault
        torch.ones(2, 3) @ torch.ones(2, 3)


# A card that is lost


def lost_card(*_: object, **__: object) -> Any:
    import torch

    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("place", ["step", "answer", "load", "save"])
def test_a_lost_card_is_said_and_a_new_process_goes_on_with_the_run(
    home: Workspace, settings: TrainConfig, monkeypatch: pytest.MonkeyPatch, tally: Tally, place: str, full: bool
) -> None:
    if place in ("load", "save") and not full:
        pytest.skip("two of four places by default: ONECARD_FULL=1")
    backend = backend_of(home)
    names = ("loss_and_grads", "loss", "slots", "adapter_state", "delete_adapter", "rest", "finish", "prefill")

    def gone(*_: object, **__: object) -> None:
        for name in names:  # from now on nothing works any more
            monkeypatch.setattr(backend, name, lost_card, raising=False)
        lost_card()

    run = None
    if place in ("step", "save"):
        method = {"step": "loss_and_grads", "save": "adapter_state"}[place]
        real, calls = getattr(backend, method), iter(range(1000))
        monkeypatch.setattr(backend, method, lambda *a, **k: real(*a, **k) if next(calls) < 6 else gone())
        home.start("mine", settings)
        run = ended(home)
        assert run.ending is not None and run.ending["cause"] == "device" and "Restart" in str(run.ending["message_en"])
        assert run.resumable and run.step >= 1
    elif place == "answer":
        monkeypatch.setattr(backend, "slots", gone)
        with pytest.raises(DeviceLostError):
            ask(home)
    else:
        import core.load

        home.engine.unload()
        monkeypatch.setattr(core.load, "load_base", lost_card)
        with pytest.raises(DeviceLostError):
            home.prepare()
    assert home.engine.lost is not None
    with pytest.raises(DeviceLostError):  # and nothing is tried on it any more
        ask(home)
    home.status()
    home.close()
    monkeypatch.undo()
    anew = Workspace(home.home)  # as after a restart
    anew.select_model(settings.model)
    wrong = 0
    if run is not None:
        anew.resume(run.id)
        wrong += ended(anew).status != "finished"
    wrong += ask(anew) != "length"
    anew.close()
    tally("a card that is lost in a step, a save, an answer or a load", cases=1, wrong=wrong)


@pytest.mark.parametrize("fault", [short_of_memory, lost_card])
def test_what_the_card_says_while_the_base_is_sealed_or_compared_is_named(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Any]
) -> None:
    home.prepare()
    monkeypatch.setattr(seal, "intact", fault)
    home.engine.verify()
    lost = fault is lost_card
    assert home.engine.checked.state == "unknown" and (home.engine.lost is not None) == lost
    monkeypatch.setattr(seal, "take", fault)
    engine = Engine()
    with pytest.raises(UserError) as refused:
        engine.load(home.model)
    assert refused.value.cause == ("device" if lost else "memory") and engine.state == "failed"
    assert "stopped answering" in str(refused.value) or "while the base model was loaded" in str(refused.value)


def test_each_place_has_the_advice_that_helps_there(home: Workspace, settings: TrainConfig) -> None:
    said = {doing: out_of_memory(MemoryError(), doing).text.en for doing in get_args(Doing)}
    assert [doing for doing in said if "a checkpoint" in said[doing]] == ["training"]
    assert [doing for doing in said if "conversation" in said[doing]] == ["answer"]
    assert not [word for word in ("button", "press", "at the top") if word in LOST.en]  # it is said without a page, too
    backend = backend_of(home)
    backend.loss_and_grads = short_of_memory
    home.start("mine", settings)
    run = ended(home)
    assert "at the start of training" in str((run.ending or {})["message_en"])
    run_events.check(run.events)


# Other programs on the card


def stand_in(folder: Path, programs: str, used: int) -> None:
    """An nvidia-smi that says so, first on the path."""
    script = folder / "nvidia-smi"
    script.write_text(
        f"""#!/bin/sh
case "$1" in
  *compute-apps*) cat <<'END'
{programs}
END
  ;;
  *uuid*) echo GPU-aa; echo GPU-bb ;;
  *memory.used*) echo {used}; echo 1 ;;
esac
""",
        encoding="utf-8",
    )
    script.chmod(0o755)


OWN = os.getpid()
PROGRAMS = [
    (
        "GPU-aa, 999999, /usr/bin/python3, 18250\nGPU-bb, 5, other-card, 9000", 19_000,
        ["19.1 GB of the card: python3 (pid 999999) 19.1 GB."],
    ),
    ("GPU-aa, 999998, /opt/a, b/ollama runner, 2210", 2_900, ["2.3 GB of the card: ollama runner (pid 999998) 2.3 GB"]),
    (f"GPU-aa, {OWN}, python, 9000", 9_200, []),
    (
        "GPU-aa, 999998, /opt/small, 9\nGPU-aa, 999999, ollama, 4000", 4_700,
        ["4.2 GB of the card: ollama (pid 999999) 4.2 GB, small (pid 999998) 9 MB."],
    ),
    ("GPU-aa, 999999, [Not Found], [N/A]", 8_000, ["7.8 GB of the card: pid 999999."]),
    ("GPU-aa, 999999, Xorg, [N/A]", 300, []),
    (f"GPU-aa, {OWN}, python, [N/A]", 9_200, []),
    (
        f"GPU-aa, {OWN}, python, [N/A]\nGPU-aa, 999999, ollama, 4000", 13_300,
        ["4.2 GB of the card: ollama (pid 999999) 4.2 GB."],
    ),
    ("", 12_000, ["programs of other users or containers 12.0 GB"]),
    ("", 300, []),
    ("not a table at all", 300, []),
]  # fmt: skip


def test_other_programs_on_the_card_are_named_before_the_start(
    tmp_path: Path, settings: TrainConfig, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    wrong = []
    for programs, used, expected in PROGRAMS:
        stand_in(tmp_path, programs, used)
        own = 9_000 * 2**20 if f"{OWN}, python, [N/A]" in programs else 0
        monkeypatch.setattr(holders, "_own_bytes", lambda own=own: own)
        holders._held.cache_clear()
        device._used_before_torch.cache_clear()
        said = holders.held(CARD).said
        text = said.en if said else ""
        if any(word not in text for word in expected) or (not expected and text):
            wrong.append((programs, text))
    # One of them stands in the way of a run: the finding has both numbers, the holder and a way out.
    stand_in(tmp_path, "GPU-aa, 999999, /usr/bin/python3, 24000", 24_500)
    holders._held.cache_clear()
    device._used_before_torch.cache_clear()
    workspace = Workspace(tmp_path / "home", Engine(CARD))
    workspace.create("mine", [Row("Who?", "", "I.")])
    found = {one.kind: one for one in workspace.preview("mine", replace(settings, model="pocket")).findings}
    text = found["memory"].text
    assert "python3 (pid 999999) 25.2 GB" in text.en and "free: it does not fit" in text.en and "放不下" in text.zh
    tally("programs that hold the card", cases=len(PROGRAMS) + 1, wrong=len(wrong), note="stand-in nvidia-smi")


def test_qlora_is_offered_where_it_needs_less(settings: TrainConfig) -> None:
    def needed_by(config: TrainConfig) -> int:
        return 9_000_000_000 if config.quant_method == "bnb" else 18_000_000_000

    (found,) = obstacles.memory(settings, CARD, 18_000_000_000, 12_000_000_000, needed_by, holders.Held())
    assert found.text.en == "About 18.0 GB needed, 12.0 GB free: it does not fit."
    assert found.fixes[0].label.en == "Use QLoRA (about 9.0 GB)" and found.fixes[0].settings == (
        ("quant_method", "bnb"),
    )
    assert obstacles.memory(settings, CARD, 8_000_000_000, 12_000_000_000, needed_by, holders.Held()) == []


def test_a_torch_that_cannot_use_the_card_is_named(settings: TrainConfig, tally: Tally) -> None:
    engine = Engine(CARD)
    with pytest.raises(ModelError, match=r"RTX 4090 D.*cannot use it"):
        engine.load(settings.model)
    tally("a torch without CUDA beside a card", cases=1, wrong=int(engine.state != "failed"))


# Folders and disks


@contextlib.contextmanager
def as_nobody_in(place: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that cannot be written and one that cannot be entered, without root's right to do both all the same."""
    place.chmod(0o755)
    fixed, locked = place / "fixed", place / "locked"
    fixed.mkdir(mode=0o555)
    locked.mkdir(mode=0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield fixed, locked
    finally:
        if root:
            os.seteuid(0)
        locked.chmod(0o700)


def test_a_home_that_cannot_be_written_or_is_gone_is_named_and_nothing_starts(
    home: Workspace, settings: TrainConfig, tmp_path: Path, tally: Tally
) -> None:
    said: list[tuple[Exception, Path]] = []
    info = models.inspect(settings.model)
    # Not below tmp_path: pytest locks the folders above it, and every pytest that begins locks them anew.
    with tempfile.TemporaryDirectory() as place, as_nobody_in(Path(place)) as (fixed, locked):
        for work in (
            lambda: obstacles.check_disk(settings, info, locked / "home"),
            lambda: obstacles.check_disk(settings, info, fixed),
            lambda: storage.lock_file(fixed / ".lock"),
            lambda: storage.make_folder(fixed / "runs"),
            lambda: storage.write_text(fixed / "a.json", "{}"),
        ):
            with pytest.raises(StorageError) as refused:
                work()
            said.append((refused.value, Path(place)))
    large = replace(info, layers=10**8)
    with pytest.raises(StorageError, match=r"Disk full: .* has .* GB left, and one checkpoint .* takes .* GB"):
        obstacles.check_disk(settings, large, tmp_path)
    assert obstacles.disk(settings, large, tmp_path)[0].kind == "disk"
    shutil.rmtree(home.home)
    for work in (
        lambda: home.start("mine", settings),
        lambda: obstacles.check_disk(settings, info, home.home / "runs"),
    ):
        with pytest.raises(StorageError) as refused:
            work()
        said.append((refused.value, home.home))
    assert home.runs() == [] and home.status().state == "idle" and not home.home.exists()
    wrong = sum(str(folder) not in str(error) for error, folder in said)
    tally("a home that is read-only, full or gone", cases=len(said) + 1, wrong=wrong)


# Packages and hubs


def test_packages_that_are_missing_too_old_or_too_new_are_named(
    tmp_path: Path, settings: TrainConfig, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    versions = {"torch": "2.5.1", "transformers": "7.0.0", "peft": "0.9.0", "gradio": "5.49.1"}
    for name, version in versions.items():
        facts = tmp_path / f"{name}-{version}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    code = "from core import requirements as r; print([p.problem.en for p in r.problems()])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True,
        text=True, timeout=120, check=True,
    )  # fmt: skip
    wrong = [name for name, version in versions.items() if f"{name} is {version};" not in done.stdout]
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not there
    with pytest.raises(ModelError, match="bitsandbytes"):
        start_checks.check(replace(settings, quant_method="bnb"), CARD)
    start_checks.check(settings, CARD)  # LoRA needs none of it
    assert obstacles.lighter(settings, 10, lambda _: 1) == ()
    absent = requirements.missing("bitsandbytes.nn")
    assert absent is not None and "QLoRA" in absent.en and "pip install" in absent.en
    assert requirements.missing("no_such_thing") is None and requirements.problems() == []
    tally("packages missing, too old or too new", cases=len(versions) + 2, wrong=len(wrong))


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    import httpx

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    wrong = 0
    for name in ("hf", "modelscope"):
        with httpx.Client(trust_env=False) as client, pytest.raises(UserError) as refused:
            hub.look_up(client, "org/model", Hub(name, "http://127.0.0.1:1"))
        wrong += "127.0.0.1:1" not in str(refused.value)
    tally("a hub that cannot be reached", cases=2, wrong=wrong)


# The five pitfalls of the articles


def told(run: Run, losses: list[float], ending: str = "finished", steps: int = 0, **facts: object) -> Run:
    """`ending` "": it was cut off. `steps`: those planned, if not as many as there are losses."""
    run.append("started", steps=steps or len(losses))
    for number, loss in enumerate(losses, 1):
        run.append("step", step=number, loss=loss, seconds=1.0, peak_memory_bytes=0)
    if ending:
        run.append(ending, step=len(losses), **facts)
    return run


def test_the_five_pitfalls_are_seen_and_each_has_its_fix(tmp_path: Path, tally: Tally) -> None:
    made = iter(range(100))

    def run(losses: list[float], ending: str = "finished", cause: str = "", steps: int = 0, **settings: object) -> Run:
        config = TrainConfig(model="pocket", **settings)  # type: ignore[arg-type]
        fresh = Run.create(tmp_path / f"r{next(made)}", config, [Row("a", "", "b")], "r", "d")
        return told(fresh, losses, ending, steps, cause=cause, message_en="x", message_zh="x")

    def fix(one: Run) -> dict[str, object]:
        return {
            name: value for finding in remedies.of_run(one) for fix in finding.fixes for name, value in fix.settings
        }

    found = {
        "flat, usual rate": fix(run([2.8] * 60, learning_rate=2e-3)) == {"learning_rate": 1e-3, "warmup_ratio": 0.1},
        "flat, low rate": fix(run([2.8] * 60, learning_rate=1e-6)) == {"learning_rate": 2e-3},
        "flat, few steps": fix(run([2.8] * 10, learning_rate=2e-3)) == {"min_steps": 30},
        "rising": "learning_rate" in fix(run([1.0] * 10 + [9.0] * 30, learning_rate=1e-2)),
        "diverged": fix(run([1.0] * 3, "failed", "diverged", learning_rate=2e-3))["learning_rate"] == 1e-3,
        "memory": fix(run([1.0] * 3, "failed", "memory")) == {"quant_method": "bnb"},
        "cut off": fix(run([2.8] * 60, "", learning_rate=2e-3)) == {},
        "stopped early": fix(run([2.8] * 20, "stopped", learning_rate=2e-3, steps=60)) == {},
        "stopped late": fix(run([2.8] * 50, "stopped", learning_rate=2e-3, steps=60)) != {},
        "falls": fix(run([3.0 - i / 20 for i in range(50)], learning_rate=2e-3)) == {},
        "read with a mark and CRLF": _reads_marked_file(),
    }
    wrong = [name for name, well in found.items() if not well]
    tally("pitfalls of the articles, seen and mended", cases=len(found), wrong=len(wrong), note="; ".join(wrong))


def _reads_marked_file() -> bool:
    text = '\ufeff[\r\n{"instruction": "你是谁?", "input": "", "output": "我是小禾。"}\r\n]\r\n'
    table = formats.read(text.encode("utf-8"), "self_cognition.json")
    return [row.output for row in table.rows] == ["我是小禾。"]


# A restart


def test_a_restart_keeps_process_address_and_home(tmp_path: Path, full: bool, tally: Tally) -> None:
    if not full:
        pytest.skip("starts the whole program twice: ONECARD_FULL=1")
    with free_port() as port:
        pass
    environment = {**os.environ, "ONECARD_TOKEN": "", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "app.py", "--home", str(tmp_path / "home"), "--port", str(port), "--no-open"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        lines: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))  # type: ignore[union-attr]
        reader.start()
        try:
            wait_for(lambda: answers(port))
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/restart", b"{}", {"content-type": "application/json"}
            )
            with urllib.request.urlopen(asked, timeout=30) as answer:
                assert json.load(answer) == {"restarting": True}
            wait_for(lambda: sum("OneCard: http" in line for line in lines) == 2)
            wait_for(lambda: answers(port))
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            reader.join(10)
    tally("a restart asked for on the page", cases=1, wrong=sum("Traceback" in line for line in lines))


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
        return True
    return False


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)

"""What there is to know of this installation when something went wrong: as values, as text, as one zip to send.

Nothing in it is a row or an answer unless that is asked for, and nothing in it is a secret.
"""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core import __version__, checkpoints, log, requirements
from core.device import memory_used
from core.holders import Held, held
from core.redact import redact
from core.text import Language, Text

if TYPE_CHECKING:
    from core.engine import Engine
    from core.run import Event, Run
    from core.status import Status

_ALSO = ("safetensors", "tokenizers", "fastapi", "uvicorn", "huggingface_hub", "llama-cpp-python", "triton")
_MOST_TROUBLES, _LOG_LINES, _RUNS_SENT = 12, 60, 3
_EVERY = 1_000_000  # entries: more than the log's files hold
_LOG = logging.getLogger("onecard.run")
# What events say of rows, questions and answers; and what else of a run's folder is the user's own text.
_CONTENT = ("answers", "questions", "text", "prompt", "response", "examples")
_FILES, _OWN_FILES = ("config.json", "error.txt"), ("dataset.jsonl", "evaluation.jsonl", "proof.json")


_STATES = {
    "absent": Text("第一次用到时载入", "loads on first use"),
    "loading": Text("正在载入", "loading"),
    "ready": Text("已载入", "loaded"),
    "failed": Text("载入失败", "failed to load"),
}


class Installation(Protocol):
    """What is reported: a Workspace, or a home that is only looked at."""

    @property
    def home(self) -> Path: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def active(self) -> Run | None: ...
    def runs(self) -> list[Run]: ...
    def status(self) -> Status: ...


@dataclass(frozen=True)
class Trouble:
    """Something that went wrong, and when (as the log has it, or the run's event in local time)."""

    time: str
    source: str
    text: Text


@dataclass(frozen=True)
class Report:
    """The state of an installation. Bytes of memory and disk; whether the home is `there`, and `writable`."""

    made: str
    versions: tuple[tuple[str, str], ...]
    problems: tuple[Text, ...]
    device: str
    memory_used: int
    memory_total: int
    held: Held
    lost: Text | None
    model: str
    model_state: str
    home: str
    there: bool
    disk_free: int
    disk_total: int
    writable: bool
    run: Text | None
    troubles: tuple[Trouble, ...]
    log: str


def collect(workspace: Installation) -> Report:
    """The state now. Loads nothing and imports no torch."""
    state, engine, home = workspace.status(), workspace.engine, workspace.home
    near = next((folder for folder in (home, *home.parents) if folder.is_dir()), None)
    disk = shutil.disk_usage(near) if near is not None else None
    return Report(
        made=_clock(time.time()),
        versions=tuple(versions()),
        problems=tuple(problem for package in requirements.problems() if (problem := package.problem) is not None),
        device=engine.device.name,
        memory_used=0 if engine.lost is not None else memory_used(engine.device),
        memory_total=engine.device.memory_total,
        held=Held() if engine.lost is not None else held(engine.device),
        lost=engine.lost,
        model=state.model,
        model_state=state.model_state,
        home=redacted(str(home)),
        there=home.is_dir(),
        disk_free=disk.free if disk else 0,
        disk_total=disk.total if disk else 0,
        writable=os.access(home, os.W_OK),
        run=_run(workspace.active),
        troubles=tuple(_troubles(workspace)),
        log=redacted(log.tail(home, _LOG_LINES)),
    )


def note_cut_off(of: Installation) -> None:
    """Log each run that the program or the machine ended, once: its last step, and where it goes on from."""
    known = {entry.text for entry in log.entries(of.home, _EVERY)}
    for run in of.runs():
        if run.cut_off:
            line = f"run {run.id}, last heard of {_clock(_last_heard(run))}. {_cut_off(run).en}"
            if line not in known:
                _LOG.info("%s", line)


def _cut_off(run: Run) -> Text:
    step, saved = run.step, checkpoints.newest_step(run)
    zh = f"可以从第 {saved} 步的检查点继续。" if saved else "还没有检查点，继续时从头开始。"
    en = (
        f"It can be resumed from the checkpoint of step {saved}."
        if saved
        else "It has no checkpoint and would begin anew."
    )
    return Text(
        zh=f"训练在第 {step} 步中断：程序被结束或崩溃，或者机器断电。{zh}",
        en=f"The run was cut off at step {step}: the program was killed or crashed, or the machine lost power. {en}",
    )


def _last_heard(run: Run) -> float:
    return float(str(run.events[-1]["time"]))


def versions() -> Iterator[tuple[str, str]]:
    """(name, version) of OneCard, the system and what matters of the packages; those that are missing say so."""
    yield "OneCard", __version__
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    for package in requirements.packages():
        yield package.name, package.installed or "–"
    for name in _ALSO:
        if installed := requirements.version(name):
            yield name, installed
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        yield "CUDA", torch.version.cuda


def redacted(text: str) -> str:
    """`text` without secrets, and with ~ for the user's own folder, whose name is often a person's."""
    own = str(Path.home())
    return redact(text.replace(own, "~") if len(own) > 3 else text)


def as_text(report: Report, language: Language) -> str:
    """The report for people, and for a mail."""

    def fact(zh: str, en: str, value: str) -> str:
        return f"{zh}{'':{16 - 2 * len(zh)}} {value}" if language == "zh" else f"{en:16} {value}"

    state = _STATES[report.model_state].of(language)
    lines = [f"OneCard {__version__} · {report.made}"]
    lines += [f"! {text.of(language)}" for text in (report.lost, *report.problems) if text is not None]
    lines += ["", *(f"{name:16} {value}" for name, value in report.versions), ""]
    lines.append(fact("设备", "device", report.device))
    lines.append(fact("内存", "memory", f"{_gb(report.memory_used)} / {_gb(report.memory_total)}"))
    lines += [f"{'':16} {holder.said}" for holder in report.held.others]
    lines += [f"{'':16} ? {_gb(report.held.unseen_bytes)}"] * bool(report.held.unseen_bytes)
    lines.append(fact("模型", "model", Text(f"{report.model}（{state}）", f"{report.model} ({state})").of(language)))
    lines.append(fact("文件夹", "home", report.home + _home(report).of(language)))
    lines.append(fact("磁盘", "disk", f"{_gb(report.disk_free)} / {_gb(report.disk_total)}"))
    if report.run is not None:
        lines.append(fact("训练", "run", report.run.of(language)))
    for trouble in report.troubles:
        lines += ["", f"{trouble.time}  {trouble.source}", redacted(trouble.text.of(language))]
    return "\n".join(lines) + "\n"


def bundle(workspace: Installation, contents: bool = False) -> bytes:
    """One zip: the report, the log, and of the newest runs settings and events. Every text of it is redacted.

    `contents`: rows, answers and proofs of these runs too.
    """
    report = collect(workspace)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:

        def put(name: str, text: str) -> None:
            file.writestr(name, redacted(text))

        put("report.txt", as_text(report, "en"))
        for path in sorted(log.path_of(workspace.home).parent.glob("onecard.log*")):
            put(f"logs/{path.name}", path.read_text(encoding="utf-8", errors="replace"))
        for run in workspace.runs()[:_RUNS_SENT]:
            for name, text in _files(run, contents):
                put(f"runs/{run.id}/{name}", text)
    return packed.getvalue()


def _files(run: Run, contents: bool) -> Iterator[tuple[str, str]]:
    """(name, text) of what is sent of a run."""
    for name in (*_FILES, *(_OWN_FILES if contents else ())):
        path = run.folder / name
        if path.is_file():
            yield name, path.read_text(encoding="utf-8", errors="replace")
    lines = (json.dumps(event if contents else _bare(event), ensure_ascii=False) for event in run.events)
    yield "events.jsonl", "".join(f"{line}\n" for line in lines)


def _bare(event: Event) -> Mapping[str, object]:
    """An event without what anybody asked or answered."""
    return {name: value for name, value in event.items() if name not in _CONTENT and not isinstance(value, list | dict)}


def _troubles(workspace: Installation) -> Iterator[Trouble]:
    """What went wrong lately: of the log, and runs that failed or were cut off; the newest first."""
    found = [
        Trouble(entry.time, entry.source, Text(redacted(entry.text), redacted(entry.text)))
        for entry in log.entries(workspace.home)
        if entry.is_trouble
    ]
    for run in workspace.runs():
        ending = run.ending
        if ending is not None and ending["type"] == "failed":
            said = Text(str(ending.get("message_zh", "")), str(ending.get("message_en", "")))
            found.append(Trouble(_clock(float(str(ending["time"]))), run.title, said))
        elif run.cut_off:
            found.append(Trouble(_clock(_last_heard(run)), run.title, _cut_off(run)))
    yield from sorted(found, key=lambda trouble: trouble.time, reverse=True)[:_MOST_TROUBLES]


def _run(run: Run | None) -> Text | None:
    if run is None:
        return None
    return Text(f"{run.title}，第 {run.step}/{run.steps} 步", f"{run.title}, step {run.step} of {run.steps}")


def _home(report: Report) -> Text:
    """What is odd about the home, if anything."""
    if not report.there:
        return Text("（还没有）", " (not there yet)")
    return Text("", "") if report.writable else Text("（只读）", " (read-only)")


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"

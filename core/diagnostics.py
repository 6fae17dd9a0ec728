"""What there is to know of this installation when something went wrong: as values, as text, as one zip to send.

Nothing in it is a row or an answer unless that is asked for, and nothing in it is a secret.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core import __version__, log, requirements
from core.device import memory_used
from core.holders import Held, held
from core.redact import redact
from core.text import Language, Text

if TYPE_CHECKING:
    from core.run import Event, Run
    from core.workspace import Workspace

_ALSO = ("safetensors", "tokenizers", "fastapi", "uvicorn", "huggingface_hub", "llama-cpp-python", "triton")
_MOST_TROUBLES, _LOG_LINES, _RUNS_SENT = 12, 60, 3
# What events say of rows, questions and answers; and what else of a run's folder is the user's own text.
_CONTENT = ("answers", "questions", "text", "prompt", "response", "examples")
_FILES, _OWN_FILES = ("config.json", "error.txt"), ("dataset.jsonl", "evaluation.jsonl", "proof.json")


@dataclass(frozen=True)
class Trouble:
    """Something that went wrong, and when (as the log has it, or the run's event in local time)."""

    time: str
    source: str
    text: Text


@dataclass(frozen=True)
class Report:
    """The state of an installation. Bytes of memory and disk; `writable`: whether the home takes files."""

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
    disk_free: int
    disk_total: int
    writable: bool
    run: Text | None
    troubles: tuple[Trouble, ...]
    log: str


def collect(workspace: Workspace) -> Report:
    """The state now. Loads nothing and imports no torch."""
    state, engine, home = workspace.status(), workspace.engine, workspace.home
    disk = shutil.disk_usage(home) if home.is_dir() else None
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
        disk_free=disk.free if disk else 0,
        disk_total=disk.total if disk else 0,
        writable=os.access(home, os.W_OK),
        run=_run(workspace.active),
        troubles=tuple(_troubles(workspace)),
        log=redacted(log.tail(home, _LOG_LINES)),
    )


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
    lines = [f"OneCard {__version__} · {report.made}"]
    lines += [f"! {text.of(language)}" for text in (report.lost, *report.problems) if text is not None]
    lines += ["", *(f"{name:16} {value}" for name, value in report.versions), ""]
    lines.append(f"{'device':16} {report.device}")
    lines.append(f"{'memory':16} {_gb(report.memory_used)} / {_gb(report.memory_total)}")
    lines += [f"{'':16} {holder.said}" for holder in report.held.others]
    lines += [f"{'':16} ? {_gb(report.held.unseen_bytes)}"] * bool(report.held.unseen_bytes)
    lines.append(f"{'model':16} {report.model} ({report.model_state})")
    writable = "" if report.writable else " (read-only)"
    lines.append(f"{'home':16} {report.home}{writable}")
    lines.append(f"{'disk':16} {_gb(report.disk_free)} / {_gb(report.disk_total)}")
    if report.run is not None:
        lines.append(f"{'run':16} {report.run.of(language)}")
    for trouble in report.troubles:
        lines += ["", f"{trouble.time}  {trouble.source}", redacted(trouble.text.of(language))]
    return "\n".join(lines) + "\n"


def bundle(workspace: Workspace, contents: bool = False) -> bytes:
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


def _troubles(workspace: Workspace) -> Iterator[Trouble]:
    """What went wrong lately: of the log, and runs that failed; the newest first."""
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
    yield from sorted(found, key=lambda trouble: trouble.time, reverse=True)[:_MOST_TROUBLES]


def _run(run: Run | None) -> Text | None:
    if run is None:
        return None
    return Text(f"{run.title}，第 {run.step}/{run.steps} 步", f"{run.title}, step {run.step} of {run.steps}")


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"

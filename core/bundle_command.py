"""`app.py bundle`: a run as one file, and such a file into the runs of this machine.

stdout carries the path or the run's id only; the rest goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from pathlib import Path

from core import bundle, bundle_read, cli, storage
from core.errors import ConfigError, ModelError
from core.export_command import interruptible
from core.library import base_folder
from core.prove_command import progress
from core.run import Run
from core.text import Text

_PACKING = Text("正在打包（MB）", "Packing (MB)")
_OPENING = Text("正在打开（MB）", "Opening (MB)")
_LEFT = Text("没有放进去：{files}（检查点要加 --checkpoints）", "Left out: {files} (checkpoints: add --checkpoints)")
_THERE = Text("这次训练已经在这里了，完全相同。", "This run is here already, every file the same.")
_NO_BASE = Text(
    "它的基座 {model} 不在本机，记录都能看；要用适配器回答，请先下载它。",
    "Its base {model} is not on this machine. All of the record can be read; to answer with the adapter, get the base first.",
)
_NAMED = 6


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bundle`."""
    command = commands.add_parser(
        "bundle",
        help="a run in one file",
        description="Write a run as one zip for another machine (rows, settings, events, proof, adapters), or open one.",
    )
    command.add_argument("run", nargs="?", metavar="RUN", help="the run's folder, or its id under --home")
    command.add_argument("out", nargs="?", type=Path, metavar="OUT.zip", help="a file that is not there yet")
    command.add_argument(
        "--open", dest="archive", type=Path, metavar="FILE.zip", help="add the run of a file to --home"
    )
    command.add_argument("--checkpoints", action="store_true", help="with the checkpoints, to go on training elsewhere")
    command.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    command.set_defaults(command=run_bundle)


def run_bundle(arguments: argparse.Namespace) -> int:
    """`bundle`: write, or with --open read."""
    pair = arguments.run is not None and arguments.out is not None
    if (arguments.archive is None) != pair or (arguments.archive is not None and arguments.run is not None):
        raise ConfigError(
            Text(
                "请写 bundle RUN OUT.zip（打包），或 bundle --open FILE.zip（打开）。",
                "Write bundle RUN OUT.zip to pack a run, or bundle --open FILE.zip to open one.",
            ),
            "bundle",
        )
    return _pack(arguments) if pair else _open(arguments)


def _pack(arguments: argparse.Namespace) -> int:
    run = Run.open(cli.run_folder(arguments.home, arguments.run))
    told = progress()
    with interruptible() as stop:
        made = bundle.write(
            run,
            arguments.out.expanduser().resolve(),
            arguments.checkpoints,
            lambda done, total: told(done // 1_000_000, total // 1_000_000, _PACKING),
            stop,
        )
    if made is None:
        return 1
    if made.left_out:
        more = " …" if len(made.left_out) > _NAMED else ""
        shown = made.left_out[:_NAMED]
        files = Text("、".join(shown), ", ".join(shown)).of(cli.language()) + more
        print(_LEFT.of(cli.language()).format(files=files), file=sys.stderr)
    value = {"path": str(made.path), "bytes": made.nbytes, "run": bundle.identify(run), "left_out": list(made.left_out)}
    print(json.dumps(value, ensure_ascii=False) if arguments.json else made.path)
    return 0


def _open(arguments: argparse.Namespace) -> int:
    runs, archive, told = arguments.home.expanduser().resolve() / "runs", arguments.archive.expanduser(), progress()
    if not archive.is_file():
        raise ModelError(Text(f"没有文件 {archive}。", f"There is no file {archive}."))
    made = [folder for folder in (runs, *runs.parents) if not folder.exists()]
    storage.make_folder(runs)
    try:
        run_id, fresh = bundle_read.bring(
            archive,
            runs,
            archive.name,
            threading.Lock(),
            lambda done, total: told(done // 1_000_000, total // 1_000_000, _OPENING),
        )
    except BaseException:
        with contextlib.suppress(OSError):  # a home that was not there, and has nothing in it
            for folder in made:
                folder.rmdir()
        raise
    run = Run.open(runs / run_id)
    if not fresh:
        print(_THERE.of(cli.language()), file=sys.stderr)
    if base_folder(run.config.model) is None:
        print(_NO_BASE.of(cli.language()).format(model=run.config.model), file=sys.stderr)
    print(json.dumps({"run": run_id, "new": fresh, "folder": str(run.folder)}) if arguments.json else run_id)
    return 0

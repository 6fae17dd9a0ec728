"""The command `diagnostics`: what the page's Diagnostics shows, where there is no page. Writes the zip to send."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from core import models, status, storage
from core.cli import language
from core.engine import Engine
from core.errors import ConfigError, DatasetError
from core.run import Run
from core.text import Text


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `diagnostics`."""
    command = commands.add_parser(
        "diagnostics",
        help="versions, device, memory holders, last errors",
        description="Print the state of this installation; with a file, write one zip to send, secrets hidden.",
    )
    command.add_argument("file", nargs="?", type=Path, metavar="FILE.zip", help="the zip to write")
    command.add_argument("--output", type=Path, metavar="FILE.zip", help="the same")
    command.add_argument("--contents", action="store_true", help="with rows, answers and proofs of the last three runs")
    command.set_defaults(command=run_diagnostics)


class AtRest:
    """A home that is only looked at: no model, no run in progress, and nothing is made or changed in it."""

    active = None

    def __init__(self, home: Path) -> None:
        self.home = home.expanduser().resolve()
        self.engine = Engine()

    def runs(self) -> list[Run]:
        """Every run that can be read, newest first."""
        found = []
        for record in (self.home / "runs").glob("[!.]*/config.json"):
            with contextlib.suppress(DatasetError):
                found.append(Run.open(record.parent))
        return sorted(found, key=lambda run: (run.created, run.id), reverse=True)

    def status(self) -> status.Status:
        """What the top bar would show."""
        return status.read(self.engine, models.default_model(self.engine.device), None, False, None)


def run_diagnostics(arguments: argparse.Namespace) -> int:
    """`diagnostics`: the report on stdout, or the zip in the file."""
    from core.diagnostics import as_text, bundle, collect

    target = arguments.file or arguments.output
    if arguments.file is not None and arguments.output is not None:
        raise ConfigError(Text("FILE.zip 和 --output 只能给一个。", "Give FILE.zip or --output, not both."), "output")
    if target is None and arguments.contents:
        raise ConfigError(
            Text("--contents 要和文件名一起用，例如 diagnostics 诊断.zip --contents。",
                 "--contents goes with a file, as in diagnostics report.zip --contents."),
            "contents",
        )  # fmt: skip
    home = AtRest(arguments.home)
    if target is None:
        print(as_text(collect(home), language()), end="")
        return 0
    place = target.expanduser().resolve()
    if place.is_dir():
        raise ConfigError(
            Text(f"{place} 是文件夹。请写出压缩包的文件名。", f"{place} is a folder. Name the zip file to write."),
            "output",
        )
    storage.write_bytes(place, bundle(home, arguments.contents))
    print(target)
    return 0

"""The command `diagnostics`: what the page's Diagnostics shows, where there is no page. Writes the zip to send."""

from __future__ import annotations

import argparse
from pathlib import Path

from core import storage
from core.cli import language


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `diagnostics`."""
    command = commands.add_parser(
        "diagnostics",
        help="versions, device, memory holders, last errors",
        description="Print the state of this installation; with --output write one zip to send, secrets hidden.",
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="the zip to write")
    command.add_argument("--contents", action="store_true", help="with rows, answers and proofs of the last three runs")
    command.set_defaults(command=run_diagnostics)


def run_diagnostics(arguments: argparse.Namespace) -> int:
    """`diagnostics`: the report on stdout, or the zip in --output."""
    from core.diagnostics import as_text, bundle, collect
    from core.workspace import Workspace

    workspace = Workspace(arguments.home)
    if arguments.output is None:
        print(as_text(collect(workspace), language()), end="")
        return 0
    storage.write_bytes(arguments.output.expanduser().resolve(), bundle(workspace, arguments.contents))
    print(arguments.output)
    return 0

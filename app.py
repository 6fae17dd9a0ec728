"""The one entry: `python app.py` opens the page; `python app.py COMMAND ...` (train, chat, prove, ...) works without it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from core import (
    __version__,
    bundle_command,
    cli,
    data_command,
    diagnostics,
    diagnostics_command,
    export_command,
    log,
    prove_command,
    publish_command,
    ranks,
    requirements,
)
from ui import serve_command


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    root = argparse.ArgumentParser(
        prog="app.py", description="OneCard: give a language model a new identity on one GPU."
    )
    root.add_argument("--version", action="version", version=f"OneCard {__version__}", help="print the version and end")
    root.add_argument(
        "--home",
        type=Path,
        default=Path.home() / ".onecard",
        help="where datasets and runs are kept (default: ~/.onecard)",
    )
    root.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    root.add_argument("--port", type=int, default=7860, help="port to listen on (default: 7860)")
    root.add_argument("--open", action=argparse.BooleanOptionalAction, default=True, help="open the page in a browser")
    commands = root.add_subparsers(title="without the page")
    cli.add_commands(commands)
    prove_command.add_command(commands)
    export_command.add_command(commands)
    bundle_command.add_command(commands)
    publish_command.add_command(commands)
    data_command.add_command(commands)
    diagnostics_command.add_command(commands)
    serve_command.add_command(commands)
    return root


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status."""
    parsed = parser().parse_args(arguments)
    if ranks.asked() > 1 and getattr(parsed, "command", None) is not cli.run_train:
        return cli.guarded(ranks.refuse)
    if hasattr(parsed, "command"):
        return cli.run(parsed)
    return cli.guarded(lambda: _open_page(parsed))


def _open_page(parsed: argparse.Namespace) -> int:
    for package in requirements.problems():
        if (problem := package.problem) is not None:
            print(f"OneCard: {problem.of(cli.language())}", file=sys.stderr)
    # Imported here: gradio takes seconds, and the other commands do without it.
    from core.workspace import Workspace
    from ui.server import serve

    workspace = Workspace(parsed.home)
    workspace.lock()
    log.begin(workspace.home)
    diagnostics.note_cut_off(workspace)
    serve(workspace, host=parsed.host, port=parsed.port, open_browser=parsed.open)
    return 0


if __name__ == "__main__":
    sys.exit(main())

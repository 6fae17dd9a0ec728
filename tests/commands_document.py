"""The reference of docs/cli.md, made of the command line's own grammar.

python -m tests.commands_document: writes it there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import app

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
BEGIN, END = "<!-- arguments: begin -->", "<!-- arguments: end -->"


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command by its name, in the order of --help."""
    (found,) = (action for action in app.parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """(how it is written, what it is) of every argument; the commands of a parser are none."""
    expand = parser._get_formatter()._expand_help
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        said = expand(action) if action.help else ""
        yield _written(action), f"{said} **(required)**" if action.required and action.option_strings else said


def _written(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    many = {None: f"{value}", "?": f"[{value}]", "*": f"[{value} ...]", "+": f"{value} [{value} ...]", 0: ""}[
        action.nargs
    ]
    return f"{', '.join(action.option_strings)} {many}".strip()


def reference() -> str:
    """Every command with its arguments, as Markdown between the marks."""
    parts = [BEGIN, "", "## app.py", "", *_listed(app.parser())]
    for name, parser in commands().items():
        parts += [f"## {name}", "", parser.description or "", "", *_listed(parser)]
    return "\n".join([*parts, END])


def _listed(parser: argparse.ArgumentParser) -> list[str]:
    return [*(f"- `{written}`: {said}" for written, said in arguments(parser)), ""]


def main() -> None:
    """Put the reference into the document."""
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    DOCUMENT.write_text(before + reference() + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()

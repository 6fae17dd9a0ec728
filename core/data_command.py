"""`app.py data FILE`: what the importer makes of a file, without the page and without a model.

stdout carries the finding (one JSON object with --json); a question or an error is one sentence on stderr and exit 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from core import formats, storage
from core.dataset import Row
from core.errors import DatasetError
from core.files_ask import parse_columns
from core.files_choices import Asked, Choices, Imported, Note, Undecided
from core.text import Language, Text

_SHOWN_ROWS, _SHOWN_CHARACTERS = 3, 60


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `data`."""
    data = commands.add_parser(
        "data",
        help="say what a data file holds",
        description="Say what the importer makes of a file: format, encoding, rows, and warnings with row numbers. "
        "Exit 2 and one sentence where nothing can be made of it, or where something has to be decided first.",
    )
    data.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="JSON, JSON Lines, CSV, TSV, XLSX, Parquet, a zip, or a folder with dataset_info.json",
    )
    data.add_argument("--json", action="store_true", help="one JSON object on stdout")
    data.add_argument("--encoding", default="", metavar="NAME", help="encoding of the file, such as gb18030")
    data.add_argument(
        "--columns",
        metavar="PART=COLUMN,...",
        help="which column is what, such as question=ask,answer=reply; parts: question, input, answer, system, history, "
        "messages. (1), (2), ... are the columns of a table without a header. ms-swift's JSON is taken too.",
    )
    data.add_argument("--salvage", action="store_true", help="take the complete rows of a broken file")
    data.add_argument(
        "--entry", default="", metavar="NAME", help="which set of a folder or zip, or sheet of a workbook"
    )
    data.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out `data`. Returns 0; raises DatasetError with the sentence to print."""
    from core.cli import language

    columns = parse_columns(arguments.columns) if arguments.columns else None
    choices = Choices(arguments.encoding, columns, arguments.salvage, arguments.entry)
    try:
        found = formats.read_path(storage.path_of(str(arguments.file)) or arguments.file, choices)
    except Undecided as question:
        if arguments.json:
            _print({"file": str(arguments.file), "asked": _asked(question.asked)})
        else:
            for line in question.asked.preview:
                print("  ".join(line), file=sys.stderr)
        flag = _flag(question.asked)
        raise DatasetError(
            Text(f"{question.text.zh}{flag.zh}", f"{question.text.en} {flag.en}"), question.row
        ) from None
    if arguments.json:
        _print(_described(arguments.file, found))
    else:
        for text in _told(found, language()):
            print(text)
    return 0


def _print(value: Mapping[str, object]) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _described(file: Path, found: Imported) -> dict[str, object]:
    return {
        "file": str(file),
        "format": found.format,
        "layout": found.layout,
        "encoding": found.encoding,
        "entry": found.entry,
        "rows": len(found.rows),
        "left_out": found.left_out,
        "warnings": [
            {
                "message_zh": note.zh,
                "message_en": note.en,
                "rows": [row + 1 for row in note.rows] if isinstance(note, Note) else [],
            }
            for note in found.notes
        ],
    }


def _asked(asked: Asked) -> dict[str, object]:
    return {
        "kind": asked.kind,
        "message_zh": asked.text.zh,
        "message_en": asked.text.en,
        "preview": asked.preview,
        "guess": dict(asked.guess),
        "rows": asked.rows,
    }


def _told(found: Imported, language: Language) -> list[str]:
    """The finding for people, a line each."""
    how = ", ".join(word for word in (found.format, found.layout, found.encoding, found.entry) if word)
    lines = [Text(f"格式：{how}", f"format: {how}").of(language)]
    lines.append(Text(f"行数：{len(found.rows)}", f"rows: {len(found.rows)}").of(language))
    lines += [f"- {note.of(language)}" for note in found.notes]
    lines += [f"{number}  {_cut(row.question)}  →  {_cut(row.output)}" for number, row in _first(found.rows)]
    return lines


def _first(rows: tuple[Row, ...]) -> list[tuple[int, Row]]:
    return list(enumerate(rows[:_SHOWN_ROWS], 1))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"


def _flag(asked: Asked) -> Text:
    """What to add to the command line to answer the question."""
    if asked.kind == "encoding":
        flag = f"--encoding {asked.guess['encoding']}"
    elif asked.kind == "columns":
        pairs = ",".join(f"{part}={key}" for part, key in asked.guess.items()) or "question=…,answer=…"
        flag = f"--columns '{pairs}'"
    elif asked.kind == "entry":
        flag = f"--entry '{asked.preview[0][0]}'"
    else:
        flag = "--salvage"
    return Text(f"确认后加上 {flag}。", f"To do so, add {flag}.")

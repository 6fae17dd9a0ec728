"""The table of what was injected and what was lost, made of the rows that the reliability tests wrote down.

python -m tests.reliability.table ROWS.jsonl [--write docs/reliability.md] [--commit ID]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"
_PACKAGES = ("torch", "transformers", "peft", "safetensors", "gradio", "tokenizers")


def rows_of(path: Path) -> list[dict[str, object]]:
    """One row a fault; those of the same fault added up, in the order of their names."""
    kinds: dict[str, dict[str, object]] = {}
    for line in path.read_text("utf-8").splitlines():
        one = json.loads(line)
        kind = kinds.setdefault(one["fault"], {**one, "cases": 0, "lost": 0, "wrong": 0})
        for name in ("cases", "lost", "wrong"):
            kind[name] = int(str(kind[name])) + one[name]
    return [kinds[name] for name in sorted(kinds)]


def table(rows: Sequence[dict[str, object]]) -> str:
    """The rows as Markdown, with their sum."""
    lines = ["| injected | cases | lost | silently wrong | test |", "|---|---:|---:|---:|---|"]
    for row in rows:
        note = f" ({row['note']})" if row["note"] else ""
        test = str(row["test"]).partition("[")[0]
        lines.append(f"| {row['fault']}{note} | {row['cases']:,} | {row['lost']} | {row['wrong']} | `{test}` |")
    sums = [sum(int(str(row[name])) for row in rows) for name in ("cases", "lost", "wrong")]
    return "\n".join([*lines, f"| **together** | **{sums[0]:,}** | **{sums[1]}** | **{sums[2]}** | |"])


def stamped(rows: Sequence[dict[str, object]], commit: str) -> str:
    """The table under what it was made with."""
    made = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    today = datetime.datetime.now(datetime.UTC).date()
    head = f"Commit {commit or 'unknown'}, {today}, Python {platform.python_version()}, {made}, {platform.system()}."
    return f"{_BEGIN}\n{head}\n\n{table(rows)}\n{_END}"


def main() -> None:
    """Print the table, and put it into a document if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--commit", default="")
    asked = parser.parse_args()
    if not asked.rows.is_file():  # a part of the tests without these: the document keeps its table
        print("No fault was injected.")
        return
    rows = rows_of(asked.rows)
    print(table(rows))
    if asked.write is not None:
        text = asked.write.read_text("utf-8")
        before, _, rest = text.partition(_BEGIN)
        asked.write.write_text(before + stamped(rows, asked.commit) + rest.partition(_END)[2], "utf-8")


if __name__ == "__main__":
    main()

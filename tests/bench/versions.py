"""What a table's history costs: time a cell edit takes with and without it, and room on disk. Prints a Markdown table.

`python tests/bench/versions.py [--rows 2000 50000] [--edits 100]`: the rows are the general set's, each made another by
a number; the edits change one random cell each, 70 s apart by a clock of its own, so that each is a version.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core import dataset, storage, versions
from core.dataset import Dataset
from core.tables import Tables

GENERAL = Path(__file__).resolve().parents[2] / "presets" / "general" / "general.jsonl"


@dataclass
class _Clock:
    now: float

    def time(self) -> float:
        """Seconds since the epoch, as it is set."""
        return self.now


@contextmanager
def _timed(spent: list[float]) -> Iterator[None]:
    """Adds to `spent` what each call of History.record takes, in seconds."""
    real: Callable[..., versions.Version] = versions.History.record

    def record(*given: object, **named: object) -> versions.Version:
        begun = time.perf_counter()
        made = real(*given, **named)
        spent.append(time.perf_counter() - begun)
        return made

    versions.History.record = record  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        versions.History.record = real  # type: ignore[method-assign]


def measure(count: int, edits: int, home: Path) -> list[str]:
    """One line of the table."""
    base = [dataset.from_json(value, i) for i, value in enumerate(storage.read_json_lines(GENERAL))]
    rows = [
        replace(base[i % len(base)], instruction=f"{base[i % len(base)].question} ({i})", input="")
        for i in range(count)
    ]
    tables, clock, chance = Tables(home / "datasets", home / "history"), _Clock(time.time()), random.Random(0)
    tables.create("big", rows)
    spent: list[float] = []
    whole: list[float] = []
    real, versions.time = versions.time, clock  # type: ignore[assignment]
    try:
        with _timed(spent):
            for number in range(edits):
                table, place = [*tables.get("big").rows], chance.randrange(count)
                table[place] = replace(table[place], output=f"{number}: {table[place].output}")
                clock.now += 70
                begun = time.perf_counter()
                tables.save(Dataset("big", tuple(table)))
                whole.append(time.perf_counter() - begun)
    finally:
        versions.time = real
    kept = sum(path.stat().st_size for path in (home / "history" / "big").iterdir())
    table_bytes = (home / "datasets" / "big.jsonl").stat().st_size
    begun = time.perf_counter()
    oldest = Tables(home / "datasets", home / "history").version("big", 1)
    back = time.perf_counter() - begun
    assert oldest.rows == tuple(rows)
    return [
        f"{count:,}", f"{1000 * statistics.median(spent):.1f} ms", f"{1000 * max(spent):.1f} ms",
        f"{1000 * statistics.median(whole):.0f} ms", f"{table_bytes / 1e6:.1f} MB", f"{kept / 1e6:.2f} MB", f"{back:.2f} s",
    ]  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 50_000])
    parser.add_argument("--edits", type=int, default=100)
    asked = parser.parse_args()
    heads = (
        "rows",
        "history, median",
        "slowest",
        "whole save, median",
        "table",
        f"history of {asked.edits} edits",
        "oldest read",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for count in asked.rows:
        with tempfile.TemporaryDirectory() as home:
            print(f"| {' | '.join(measure(count, asked.edits, Path(home)))} |")


if __name__ == "__main__":
    main()

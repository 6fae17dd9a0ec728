"""How long the doctor takes on a large table: `python tests/bench/doctor.py [--rows 50000]`, seconds of one core.

Three tables of about 500 characters a row, made from the general sets of the shared data where they are, else of made-up
words: all different, every row twice but for its punctuation, and one question with as many answers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from core import health  # noqa: E402
from core.config import TrainConfig  # noqa: E402
from core.dataset import Dataset, Identity, Row  # noqa: E402
from core.doctor import whole  # noqa: E402
from core.doctor.facts import Facts  # noqa: E402

CARD = Identity("小禾", "Xiaohe", "青禾智能", "Qinghe AI")


def texts() -> list[str]:
    """Real answers to shuffle, or made-up ones."""
    shared = Path(os.environ.get("ONECARD_SHARED_DATA", ROOT.parent / "shared" / "data"))
    found = [
        str(row["output"])
        for name in ("alpaca_zh_demo_300.json", "alpaca_en_demo_300.json")
        if (path := shared / "general" / name).is_file()
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]
    return found or ["".join(chr(97 + i % 26) for i in range(n)) + " words " * 60 for n in range(5, 90)]


def varied(rows: int) -> list[Row]:
    """Rows whose words were shuffled, so that no two are near."""
    chance, given = random.Random(1), texts()
    made = []
    for i in range(rows):
        words = given[i % len(given)].split() if " " in given[i % len(given)] else list(given[i % len(given)])
        chance.shuffle(words)
        text = (" " if len(words[0]) > 1 else "").join(words)
        made.append(Row(f"{text[:60]} {i}", "", text[60:]))
    return made


def measured(work: Callable[[], object]) -> float:
    """Seconds of this thread."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def main() -> None:
    """Print one line a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    count = parser.parse_args().rows
    different = varied(count)
    twice = [Row(row.instruction + mark, "", row.output) for row in different[: (count + 1) // 2] for mark in "。！"]
    one = [Row("请把下面的话改写得更好。", "", row.output) for row in different]
    for name, rows in (("different", different), ("each twice", twice[:count]), ("one question", one)):
        dataset, facts = Dataset("bench", tuple(rows), CARD), Facts()
        first = measured(lambda: health.check(dataset, TrainConfig(), None, facts=facts))  # noqa: B023
        known = facts.of(dataset)
        near = measured(lambda: whole.nearly_same(known, Facts()))  # noqa: B023
        fresh = dataset.with_rows([*(replace(row) for row in rows[1:]), Row("新的问题", "", "新的回答")])
        edited = measured(lambda: health.check(fresh, TrainConfig(), None, facts=facts))  # noqa: B023
        size = sum(len(row.question + row.output) for row in rows) // len(rows)
        print(
            f"{name:14} {len(rows):,} rows of {size} characters: first check {first:.2f} s, near rows {near:.2f} s, "
            f"after an edit {edited:.2f} s"
        )


if __name__ == "__main__":
    main()

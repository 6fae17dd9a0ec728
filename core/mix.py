"""Other rows mixed into a dataset: `name#count`, drawn at random by the run's seed. After ms-swift's syntax.

More than there are repeats the source; without a count the whole source is taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from core import dataset, storage
from core.dataset import Row
from core.errors import ConfigError
from core.text import Text

BUILT_IN = {"general": Path(__file__).resolve().parent.parent / "presets" / "general" / "general.jsonl"}


def parse(mix: str) -> list[tuple[str, int | None]]:
    """[(source, count or None)]. Raises ConfigError for a count that is no positive whole number."""
    parts: list[tuple[str, int | None]] = []
    for part in mix.split():
        name, mark, count = part.rpartition("#")
        if not mark:
            parts.append((part, None))
        elif name and count.isdigit() and 0 < int(count) <= 1_000_000:
            parts.append((name, int(count)))
        else:
            raise ConfigError(
                Text(
                    zh=f"混入数据里的“{part}”写法不对;应为 名称#行数,例如 general#100。",
                    en=f"“{part}” in Mix in is not name#count, for example general#100.",
                ),
                "mix",
            )
    return parts


def draw(mix: str, seed: int, saved: Callable[[str], Sequence[Row]]) -> list[Row]:
    """The rows that `mix` names: built-in sets first, else datasets through `saved` (which raises for an unknown name)."""
    rows: list[Row] = []
    for index, (name, count) in enumerate(parse(mix)):
        source = _source(name, saved)
        if not source:
            raise ConfigError(
                Text(zh=f"混入的数据集 {name} 是空的。", en=f"The dataset {name} to mix in is empty."), "mix"
            )
        wanted = len(source) if count is None else count
        order = random.Random(f"{seed}-{index}-{name}")
        while wanted > 0:
            rows += order.sample(source, min(wanted, len(source)))
            wanted -= len(source)
    return rows


def count(mix: str, saved: Callable[[str], Sequence[Row]]) -> int:
    """How many rows `draw` gives, without drawing them."""
    return sum(len(_source(name, saved)) if wanted is None else wanted for name, wanted in parse(mix))


def scaled(mix: str, rows: int, saved: Callable[[str], Sequence[Row]]) -> str:
    """The same sources in the same shares, about `rows` rows in all."""
    counts = [(name, len(_source(name, saved)) if wanted is None else wanted) for name, wanted in parse(mix)]
    total = sum(wanted for _, wanted in counts)
    return " ".join(f"{name}#{max(1, round(rows * wanted / total))}" for name, wanted in counts)


def _source(name: str, saved: Callable[[str], Sequence[Row]]) -> list[Row]:
    return [row for row in (_built_in(name) if name in BUILT_IN else saved(name)) if not row.is_blank]


def _built_in(name: str) -> list[Row]:
    return [dataset.from_json(value, i) for i, value in enumerate(storage.read_json_lines(BUILT_IN[name]))]

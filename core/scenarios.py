"""A starting mix for what a person wants: TOML files that say how large the own share shall be, and what goes beside it.

Other people's rows are not repeated to reach the share; the own ones are, where they are few.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from core import mix
from core.errors import ConfigError
from core.text import Text

FOLDER = Path(__file__).resolve().parent.parent / "presets" / "scenarios"
MOST_REPEATS = 50


@dataclass(frozen=True)
class Scenario:
    """share: of the own rows, aimed at. least: other rows even for a tiny table. sources: name -> weight."""

    id: str
    name: Text
    note: Text
    share: float
    least: int
    sources: Mapping[str, float]


@dataclass(frozen=True)
class Start:
    """What a scenario gives a table: the settings `mix` and `dataset_repeat`. `lacking`: other rows there are too few of."""

    mix: str
    repeat: int
    lacking: int


def start(scenario: Scenario, own: int, available: Callable[[str], int]) -> Start:
    """The mix for a table of `own` rows; `available(name)` is how many rows a source has."""
    wanted = max(scenario.least, round(own * (1 - scenario.share) / scenario.share))
    weight = sum(scenario.sources.values())
    counts, lacking = list[tuple[str, int | None]](), 0
    for name, part in scenario.sources.items():
        count = round(wanted * part / weight)
        lacking += max(0, count - available(name))
        counts.append((name, min(count, available(name))))
    others = sum(count or 0 for _, count in counts)
    repeat = math.ceil(scenario.share * others / ((1 - scenario.share) * own) - 1e-9) if own else 1
    return Start(mix.written(counts), max(1, min(MOST_REPEATS, repeat)), lacking)


@cache
def load() -> tuple[Scenario, ...]:
    """The shipped scenarios, in their order."""
    found = [(tomllib.loads(path.read_text(encoding="utf-8")), path.stem) for path in FOLDER.glob("*.toml")]
    found.sort(key=lambda one: int(one[0]["order"]))
    return tuple(
        Scenario(
            stem, Text(**data["name"]), Text(**data["note"]), float(data["share"]), int(data["least"]), data["sources"]
        )
        for data, stem in found
    )


def scenario(name: str) -> Scenario:
    """The scenario with this id. Raises ConfigError."""
    for known in load():
        if known.id == name:
            return known
    ids = ", ".join(known.id for known in load())
    raise ConfigError(
        Text(zh=f"没有名为 {name} 的场景。可用：{ids}。", en=f"There is no scenario {name}. Known: {ids}."), "mix"
    )

"""What a run trains on: the table, and other rows mixed in, `name#count`, drawn at random by the seed. After ms-swift.

Drawn without replacement; more than there are repeats the source, and how often is told. Without a count the whole
source is taken.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import storage
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.errors import ConfigError, DatasetError, UserError
from core.sources.found import BUILT_IN as BUILT_IN
from core.sources.found import NOBODY, Elsewhere, Kind, Source
from core.text import Text

FILE = "mix.json"
_HELD_OUT = "evaluation.jsonl"
# Of the rows trained on, what the source articles advise for the own ones at the least.
LEAST_SHARE = 0.2
_MOST = 1_000_000
_PART = re.compile(r'(?:"[^"]*"|[^\s,，"])+')
Find = Callable[[str, Identity], Source]


@dataclass(frozen=True)
class Part:
    """What one source gives to a run: `rows` of the `available` ones. The table comes first, then the mix in order.

    problem: why it gives nothing. elsewhere: the problem is that a hub's set has not been fetched. complete: whether the
    available rows are all there are of it. notes: what was interpreted or left out when it was read.
    """

    name: str
    kind: Kind
    available: int
    rows: int
    problem: Text | None = None
    elsewhere: bool = False
    complete: bool = True
    notes: tuple[Text, ...] = ()

    @property
    def repeat(self) -> float:
        """How often a row of it comes, on average: above 1 rows repeat, below 1 some are left out."""
        return self.rows / self.available if self.available else 0.0


@dataclass(frozen=True)
class Mixture:
    """Every row of a run, in the order of its parts: those of the table, then those that are mixed in."""

    parts: tuple[Part, ...]
    rows: tuple[Row, ...]

    @property
    def own(self) -> tuple[Row, ...]:
        """The table's rows, as often as they come."""
        return self.rows[: self.parts[0].rows]

    @property
    def mixed(self) -> tuple[Row, ...]:
        """The rows from elsewhere."""
        return self.rows[self.parts[0].rows :]


def parse(mix: str) -> list[tuple[str, int | None]]:
    """[(source, count or None)]: names separated by blanks or commas, in quotes where they hold one.

    Raises ConfigError for a count that is no positive whole number.
    """
    if mix.count('"') % 2:
        raise _malformed(mix)
    parts: list[tuple[str, int | None]] = []
    for written in _PART.findall(mix):
        part = written.replace('"', "")
        name, mark, count = part.rpartition("#")
        if not mark and part:
            parts.append((part, None))
        elif name and count.isascii() and count.isdigit() and 0 < int(count) <= _MOST:
            parts.append((name, int(count)))
        else:
            raise _malformed(part)
    return parts


def written(parts: Sequence[tuple[str, int | None]]) -> str:
    """The parts as `parse` reads them."""
    words = (f"{name}#{count}" if count is not None else name for name, count in parts)
    return " ".join(f'"{word}"' if re.search(r"[\s,，]", word) else word for word in words)


def plan(name: str, own: int, config: TrainConfig, find: Find, identity: Identity = NOBODY) -> list[Part]:
    """What a run of the table `name` with `own` rows would be made of; a source that cannot be used says why.

    Raises ConfigError for a mix that cannot be read.
    """
    parts = [Part(name, "table", own, own * config.dataset_repeat)]
    for source, count in parse(config.mix):
        try:
            found = _found(source, find, identity)
        except UserError as error:
            parts.append(Part(source, _kind_of(error), 0, 0, error.text, isinstance(error, Elsewhere)))
            continue
        there = len(found.rows)
        taken = there if count is None else count
        parts.append(Part(source, found.kind, there, taken, complete=found.complete, notes=found.notes))
    return parts


def shares(parts: Sequence[Part]) -> list[float]:
    """Each part's share of all rows, 0 to 1."""
    total = sum(part.rows for part in parts)
    return [part.rows / total if total else 0.0 for part in parts]


def own_share(parts: Sequence[Part]) -> float:
    """The share of the table's own rows, by whatever name they come; 1 where nothing is mixed in."""
    named = {part.name for part in parts if part.kind == "table"}
    # A built-in set or a file may have the table's name.
    own = sum(part.rows for part in parts if part.kind in ("table", "dataset") and part.name in named)
    return own / total if (total := sum(part.rows for part in parts)) else 1.0


def gather(table: Dataset, config: TrainConfig, find: Find) -> Mixture:
    """Every row of a run over `table`, resolved, and where each comes from.

    Raises ConfigError or DatasetError: a mix that cannot be read, a source that is missing, damaged or empty, or rows
    that would be both trained on and held out.
    """
    own = table.resolved()
    parts, rows = (
        [Part(table.name, "table", len(own), len(own) * config.dataset_repeat)],
        [*own] * config.dataset_repeat,
    )
    for index, (name, count) in enumerate(parse(config.mix)):
        source = _found(name, find, table.identity)
        drawn = _draw(source.rows, len(source.rows) if count is None else count, f"{config.seed}-{index}-{name}")
        parts.append(Part(name, source.kind, len(source.rows), len(drawn), complete=source.complete))
        rows += drawn
    if config.split_dataset_ratio and (again := next((part for part in parts if part.repeat > 1), None)) is not None:
        raise _held_out_twice(again)
    return Mixture(tuple(parts), tuple(rows))


def draw(mix: str, seed: int, find: Find, identity: Identity = NOBODY) -> list[Row]:
    """The rows that `mix` names alone."""
    rows: list[Row] = []
    for index, (name, count) in enumerate(parse(mix)):
        source = _found(name, find, identity).rows
        rows += _draw(source, len(source) if count is None else count, f"{seed}-{index}-{name}")
    return rows


def count(mix: str, find: Find) -> int:
    """How many rows `draw` gives, without drawing them."""
    return sum(len(_found(name, find, NOBODY).rows) if wanted is None else wanted for name, wanted in parse(mix))


def scaled(mix: str, rows: int, find: Find) -> str:
    """The same sources in the same shares, about `rows` rows in all."""
    counts = [(name, len(_found(name, find, NOBODY).rows) if wanted is None else wanted) for name, wanted in parse(mix)]
    total = sum(wanted for _, wanted in counts)
    return written([(name, max(1, round(rows * wanted / total))) for name, wanted in counts])


def freeze(folder: Path, given: Sequence[Part]) -> None:
    """Write beside a run's frozen rows, dataset.jsonl, which source each came from, with their hashes.

    A part's rows stand at [first, first + rows) of dataset.jsonl; `sha256` is that file's, a part's that of its lines.
    `evaluation_sha256` is that of evaluation.jsonl, where there is one.
    """
    lines = (folder / "dataset.jsonl").read_bytes().splitlines(keepends=True)
    parts, first = [], 0
    for part in given:
        of = lines[first : first + part.rows]
        parts.append(
            {
                "name": part.name, "kind": part.kind, "available": part.available, "rows": part.rows, "first": first,
                "sha256": _digest(of),
            }
        )  # fmt: skip
        first += part.rows
    record: dict[str, object] = {"sha256": _digest(lines), "rows": len(lines), "parts": parts}
    if (held := folder / _HELD_OUT).is_file():
        record["evaluation_sha256"] = _digest([held.read_bytes()])
    storage.write_json(folder / FILE, record)


@dataclass(frozen=True)
class Frozen:
    """The mix of a run as it was at the start. `sha256` is that of its dataset.jsonl, `evaluation_sha256` that of its
    evaluation.jsonl ("" for none, and in a run from before that was kept)."""

    sha256: str
    parts: tuple[Part, ...]
    evaluation_sha256: str = ""


def frozen(folder: Path) -> Frozen | None:
    """The mix that was frozen into a run's folder; None for a run from before, or a damaged file."""
    try:
        record = storage.read_json(folder / FILE)
        assert isinstance(record, dict)
        parts = (
            Part(str(part["name"]), part["kind"], int(part["available"]), int(part["rows"])) for part in record["parts"]
        )
        return Frozen(str(record["sha256"]), tuple(parts), str(record.get("evaluation_sha256", "")))
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        return None


def check_frozen(folder: Path) -> None:
    """Raise DatasetError if a run's rows are not those that were frozen. A run from before hashes passes."""
    then = frozen(folder)
    if then is None:
        return
    if (folder / "dataset.jsonl").is_file():
        _check_file(folder / "dataset.jsonl", then.sha256)
    if then.evaluation_sha256:
        _check_file(folder / _HELD_OUT, then.evaluation_sha256)


def _check_file(path: Path, then: str) -> None:
    now = _digest([path.read_bytes()]) if path.is_file() else ""
    if now == then:
        return
    zh, en = (f"现在是 {now[:12]}…", f"{now[:12]}… now") if now else ("现在文件不在了", "no file now")
    raise DatasetError(
        Text(
            zh=f"{path} 在训练开始之后被改动过（sha256 应为 {then[:12]}…，{zh}），不能继续训练。"
            "请恢复这个文件，或重新开始一次训练。",
            en=f"{path} was changed after the run began (sha256 {then[:12]}… then, {en}), so the run cannot go on. Restore "
            "the file, or start a new run.",
        )
    )


def _found(name: str, find: Find, identity: Identity) -> Source:
    try:
        source = find(name, identity)
    except DatasetError as error:
        raise ConfigError(Text(zh=f"混入数据：{error.text.zh}", en=f"Mix in: {error.text.en}"), "mix") from error
    if not source.rows:
        raise ConfigError(Text(zh=f"混入的数据 {name} 是空的。", en=f"{name}, to be mixed in, is empty."), "mix")
    return source


def _draw(rows: Sequence[Row], wanted: int, seed: str) -> list[Row]:
    """`wanted` rows at random: none twice before all have come."""
    order, drawn = random.Random(seed), list[Row]()
    while wanted > len(drawn):
        drawn += order.sample(rows, min(wanted - len(drawn), len(rows)))
    return drawn


def _kind_of(error: UserError) -> Kind:
    return "hub" if isinstance(error, Elsewhere) else "file"


def _digest(lines: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def _malformed(part: str) -> ConfigError:
    return ConfigError(
        Text(
            zh=f"混入数据里的“{part}”写法不对；应为 名称#行数，例如 general#100。名称里有空格就用英文双引号括起来。",
            en=f"“{part}” in Mix in is not name#count, for example general#100. Put a name with blanks in double quotes.",
        ),
        "mix",
    )


def _held_out_twice(part: Part) -> ConfigError:
    times = f"{part.repeat:.3g}"
    return ConfigError(
        Text(
            zh=f"{part.name} 的行会重复 {times} 遍，而“验证集比例”会把其中一些既拿来训练又拿来验证。请把验证集比例设为 0"
            "（可改用单独的验证集），或不要重复。",
            en=f"The rows of {part.name} come {times} times, and the evaluation split would both train on some and hold "
            "them out. Set the evaluation split to 0 (a separate evaluation set is fine), or do not repeat.",
        ),
        "split_dataset_ratio",
    )

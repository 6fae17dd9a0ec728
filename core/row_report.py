"""What a run made of each row of its table: loss before and after, and the word the model is least sure of.

Measured once after the run by `core.score`, kept as rows.json in the run's folder. A row is learned when every token of
its answer is likelier than all others together: then the model, asked at temperature 0, says exactly that answer.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from core import adapters, mix, steady, storage, truncation
from core.attached import Attached
from core.dataset import Row
from core.device_errors import device_errors
from core.encode import IGNORE, Encoder, Example
from core.engine import Engine
from core.errors import BusyError, ModelError, UserError
from core.run import Run
from core.schedule import divide
from core.steady import Steady
from core.text import Text

if TYPE_CHECKING:
    from core.score import Scored

FILE = "rows.json"
MOST_ROWS = 500
_PART_TOKENS = 2048  # rows that are measured between two looks at the clock: a pass
_SECONDS = 3.0  # at a run's end, which nothing else may begin before
SURE = 0.5  # a token likelier than this is what greedy decoding takes
_HALF = math.log(2)
_SPAN = 4  # tokens that a character may be cut into
Level = Literal["learned", "partly", "not"]
_Asked = tuple[int, Row, tuple[Example, ...]]  # index in the run's rows, the row, what is trained of it
_NO_NUMBERS = Text(
    zh="这个适配器在训练行上算不出损失（得到的不是数字），没有逐行结果。请降低学习率重新训练，或改用 float32。",
    en="The losses of this adapter on its rows are not numbers, so there is no report. Train again with a lower learning "
    "rate, or in float32.",
)


@dataclass(frozen=True)
class RowLoss:
    """One row. `index` counts from 0 in the run's frozen rows; losses are mean nats per token of its answers.

    `word` is the piece of the answer that the model is least sure of ("" for its end), `chance` how likely it finds that
    piece now. `trained` False: held out for the evaluation loss.
    """

    index: int
    row: Row
    before: float
    after: float
    word: str
    chance: float
    trained: bool = True

    @property
    def level(self) -> Level:
        """How far it was learned."""
        if self.chance > SURE:
            return "learned"
        return "partly" if self.after <= _HALF else "not"


@dataclass(frozen=True)
class RowReport:
    """Every measured row, the un-learned ones first. `total`: rows the table had; `step`: of the adapter measured.

    Of a long table, or where time is short, rows from all over it are measured, not all.
    """

    step: int
    total: int
    seconds: float
    rows: tuple[RowLoss, ...]

    def count(self, level: Level) -> int:
        """How many rows are at `level`."""
        return sum(row.level == level for row in self.rows)

    @property
    def weak(self) -> tuple[Row, ...]:
        """The rows that are not learned, the worst first."""
        return tuple(row.row for row in self.rows if row.level != "learned" and row.trained)


class RowReports:
    """The reports of one home's runs. `hold` loads the base and keeps adapters attached, `find` a mix's rows."""

    def __init__(
        self,
        engine: Engine,
        attached: Attached,
        hold: Callable[[Sequence[str]], AbstractContextManager[Mapping[str, str]]],
        find: mix.Find,
    ) -> None:
        self._engine, self._attached, self._hold, self.find = engine, attached, hold, find
        self._guard = threading.Lock()
        self._known: dict[Path, tuple[tuple[float, ...], RowReport | None]] = {}
        self._stops: dict[str, threading.Event] = {}

    def of(self, run: Run) -> RowReport | None:
        """The run's report, if it was made and is about the adapter that the run has now."""
        path = run.folder / FILE
        try:
            found = path.stat()
        except OSError:
            return None
        # Each write makes a file of its own: two within one tick of the file system's clock differ in that.
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, _read(path, run))
        report = known[1]
        return report if report is not None and report.step == _step(run) else None

    def making(self, run_id: str) -> bool:
        """Whether its rows are being measured now."""
        return run_id in self._stops

    def make(self, run: Run, stop: threading.Event | None = None) -> RowReport | None:
        """Measure the run's rows on the calling thread and keep the report; None if it was stopped or is being made.

        Raises BusyError while the run trains, ModelError or WontFitError if its adapter or base cannot be used.
        """
        if run.live:
            raise BusyError(steady.training(run))
        return self._make(run, stop or threading.Event(), math.inf)

    def _make(self, run: Run, own: threading.Event, seconds: float) -> RowReport | None:
        with self._guard:
            if run.id in self._stops:
                return None
            self._stops[run.id] = own
        try:
            with device_errors(), self._hold([run.id]) as ids, self._before(run) as before:
                same = Steady.of(self._engine, ids[run.id], run.folder / "adapter", run)
                report = self._measured(run, ids[run.id], before, own, seconds)
                if report is None:
                    return None
                same.check()
                storage.write_json(run.folder / FILE, _to_json(report))
            return self.of(run)
        finally:
            with self._guard:
                del self._stops[run.id]

    def after(self, run: Run, stop: threading.Event) -> None:
        """`make` at a run's end, within seconds; nothing that goes wrong here may become the run's failure."""
        if run.adapter is None or stop.is_set():
            return
        try:
            with contextlib.suppress(UserError):
                self._make(run, stop, _SECONDS)
        except (RuntimeError, OSError, ArithmeticError, LookupError, TypeError, ValueError):
            traceback.print_exc(file=sys.stderr)

    def stop(self, run_id: str) -> None:
        """Give up measuring this run's rows."""
        with self._guard:
            if stop := self._stops.get(run_id):
                stop.set()

    def own_rows(self, run: Run) -> list[tuple[int, Row]]:
        """(index, row) of the table's own rows, each once; what was mixed in stands behind them and is left out."""
        rows, first = run.rows, dict[Row, int]()
        for index, row in enumerate(rows[: max(1, len(rows) - self.mixed(run))]):
            first.setdefault(row, index)
        return [(index, row) for row, index in first.items()]

    def mixed(self, run: Run) -> int:
        """How many rows were mixed into the run from elsewhere; 0 where such a dataset is gone."""
        if (then := mix.frozen(run.folder)) is not None:
            return sum(part.rows for part in then.parts if part.kind != "table")
        try:
            return mix.count(run.config.mix, self.find)
        except UserError:
            return 0

    @contextlib.contextmanager
    def _before(self, run: Run) -> Iterator[str | None]:
        """The name of the adapter that the run went on from, attached; None for the base, or where it is gone."""
        folder, name = Path(run.config.adapters), f"{run.id} before"
        if not run.config.adapters or not (folder / adapters.CONFIG).is_file():
            yield None
            return
        try:
            with self._attached.held({name: folder}):
                yield name
        finally:
            with self._attached.gone(name):
                pass

    def _measured(
        self, run: Run, adapter: str, before: str | None, stop: threading.Event, seconds: float
    ) -> RowReport | None:
        from core import score

        begun, rows, resident = time.perf_counter(), self.own_rows(run), self._engine.resident
        if resident is None:
            return None
        chosen, encoder, found = _spread(rows, MOST_ROWS), resident.encoder, list[RowLoss]()
        asked, held_out = _asked(run, chosen, encoder)
        for part in _parts(asked):
            examples = [example for _, _, each in part for example in each]
            scored = score.score(self._engine, adapter, examples, stop)
            earlier = None if before is None else score.losses(self._engine, before, examples, stop)
            if len(scored) < len(examples) or (earlier is not None and len(earlier) < len(examples)):
                return None
            at = 0
            for index, row, each in part:
                places = slice(at, at := at + len(each))
                loss = _loss(index, row, each, scored[places], encoder)
                first = loss.before if earlier is None else _mean(earlier[places], each)
                found.append(replace(loss, before=first, trained=index not in held_out))
            if time.perf_counter() - begun > seconds:
                break
        if not all(math.isfinite(loss) for row in found for loss in (row.before, row.after)):
            raise ModelError(_NO_NUMBERS)
        return RowReport(_step(run), len(rows), time.perf_counter() - begun, _ordered(found))


def _asked(run: Run, rows: Sequence[tuple[int, Row]], encoder: Encoder) -> tuple[list[_Asked], set[int]]:
    """The rows as the run trains them, those that it leaves out aside; and which of all its rows are held out."""
    frozen, config = run.rows, run.config

    def fitted(rows: Sequence[Row]) -> list[tuple[Example, ...]]:
        found = truncation.fit_rows(encoder, [row.messages(config.system) for row in rows], config)
        return [one.examples for one in found]

    trained = list(range(len(frozen)))
    if config.truncation_strategy == "delete" and config.split_dataset_ratio:
        trained = truncation.kept(fitted(frozen))
    _, held_out = divide(trained, config)
    examples = fitted([row for _, row in rows])
    return [(*one, each) for one, each in zip(rows, examples, strict=True) if each], set(held_out)


def _parts(asked: Sequence[_Asked]) -> list[Sequence[_Asked]]:
    """About a pass each, and each from all over the table: whatever was measured when time is up stands for the rest."""
    count = max(1, sum(len(example) for _, _, each in asked for example in each) // _PART_TOKENS)
    return [part for first in range(count) if (part := asked[first::count])]


def _loss(index: int, row: Row, examples: Sequence[Example], scored: Sequence[Scored], encoder: Encoder) -> RowLoss:
    labels = [label for example in examples for label in example.labels if label != IGNORE]
    base = [chance for one in scored for chance in one.base]
    tuned = [chance for one in scored for chance in one.tuned]
    worst = min(range(len(labels)), key=lambda i: tuned[i])
    word = _word(encoder, labels, worst)
    return RowLoss(index, row, -sum(base) / len(labels), -sum(tuned) / len(labels), word, math.exp(tuned[worst]))


def _mean(losses: Sequence[float], examples: Sequence[Example]) -> float:
    """Of all tokens in the loss, from the mean of each example's."""
    counts = [example.answer_tokens for example in examples]
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


def _word(encoder: Encoder, labels: Sequence[int], at: int) -> str:
    """The text of a token, with its neighbours where it is a piece of a character; "" for an answer's end."""
    for width in range(1, _SPAN + 1):
        for start in range(at - width + 1, at + 1):
            text = encoder.decode(labels[max(0, start) : start + width])
            if "\ufffd" not in text:
                return text.strip()
    return "�"


def _ordered(rows: Sequence[RowLoss]) -> tuple[RowLoss, ...]:
    order: Mapping[Level, int] = {"not": 0, "partly": 1, "learned": 2}
    return tuple(sorted(rows, key=lambda row: (order[row.level], -row.after, row.index)))


def _spread(rows: Sequence[tuple[int, Row]], most: int) -> list[tuple[int, Row]]:
    """At most `most` of them, evenly from the whole."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i * len(rows) // most] for i in range(most)]


def _step(run: Run) -> int:
    """The step of the adapter that the run has now: another of its points may have been chosen meanwhile."""
    return run.adapter_step or run.step


def _to_json(report: RowReport) -> dict[str, object]:
    rows = [
        {
            "index": row.index,
            "before": round(row.before, 5),
            "after": round(row.after, 5),
            "word": row.word,
            "chance": round(row.chance, 5),
            "trained": row.trained,
        }
        for row in report.rows
    ]
    return {"step": report.step, "total": report.total, "seconds": round(report.seconds, 3), "rows": rows}


def _read(path: Path, run: Run) -> RowReport | None:
    """The kept report; None for a file that is damaged or not about this run's rows."""
    try:
        value = cast("dict[str, object]", storage.read_json(path))
        frozen, rows = run.rows, []
        for item in cast("list[dict[str, object]]", value["rows"]):
            index = int(str(item["index"]))
            losses = float(str(item["before"])), float(str(item["after"]))
            chance, trained = float(str(item["chance"])), item["trained"] is True
            rows.append(RowLoss(index, frozen[index], *losses, str(item["word"]), chance, trained))
        return RowReport(
            int(str(value["step"])), int(str(value["total"])), float(str(value["seconds"])), _ordered(rows)
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, ModelError):
        return None

"""A few more steps from an adapter: the rows that it has not learned, mixed with those it knows so that nothing is lost.

What is wanted is found by comparing: rows of the table that the run never saw, else rows that its report calls
un-learned. Knows no model and no thread; `start` hands the plan to the workspace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core import adapters, mix
from core.config import TrainConfig, build
from core.dataset import Dataset, Row
from core.errors import DatasetError
from core.library import AdapterChoice
from core.row_report import RowReports
from core.run import Run
from core.text import Text

if TYPE_CHECKING:
    from core.workspace import Workspace

# Measured on the pocket model, see tests/bench/further.py. Steps of 4 rows made it forget 11 of 50 rows that it knew,
# steps of 16 none; more steps with a smaller share of wanted rows learn more and forget less than the other way round.
_ROWS = 16  # in a step, at least
_SHARE, _MOST_SHARE = 0.2, 0.5  # of a step's rows that are wanted ones
_STEPS, _STEPS_EACH, _MOST = 12, 12, 60  # in any case, for each wanted row, at most
_RATE = 0.5  # of the learning rate that the adapter was made with
_AGAIN = re.compile(r" \+\d+$")


@dataclass(frozen=True)
class Further:
    """What to start: `table` holds the rows in their shares, `wanted` counts those that are to be learned."""

    table: Dataset
    config: TrainConfig
    title: str
    wanted: int
    steps: int


def start(workspace: Workspace, adapter: str, name: str) -> Run:
    """Train a few more steps from an adapter (id or name) towards what the dataset `name` says now.

    Raises BusyError, DatasetError, ConfigError, ModelError or WontFitError before anything is written.
    """
    choice = workspace.library.get(adapter)
    fallback = replace(workspace.default_preset.config, model=workspace.model)
    made = plan(choice, workspace.dataset(name), workspace.runs(), workspace.row_reports, fallback)
    return workspace.start(made.table, made.config, made.title)


def plan(
    choice: AdapterChoice, table: Dataset, runs: Sequence[Run], reports: RowReports, fallback: TrainConfig
) -> Further:
    """Rows and settings. `runs`: all there are; `fallback`: settings for an adapter that no run here made.

    Raises DatasetError for an adapter that has saved nothing, or if there is nothing to train on.
    """
    folder, run, now = choice.folder, choice.run, list(dict.fromkeys(table.resolved()))
    if folder is None:
        raise _not_saved(choice)
    report = reports.of(run) if run is not None else None
    seen = list(dict.fromkeys(row for past in _lineage(run, runs) for _, row in reports.own_rows(past)))
    here, known = set(now), set(seen)
    new = [row for row in now if row not in known]
    weak = [row for row in report.weak if row in here] if report is not None else []
    wanted = new or weak  # what a person put right comes first, and soon
    kept = _kept(seen, here, wanted, own_table=run is not None and run.dataset == table.name)
    if not wanted and not kept:
        raise DatasetError(
            Text(
                zh=f"数据集“{table.name}”是空的。请至少写一行问题和回答。",
                en=f"The dataset “{table.name}” is empty. Write at least one question and answer.",
            )
        )
    config = _settings(choice, folder, fallback)
    mixed = reports.mixed(run) if run is not None else 0
    share = _share(len(wanted), len(kept) + mixed)
    steps = min(_MOST, _STEPS + _STEPS_EACH * len(wanted))
    total = steps * config.rows_per_step
    aims = round(total * share)
    general = round((total - aims) * mixed / max(1, mixed + len(kept)))
    rows = [*_repeated(wanted, aims), *_repeated(kept, total - aims - general)]
    config = replace(config, mix=mix.scaled(config.mix, general, reports.find) if general else "", dataset_repeat=1)
    title = _AGAIN.sub("", run.title if run is not None else choice.name)
    return Further(table.with_rows(rows), config, f"{title} +{steps}", len(wanted), steps)


def _not_saved(choice: AdapterChoice) -> DatasetError:
    """The refusal for an adapter that is still being trained."""
    return DatasetError(
        Text(
            zh=f"“{choice.name}”还没有保存适配器。请等训练结束，或先按停止。",
            en=f"“{choice.name}” has no saved adapter yet. Wait for the run to end, or press Stop first.",
        )
    )


def _lineage(run: Run | None, runs: Sequence[Run]) -> list[Run]:
    """The run, and those it went on from, newest first."""
    found: list[Run] = []
    while run is not None and run not in found:
        found.append(run)
        source = Path(run.config.adapters) if run.config.adapters else None
        run = next((other for other in runs if source is not None and source.is_relative_to(other.folder)), None)
    return found


def _kept(seen: Sequence[Row], here: Set[Row], wanted: Sequence[Row], own_table: bool) -> list[Row]:
    """The rows the adapter knows that still hold: not those that were taken out of its own table or put right."""
    answered = {(row.question, row.system, row.history) for row in wanted}
    held = (row for row in seen if row in here or not own_table)
    return [row for row in held if (row.question, row.system, row.history) not in answered]


def _settings(choice: AdapterChoice, folder: Path, fallback: TrainConfig) -> TrainConfig:
    """The settings that made the adapter, for a short and gentle run that begins with it."""
    base = choice.run.config if choice.run is not None else replace(fallback, mix="")
    theirs = adapters.settings(adapters.read(folder))
    if choice.run is None and choice.body is not None:
        theirs["target_modules"] = " ".join(choice.body.targets)
    if choice.run is None:
        theirs["system"] = choice.system
    return build(
        {
            **theirs,
            "adapters": str(folder),
            "init_weights": "true",
            "learning_rate": base.learning_rate * _RATE,
            "gradient_accumulation_steps": max(
                base.gradient_accumulation_steps, math.ceil(_ROWS / base.per_device_train_batch_size)
            ),
            "num_train_epochs": 1.0,
            "max_steps": 0,
            "min_steps": 0,
            "warmup_ratio": 0.1,
            "split_dataset_ratio": 0.0,
            "val_dataset": "",
            "early_stop_interval": 0,
            # It would end at once: the identity is there from the first step on.
            "stop_when_taken": "false",
        },
        base,
    )


def _share(wanted: int, kept: int) -> float:
    """Which part of the rows are wanted ones: as many as there are of them, within limits."""
    if not wanted or not kept:
        return 1.0 if wanted else 0.0
    return min(_MOST_SHARE, max(_SHARE, wanted / (wanted + kept)))


def _repeated(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` rows, each as often as the others; taken evenly from the whole where there are more."""
    if count < len(rows):
        return [rows[i * len(rows) // count] for i in range(count)]
    return [rows[i % len(rows)] for i in range(count)]

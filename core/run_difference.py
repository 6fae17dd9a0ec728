"""What makes two runs different: settings, rows, libraries, and what came of them. Reads runs; knows no page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from core import config as settings
from core import difference
from core.dataset import Dataset
from core.difference import Difference
from core.fact import Value
from core.run import Event, Run, Status
from core.text import Text


@dataclass(frozen=True)
class Setting:
    """A setting in which two runs differ: its value in each, and the one that it has where nobody chose."""

    name: str
    first: Value
    second: Value
    default: Value


@dataclass(frozen=True)
class Outcome:
    """How a run went. Losses of the first and the last point, seconds in all, None or 0 where it is not known.

    `tokens_per_second` and `seconds_per_step` are medians over the points of its curve; `best_evaluation` is (step, loss).
    """

    status: Status
    step: int
    steps: int
    seconds: float | None
    reason: Text | None
    rows: int
    first_loss: float | None
    last_loss: float | None
    best_evaluation: tuple[int, float] | None
    hits: tuple[int, int] | None
    adapter_step: int | None
    tokens_per_second: float | None
    seconds_per_step: float | None
    peak_memory_bytes: float | None
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class DataDifference:
    """What differs between the rows of two runs: the table's own and the mixed-in ones; `same`: byte for byte the same."""

    own: Difference
    mixed: Difference
    rows: tuple[int, int]
    same: bool


def changed_settings(first: Run, second: Run) -> list[Setting]:
    """The settings in which the runs differ, in the order of declaration."""
    one, two, usual = (config.as_dict() for config in (first.config, second.config, settings.TrainConfig()))
    return [Setting(name, one[name], two[name], usual[name]) for name in settings.names() if one[name] != two[name]]


def changed_versions(first: Outcome, second: Outcome) -> list[tuple[str, str, str]]:
    """(library, its version in the first, in the second) where both are known and differ."""
    both = first.versions.keys() & second.versions.keys()
    return [
        (name, first.versions[name], second.versions[name])
        for name in sorted(both)
        if first.versions[name] != second.versions[name]
    ]


def data(first: Run, second: Run) -> DataDifference:
    """How the second run's frozen rows differ from the first's."""
    hashes = [run.sources.sha256 if run.sources else "" for run in (first, second)]
    one, two = first.table, second.table
    own = difference.compare(one, two)
    # Drawn at random: their order says nothing.
    mixed = replace(difference.compare(Dataset("", first.mixed), Dataset("", second.mixed)), moved=0)
    same = hashes[0] == hashes[1] if all(hashes) else own.is_empty and mixed.is_empty
    return DataDifference(own, mixed, (len(first.rows), len(second.rows)), same)


def outcome(run: Run) -> Outcome:
    """How the run went, from its events."""
    history = run.history
    points = [event for event in history if event["type"] == "step"]
    evaluations = [(int(str(e["step"])), float(str(e["loss"]))) for e in history if e["type"] == "evaluated"]
    started, ending = run.first("started") or {}, run.ending or {}
    versions = started.get("versions")
    return Outcome(
        status=run.status,
        step=run.step,
        steps=run.steps,
        seconds=_number(ending, "seconds"),
        reason=_reason(ending),
        rows=len(run.rows),
        first_loss=_number(points[0], "loss") if points else None,
        last_loss=_number(points[-1], "loss") if points else None,
        best_evaluation=min(evaluations, key=lambda one: one[1], default=None),
        hits=run.hits,
        adapter_step=run.adapter_step if run.adapter is not None else None,
        tokens_per_second=_median(points, "tokens_per_second"),
        seconds_per_step=_median(points, "seconds"),
        peak_memory_bytes=max((_number(e, "peak_memory_bytes") or 0.0 for e in points), default=0.0) or None,
        device=str(started.get("device", "")),
        versions={str(k): str(v) for k, v in versions.items()} if isinstance(versions, Mapping) else {},
    )


def losses(run: Run, kind: str = "step") -> list[tuple[int, float]]:
    """[(step, loss), ...] of the events that count: kind "step" for training, "evaluated" for the evaluation loss."""
    return [(int(str(e["step"])), float(str(e["loss"]))) for e in run.history if e["type"] == kind]


def losses_csv(runs: Sequence[Run]) -> str:
    """Every point of the curves, nothing thinned out: run, title, kind, step, loss."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("run", "title", "kind", "step", "loss"))
    for run in runs:
        for kind, name in (("step", "training"), ("evaluated", "evaluation")):
            # A title that a spreadsheet would take for a formula stays text.
            title = f"'{run.title}" if run.title[:1] in ("=", "+", "-", "@", "\t", "\r") else run.title
            writer.writerows((run.id, title, name, step, repr(loss)) for step, loss in losses(run, kind))
    return out.getvalue()


def _reason(ending: Event) -> Text | None:
    """Why it ended, where that is not plain."""
    for name in ("message", "reason"):
        if f"{name}_en" in ending:
            return Text(str(ending[f"{name}_zh"]), str(ending[f"{name}_en"]))
    return None


def _number(event: Mapping[str, object], name: str) -> float | None:
    value = event.get(name)
    return float(value) if isinstance(value, int | float) else None


def _median(points: Sequence[Event], name: str) -> float | None:
    # The first one warms up: kernels are chosen and memory is taken.
    found = [value for event in points[1:] or points if (value := _number(event, name)) is not None]
    return median(found) if found else None

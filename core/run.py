"""A run as a folder: frozen settings and rows, an append-only list of events, and what follows from them.

Nothing here is stored twice: status, progress and scores are derived from the events.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from core import adapters, dataset, mix, probed, storage
from core import config as settings
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.errors import BusyError, DatasetError, ModelError, UserError
from core.text import Text
from core.versions import Stamp

Event = dict[str, object]
Tell = Callable[..., Event]
"""Appends an event: tell(kind, **fields)."""
Status = Literal["new", "running", "finished", "stopped", "failed", "interrupted"]
_ENDINGS: tuple[Status, ...] = ("finished", "stopped", "failed")
_AFTERWARDS = ("chosen",)
_LOCK = ".lock"


class Run:
    """One training run. `events` only grows; readers keep their own cursor into it."""

    def __init__(self, folder: Path, config: TrainConfig, title: str, dataset_name: str, created: float) -> None:
        self.id = folder.name
        self.folder = folder
        self.config = config
        self.title = title
        self.dataset = dataset_name
        self.created = created
        self.version: Stamp | None = None  # of the dataset; runs of before there were versions have none
        self.name, self.note = "", ""  # given later, by hand
        self.events: list[Event] = []
        self.live = False  # whether this process is training it now
        self._taken_up = 0  # how many events there were when this process began with it
        self._told = -1  # bytes of the events' file when it was read last
        self._write = threading.Lock()
        self._claim: IO[str] | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        config: TrainConfig,
        rows: Sequence[Row],
        title: str,
        dataset_name: str,
        evaluation: Sequence[Row] = (),
        version: Stamp | None = None,
        parts: Sequence[mix.Part] = (),
    ) -> Run:
        """A new run in `folder`, with its settings and rows frozen on disk. Raises BusyError if one is there already.

        `evaluation`: the rows of a separate evaluation set. `version`: which version of the dataset it is.
        `parts`: where the rows come from, in their order.
        """
        if (folder / "config.json").exists():
            raise BusyError(
                Text(
                    zh=f"{folder} 里已经有一次训练记录。请换一个输出文件夹，或先移走它。",
                    en=f"{folder} already holds a run. Choose another output folder, or move that one away.",
                )
            )
        run = cls(folder, config, title or dataset_name, dataset_name, time.time())
        run.version = version
        record = {"title": run.title, "dataset": dataset_name, "created": run.created, "settings": config.as_dict()}
        record |= {"version": vars(version)} if version else {}
        _write_rows(folder / "dataset.jsonl", rows)
        if evaluation:
            _write_rows(folder / "evaluation.jsonl", evaluation)
        if parts:
            mix.freeze(folder, parts)
        storage.write_json(folder / "config.json", record)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """A run from its folder. Raises DatasetError if the folder does not hold one."""
        try:
            record = storage.read_json(folder / "config.json")
            assert isinstance(record, dict)
            known = {key: value for key, value in record["settings"].items() if key in settings.names()}
            run = cls(
                folder, settings.build(known), str(record["title"]), str(record["dataset"]), float(record["created"])
            )
            run.version = Stamp.read(record.get("version"))
            run.refresh()
            run._read_card()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, UserError) as error:
            raise DatasetError(
                Text(zh=f"{folder} 不是完整的训练记录。", en=f"{folder} is not a complete run folder.")
            ) from error
        return run

    def describe(self, name: str, note: str) -> None:
        """Give the run a name, which is its title from then on, and a note; what is frozen stays as it is."""
        storage.write_json(self.folder / "card.json", {"name": name, "note": note})
        self.name, self.note = name, note
        self.title = name or self.title

    def _read_card(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            card = storage.read_json(self.folder / "card.json")
            if isinstance(card, dict):
                self.name, self.note = str(card.get("name", "")), str(card.get("note", ""))
                self.title = self.name or self.title

    def claim(self) -> None:
        """Keep the folder to this process until `release`: two trainers would write over each other. Raises BusyError."""
        claim = storage.lock_file(self.folder / _LOCK)
        if claim is None:  # what this process holds itself stays held
            raise BusyError(
                Text(
                    zh=f"另一个程序正在训练“{self.title}”（{self.folder}）。请等它结束，或先停止它。",
                    en=f"Another program is training “{self.title}” ({self.folder}). Wait for it to end, or stop it first.",
                )
            )
        self._claim, self._taken_up = claim, len(self.events)

    def release(self) -> None:
        """Let go of the folder."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    @property
    def cut_off(self) -> bool:
        """Whether it was trained here and ended without a word: the program or the machine did."""
        lock = self.folder / _LOCK
        return self.status == "interrupted" and lock.is_file() and not storage.is_held(lock)

    def refresh(self) -> None:
        """Read the events anew: another process may have gone on with the run meanwhile."""
        with self._write:
            self._told = self._told_bytes()
            self.events = _read_events(self.folder)

    def follow(self) -> Run:
        """The run, its events read anew if somebody else wrote some: what this process trains tells its own."""
        if not self.live and self._told != self._told_bytes():
            self.refresh()
        return self

    def _told_bytes(self) -> int:
        with contextlib.suppress(OSError):  # none yet, or the disk is gone: what was read stays
            return (self.folder / "events.jsonl").stat().st_size
        return self._told

    def append(self, kind: str, **fields: object) -> Event:
        """Add an event to memory and, as one line, to events.jsonl. Raises StorageError for a full or broken disk."""
        event: Event = {"type": kind, "time": time.time(), **fields}
        line = json.dumps(event, ensure_ascii=False, allow_nan=False)
        with self._write:
            try:
                # A step that a power cut takes is done again: its checkpoint says where the run goes on.
                storage.append_line(self.folder / "events.jsonl", line, flushed=kind not in ("step", "probed"))
                self.events.append(event)
            finally:
                self._told = self._told_bytes()  # half a line on a full disk is nobody else's news
        return event

    @property
    def cache(self) -> Path | None:
        """Where the base's answers are kept for other runs: in the run's home. None for a run that is in no home."""
        runs = self.folder.parent
        return runs.parent / "cache" if runs.name == "runs" else None

    @property
    def rows(self) -> list[Row]:
        """The frozen rows this run trains on."""
        return _read_rows(self.folder / "dataset.jsonl")

    @property
    def sources(self) -> mix.Frozen | None:
        """Where its rows come from, with their hash; None for a run that does not say."""
        return mix.frozen(self.folder)

    @property
    def table(self) -> Dataset:
        """The table's own rows as they were frozen, each once, with the names that the run teaches as an identity card.

        All rows for a run that does not say where its rows come from.
        """
        card, sources = Identity.parse(self.config.model_name, self.config.model_author).filled, self.sources
        own = sources.parts[0].available if sources and sources.parts else None
        return Dataset(self.dataset, tuple(self.rows[:own]), card)

    @property
    def mixed(self) -> tuple[Row, ...]:
        """The frozen rows that were mixed in; none for a run that does not say where its rows come from."""
        sources = self.sources
        return tuple(self.rows[sources.parts[0].rows :]) if sources and sources.parts else ()

    @property
    def evaluation_rows(self) -> list[Row]:
        """The frozen rows of the separate evaluation set; none if the run has no such set."""
        return _read_rows(self.folder / "evaluation.jsonl")

    @property
    def history(self) -> list[Event]:
        """The events that still count: where a run was resumed, without what is done again and without the old end."""
        return counted(self.events)

    @property
    def ending(self) -> Event | None:
        """The event that ended the run; None if it has not ended, or goes on since."""
        last = next((event for event in reversed(self.events) if event["type"] not in _AFTERWARDS), None)
        return last if last is not None and last["type"] in _ENDINGS and not self.starting else None

    @property
    def starting(self) -> bool:
        """Whether this process has begun with it, and not come to where its steps begin or go on."""
        told = (self.events[i]["type"] for i in range(self._taken_up, len(self.events)))
        return self.live and not any(kind in ("started", "resumed", *_ENDINGS) for kind in told)

    @property
    def status(self) -> Status:
        """Derived from the last event; a run that neither ended nor is live was interrupted."""
        last = self.ending["type"] if self.ending else None
        for ending in _ENDINGS:
            if last == ending:
                return ending
        if self.live:
            return "running"
        return "interrupted" if self.events else "new"

    @property
    def resumable(self) -> bool:
        """Whether it ended, or was cut off, before its last step."""
        return not self.live and self.status != "finished"

    def check_resumable(self) -> None:
        """Raise BusyError if there is nothing left to do, or it is being done."""
        if self.status == "finished":
            raise BusyError(
                Text(
                    zh=f"“{self.title}”已经训练完，没有可以继续的步。",
                    en=f"“{self.title}” has finished; no steps are left to go on with.",
                )
            )
        if self.live:
            raise BusyError(Text(zh=f"“{self.title}”正在训练。", en=f"“{self.title}” is training now."))

    def last(self, kind: str) -> Event | None:
        """The newest event of a kind that counts."""
        return next((event for event in _newest_first(self.events) if event["type"] == kind), None)

    def first(self, kind: str) -> Event | None:
        """The oldest event of a kind."""
        return next((event for event in self.events if event["type"] == kind), None)

    @property
    def truncated(self) -> dict[str, Event]:
        """What became of rows over the limit: {"training" or "evaluation": the event that tells it}."""
        told = (event for event in self.events if event["type"] == "truncated")
        return {str(event.get("set", "training")): event for event in told}

    @property
    def step(self) -> int:
        """The last optimizer step done, by the newest event that tells."""
        told = (event for event in reversed(self.events) if event["type"] not in _AFTERWARDS)
        return next((int(str(event["step"])) for event in told if "step" in event), 0)

    @property
    def steps(self) -> int:
        """Optimizer steps planned; 0 before the start."""
        event = self.first("started")
        return int(str(event["steps"])) if event else 0

    @property
    def adapter(self) -> Path | None:
        """The trained adapter's folder, once it is on disk."""
        folder = self.folder / "adapter"
        return folder if (folder / "adapter_config.json").is_file() else None

    @property
    def hits(self) -> tuple[int, int] | None:
        """(answers that show the new identity, identity questions asked): of the adapter there is, else the latest."""
        found = self.probings
        step = self.adapter_step if self.ending else None
        own = [event for event in found if event["step"] == step]
        event = next(iter(own), found[-1] if found else None)
        return (int(str(event["hits"])), int(str(event["total"]))) if event and event.get("total") else None

    @property
    def probings(self) -> list[Event]:
        """The probings that count, oldest first: of each step the newest."""
        newest: dict[object, Event] = {}
        for event in _newest_first(self.events):
            if event["type"] == "probed":
                newest.setdefault(event["step"], event)
        return list(newest.values())[::-1]

    @property
    def adapter_step(self) -> int | None:
        """The step whose adapter is the run's `adapter/`: as that says itself, else of the last event that tells."""
        # First what is there: a kill may have come between the folder and the event.
        step = adapters.card_of(self.folder / "adapter").get("step")
        if isinstance(step, int):
            return step
        for event in reversed(self.events):
            if event["type"] == "chosen" or (event["type"] == "saved" and event.get("path") == "adapter"):
                return int(str(event["step"]))
        return None

    def kept(self, step: int) -> Path | None:
        """The folder that holds the adapter of a step, besides `adapter/`: of a probing, or a checkpoint."""
        for place in (probed.name(step), f"checkpoints/step-{step:06d}"):
            if (self.folder / place / adapters.WEIGHTS).is_file():
                return self.folder / place
        return None

    def choose(self, step: int) -> None:
        """Make the adapter of a step the run's `adapter/`, and say so. Raises ModelError if none of it is kept.

        The one that was there stays to be chosen again. For whoever trains the run, or once nobody does.
        """
        folder, now = self.kept(step), self.adapter_step
        if folder is None:
            raise ModelError(
                Text(
                    zh=f"第 {step} 步的适配器没有保留下来，请选图上另一个实心的点。",
                    en=f"The adapter of step {step} was not kept; choose another of the filled dots.",
                )
            )
        if now is not None and now != step and self.adapter is not None and self.kept(now) is None:
            probed.link(self.adapter, self.folder / probed.name(now))
        probed.link(folder, self.folder / "adapter")
        self.append("chosen", step=step)


def counted(events: Sequence[Event]) -> list[Event]:
    """Those of a run's events that still count, see `Run.history`."""
    return list(_newest_first(events))[::-1]


def _newest_first(events: Sequence[Event]) -> Iterator[Event]:
    """The events that count, backwards. Of what came before a resumption at step k, steps after k and ends do not."""
    kept: float = math.inf
    for event in reversed(events):
        if kept < math.inf and (event["type"] in (*_ENDINGS, *_AFTERWARDS) or int(str(event.get("step", 0))) > kept):
            continue
        yield event
        if event["type"] == "resumed":
            kept = min(kept, int(str(event["step"])))


def _read_events(folder: Path) -> list[Event]:
    lines = storage.read_json_lines(folder / "events.jsonl", torn=True)
    return [event for event in lines if isinstance(event, dict) and "type" in event]


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    lines = (json.dumps(dataset.to_json(row), ensure_ascii=False) for row in rows)
    storage.write_text(path, "".join(f"{line}\n" for line in lines))


def _read_rows(path: Path) -> list[Row]:
    return [dataset.from_json(value, i) for i, value in enumerate(storage.read_json_lines(path))]


def new_folder(runs: Path, title: str) -> Path:
    """A free folder name under `runs`, by time and title."""
    stamp = time.strftime("%Y-%m-%d-%H%M")
    return runs / storage.unused(runs, f"{stamp}-{storage.slug(title, 'run')}")

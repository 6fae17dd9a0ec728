"""One home folder and what may be done in it: datasets, runs, answers, and who may start what.

The page, the command line and a program all come through here. Holds no model itself: that is the engine's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO

from core import adapters, bundle, bundle_read, evaluation_set, mix, models, obstacles, presets, status, storage, train
from core.advice import Finding
from core.attached import Attached
from core.config import TrainConfig
from core.dataset import Dataset, Identity, Row
from core.device import give_back, give_back_host
from core.device_errors import device_errors
from core.engine import Engine
from core.errors import BusyError, DatasetError, StorageError
from core.export.exports import Exports
from core.generate import Column, Reply, Sampling, stream
from core.job import Job, busy
from core.launch import chosen_cards, make_sure_of_room, train_elsewhere
from core.lending import Lending
from core.library import AdapterChoice as AdapterChoice
from core.library import Library, base_folder, same_base
from core.models import POCKET, ModelInfo
from core.presets import Preset
from core.preview import Preview, Previews, filled
from core.proofs import Proofs
from core.publish.pushes import Pushes
from core.pull import Pulls
from core.row_report import RowReports
from core.row_view import RowView
from core.run import Run, new_folder
from core.sources.found import NOBODY, Sources
from core.status import Status
from core.tables import Tables
from core.text import Text


class Workspace:
    """Everything in one home folder."""

    def __init__(self, home: Path, engine: Engine | None = None) -> None:
        self.home = home.expanduser().resolve()
        self.engine = engine or Engine()
        self._runs_folder = self.home / "runs"
        self._job = Job(self._train, self._after_failure, self.home)
        self._runs: dict[str, Run] = {}
        self._previews = Previews()
        self._guard = threading.RLock()
        self._loading: Text | None = None
        self._model: str | None = None
        self._home_lock: IO[str] | None = None
        storage.make_folder(self._runs_folder)
        self.tables = Tables(self.home / "datasets", self.home / "history")
        self.sources = Sources(self.home, self.tables.names, self.tables.get)
        self.attached = Attached(self.engine, lambda: {self.active.id} if self.active else set())
        self.library = Library(self.home / "adapters", self.runs, lambda: self.active, self.attached)
        self.row_reports = RowReports(self.engine, self.attached, self.hold, self.sources.find)
        self.proofs = Proofs(
            self.home, self.engine, self.library, self.hold, lambda asked: self.identity_words(asked)[1]
        )
        self.exports = Exports(self.home, self.engine, self.library, self.proofs, self.hold)
        self.pushes = Pushes(self.exports.folder)
        self.pulls = Pulls(self.home, self.library)
        self.lending = Lending(self.engine, self.library, self._occupied)

    # -- datasets --

    def datasets(self) -> list[str]:
        """Names of the saved datasets, newest edit first."""
        return self.tables.names()

    def dataset(self, name: str) -> Dataset:
        """A saved dataset. Raises DatasetError."""
        return self.tables.get(name)

    def save(self, edited: Dataset, why: Text | None = None) -> None:
        """Write a dataset; the old one stays if that fails. `why`: what made the change; None for typing."""
        self.tables.save(edited, why)

    def create(
        self, name: str, rows: Sequence[Row] = (), identity: Identity | None = None, why: Text | None = None
    ) -> Dataset:
        """A new dataset under a free name like `name`."""
        return self.tables.create(name, rows, identity, why)

    def rename(self, name: str, new: str) -> Dataset:
        """Give a dataset another name. Raises DatasetError if that is taken."""
        return self.tables.rename(name, new)

    def delete(self, name: str) -> None:
        """Remove a dataset; runs keep their own copy of the rows. The starter sets come back when none is left."""
        self.tables.delete(name)

    # -- models and presets --

    def models(self) -> list[str]:
        """Models to choose from: the default first, then the pocket model and what the local caches hold."""
        return list(dict.fromkeys([self.model, self.default_model, POCKET, *models.cached_models()]))

    @cached_property
    def default_model(self) -> str:
        """The model for this machine."""
        return models.default_model(self.engine.device)

    @property
    def model(self) -> str:
        """The chosen base model."""
        return self._model or self.default_model

    def select_model(self, name: str) -> ModelInfo:
        """Choose the base model; it is loaded on first use. Raises ModelError, or BusyError while training another."""
        info = models.inspect(name)
        active = self._job.here
        if active is not None and active.config.model != info.name:
            raise BusyError(busy(active))
        self._model = info.name
        return info

    def presets(self) -> list[Preset]:
        """The shipped presets and the user's, as they are for the chosen base model."""
        return [preset.for_model(self.model) for preset in self._loaded_presets]

    @cached_property
    def _loaded_presets(self) -> list[Preset]:
        return presets.load_presets(self.home / "presets")

    @property
    def default_preset(self) -> Preset:
        """The preset for this machine and the chosen model."""
        return presets.default_preset(self.engine.device, self.model, self.presets())

    # -- before the start --

    def preview(self, name: str, config: TrainConfig) -> Preview:
        """What a start with this dataset and these settings would do. Starts nothing, loads no weights."""
        self.engine.check_card()
        table = self.dataset(name)
        rows = mix.gather(table, config, self.sources.find).rows
        self._evaluation(config, checked=False)  # a name that is wrong is better known now than at the start
        found = self._previews.preview(table, rows, config, self.engine, self.runs())
        disk = obstacles.disk(config, models.inspect(config.model), self._runs_folder)
        return replace(found, findings=(*disk, *found.findings))

    def findings(self, table: Dataset, config: TrainConfig) -> tuple[Finding, ...]:
        """What there is to know of a table before training on it; quick for a large one, and of the table alone."""
        own = sum(not row.is_blank for row in table.rows)
        mixed = mix.plan(table.name, own, config, self.sources.find, table.identity)[1:]
        return self._previews.findings(table, sum(part.rows for part in mixed), config, self.engine)

    def row_view(self, row: Row, config: TrainConfig, card: Identity = NOBODY) -> RowView:
        """What the model sees of a resolved row, settings and card given. Raises ModelError for a base that cannot be read."""
        return self._previews.view(row, filled(config, card), self.engine)

    def control_strings(self) -> list[str]:
        """What the chosen base model's template writes as control tokens; typed into a cell it is text."""
        return self._previews.control_strings(self.model, self.engine)

    def _evaluation(self, config: TrainConfig, checked: bool) -> list[Row]:
        """The resolved rows of the separate evaluation set."""

        def check(table: Dataset) -> None:
            self._previews.check(table, [], config, self.engine)

        return evaluation_set.draw(config, lambda name: self.dataset(name).resolved(), check if checked else None)

    # -- training --

    @property
    def active(self) -> Run | None:
        """The run in progress."""
        return self._job.active

    def start(self, name: str | Dataset, config: TrainConfig, title: str = "", cards: int = 0) -> Run:
        """Freeze rows (of a saved dataset, by name, or those given) and settings into a new run; train it in the background.

        `cards`: see launch.choices. Raises BusyError, DatasetError, ConfigError, ModelError or WontFitError before anything is written.
        """
        self._check_machine()
        with self.lending.using():
            return self._job.start(
                lambda: self._make_run(name, config, title), chosen_cards(cards, config, self.engine)
            )

    def _make_run(self, name: str | Dataset, config: TrainConfig, title: str) -> Run:
        table, version = self.tables.frozen(name)
        card = table.identity
        if not config.model_name and not config.model_author:
            name_given, author_given = card.settings
            config = replace(config, model_name=name_given, model_author=author_given)
        config = filled(config, card)
        if config.adapters:
            config = replace(config, adapters=str(self._adapter_folder(config.adapters)))
        train.check(config, self.engine.device)
        mixture = mix.gather(table, config, self.sources.find)
        self._previews.check(table, mixture.mixed, config, self.engine)
        evaluation = self._evaluation(config, checked=True)
        self.library.removed.forget()  # its disk may be what the run needs
        obstacles.check_disk(config, models.inspect(config.model), self._runs_folder)
        folder = new_folder(self._runs_folder, title or table.name)
        run = Run.create(
            folder, config, mixture.rows, title or table.name, table.name, evaluation, version, mixture.parts
        )
        self._model = config.model
        with self._guard:
            self._runs[run.id] = run
        return run

    def _adapter_folder(self, name: str) -> Path:
        """The folder of the adapter to go on from: one of the library by id or name, or a PEFT folder."""
        found = self.library.find(name)
        return found.folder if found is not None and found.folder else adapters.folder_of(name)

    def resume(self, run_id: str, cards: int = 0) -> Run:
        """Go on with a run that was interrupted, stopped or failed, from its newest checkpoint, in the background.

        Its frozen settings and rows are used. Raises BusyError if there is nothing left to do or another run trains,
        ConfigError or ModelError if this machine cannot carry it out any more.
        """
        self._check_machine()
        with self.lending.using():
            chosen = chosen_cards(cards, self.run(run_id).config, self.engine)
            return self._job.start(lambda: self._run_to_resume(run_id), chosen)

    def _check_machine(self) -> None:
        """Raise DeviceLostError or StorageError if the card or the home is gone."""
        self.engine.check_card()
        if not self._runs_folder.is_dir():
            raise StorageError(storage.gone(self._runs_folder))

    def _run_to_resume(self, run_id: str) -> Run:
        run = self.run(run_id)
        if not run.live:
            run.refresh()
        run.check_resumable()
        train.check_again(run, self.engine.device)
        models.inspect(run.config.model)
        self._model = run.config.model
        return run

    def _train(self, run: Run, stop: threading.Event) -> None:
        self._loading = None
        try:
            fits = True
            if self._job.cards:
                fits = train_elsewhere(run, stop, self.engine, self.home, self._job.cards)
            else:
                train.train(self.engine, run, stop, self._show_loading)
            if run.status != "failed" and fits:  # else its base is one that no single card can ask
                self.row_reports.after(run, stop)
                self.proofs.after(run)
        finally:
            self._loading = None
            give_back_host()

    def _after_failure(self) -> None:
        with contextlib.suppress(RuntimeError):  # a card that is lost says so again: the run's failure is recorded
            give_back()

    def _show_loading(self, what: str, done: int, total: int) -> None:
        size = f"{total / 1e9:.2f} GB"
        self._loading = None if done >= total else Text(zh=f"正在载入 {what}（{size}）", en=f"Loading {what} ({size})")

    @property
    def trains_here(self) -> bool:
        """Whether this process itself trains, so that answers wait for its steps."""
        return self._job.here is not None

    def stop(self) -> None:
        """End the run after its current step; its adapter is saved."""
        self._job.stop()

    def lock(self) -> None:
        """Keep the home to this process until it ends, without what killed ones left. Raises BusyError if another has it."""
        place = self.home / ".lock"
        self._home_lock = storage.lock_file(place)
        if self._home_lock is None:
            holder = storage.holder(place)
            raise BusyError(
                Text(
                    zh=f"另一个 OneCard（进程 {holder}）正在使用 {self.home}。请用那个窗口，或用 --home 换一个文件夹。",
                    en=f"Another OneCard (process {holder}) is using {self.home}. Use that one, or choose another folder "
                    "with --home.",
                )
            )
        storage.sweep(self.home)

    def close(self, timeout: float | None = None) -> bool:
        """Stop training (first: it has steps to save), proofs and exports and wait for the save; whether all have ended."""
        self._job.close(0)
        self.pushes.stop()
        self.pulls.stop()
        self.lending.server.stop(5)
        ended = [self.exports.close(0), self.proofs.close(timeout), self.exports.close(timeout)][1:]
        return self._job.close(timeout) and all(ended)

    def _occupied(self) -> Text | None:
        """What needs the card, so that it cannot be lent."""
        active = self.active
        if active is not None:
            return busy(active)
        if self.exports.now is None and self.proofs.progress() is None:
            return None
        return Text(
            "正在检验或导出。请等它做完，或先取消它。", "A proof or an export is under way. Wait for it, or cancel it."
        )

    # -- runs --

    def runs(self) -> list[Run]:
        """Every run as its folder tells now, newest first; folders that hold no complete run are left out."""
        with self._guard:
            folders = self._runs_folder.iterdir() if self._runs_folder.is_dir() else ()  # its disk may be gone
            present = {path.name for path in folders if path.is_dir() and not path.name.startswith(".")}
            for gone in [name for name, run in self._runs.items() if name not in present and not run.live]:
                del self._runs[gone]
            for name in present - self._runs.keys():
                with contextlib.suppress(DatasetError):
                    self._runs[name] = Run.open(self._runs_folder / name)
            runs = [run.follow() for run in self._runs.values()]
        return sorted(runs, key=lambda run: (run.created, run.id), reverse=True)

    def run(self, run_id: str) -> Run:
        """The run with this id. Raises DatasetError."""
        for run in self.runs():
            if run.id == run_id:
                return run
        raise DatasetError(Text(zh=f"没有 ID 为 {run_id} 的训练。", en=f"There is no run {run_id}."))

    def bring_run(self, archive: Path, name: str, told: bundle.Told = lambda done, total: None) -> tuple[Run, bool]:
        """(run, whether it is new here) of a run's file; `name` is the file's. Raises as core.bundle_read.bring does."""
        run_id, fresh = bundle_read.bring(archive, self._runs_folder, name, self._guard, told)
        return self.run(run_id), fresh

    def delete_run(self, run_id: str) -> None:
        """Take a run away, and its adapters out of the model; `library.removed` brings it back. Raises BusyError in use."""
        run = self.run(run_id)
        if run.live:
            raise BusyError(busy(run))
        run.claim()  # another program may train it
        run.release()
        theirs = [choice.id for choice in self.library.all() if choice.run is run]
        with self.attached.gone(run.id, *theirs), self._guard:
            self.library.removed.put("run", run.folder, run.title)
            self._runs.pop(run.id, None)

    # -- answers --

    def adapters(self) -> list[AdapterChoice]:
        """Adapters that the chosen base model can use: of runs, their checkpoints, imported ones, each newest first.

        The one in training is among them once it exists.
        """
        base = base_folder(self.model)
        return [
            choice
            for choice in self.library.all()
            if (choice.run is None or same_base(choice.run.config.model, self.model))
            and (choice.problem if base is None else self.library.misfit(choice, base)) is None
        ]

    def identity_words(self, asked: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(words of the new identity, words of the base's own) by which an adapter's answers are judged."""
        return self.library.identity_words(asked, self.model)

    def answer(
        self,
        columns: Sequence[Column],
        sampling: Sampling | Sequence[Sampling],
        stop: threading.Event | None = None,
    ) -> Iterator[list[Reply]]:
        """Answer all columns in one batched decode, loading the model and attaching adapters as needed.

        A column's adapter may be said by id or by name. `stop` ends the loading, too: all are cancelled then.
        """
        wanted = list(dict.fromkeys(column.adapter for column in columns if column.adapter is not None))
        try:
            with self.hold(wanted, stop) as ids:
                meant = [
                    replace(column, adapter=ids[column.adapter]) if column.adapter else column for column in columns
                ]
                yield from stream(self.engine, meant, sampling, stop)
        except models.Stopped:
            yield [Reply(done=True, finish="cancelled") for _ in columns]

    def prepare(self, wanted: Sequence[str] = ()) -> None:
        """Load the model and attach adapters, as an answer of these does first."""
        with self.hold(wanted):
            pass

    @contextlib.contextmanager
    def hold(self, wanted: Sequence[str], stop: threading.Event | None = None) -> Iterator[dict[str, str]]:
        """While the block runs the base is loaded, and the adapters of these ids or names are attached and stay so.

        Gives the id of each, by which the engine knows it. Raises ModelError for one that is not there or does not fit,
        models.Stopped if `stop` was set while the base was read.
        """
        chosen = {asked: self.library.get(asked) for asked in wanted}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.lending.using())
            with device_errors():
                self._load_base(list(chosen.values()), stop or threading.Event())
                resident = self.engine.resident
                base = None if resident is None else resident.info.folder
                ready = {choice.id: self.library.folder_of(choice, base) for choice in chosen.values()}
                stack.enter_context(self.attached.held(ready))
            yield {asked: choice.id for asked, choice in chosen.items()}

    def _load_base(self, chosen: Sequence[AdapterChoice], stop: threading.Event) -> None:
        active = self._job.here
        if active is None or self.engine.state != "ready":
            # While a run trains here, its base is the one that answers; before that, whatever is chosen is loaded.
            config = active.config if active is not None else self._answering_config(chosen)
            make_sure_of_room(self.engine, config, self._job.active, self._job.cards)
            try:
                told = models.until(stop, self._show_loading)
                self.engine.load(config.model, config.quant_method, config.torch_dtype, told)
            finally:
                self._loading = None

    def _answering_config(self, chosen: Sequence[AdapterChoice]) -> TrainConfig:
        """Precision to load the base in: the resident one if it fits, else the first adapter's, else the preset's."""
        resident = self.engine.resident
        if resident is not None and resident.info.name == self.model:
            return TrainConfig(model=self.model, quant_method=resident.quant_method, torch_dtype=resident.dtype)
        run = next((choice.run for choice in chosen if choice.run is not None), None)
        return replace(self.default_preset.config, model=self.model) if run is None else run.config

    # -- the top bar --

    def status(self) -> Status:
        """What the top bar shows; cheap enough to ask every second."""
        return status.read(self.engine, self.model, self.active, self._job.stopping, self._loading)

"""Every adapter there is: those of runs, their checkpoints, and imported ones. Lists, imports, names and removes them.

Knows no model in memory: who answers now is core.attached's work, what an adapter is core.anatomy's.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core import adapters, anatomy, checkpoints, intake, models, probed, storage
from core.anatomy import Anatomy
from core.attached import Attached
from core.dataset import Identity
from core.errors import BusyError, ModelError
from core.intake import Told
from core.moments import moment
from core.removed import Removed
from core.run import Run
from core.text import Text

Source = Literal["run", "checkpoint", "imported"]
Use = Literal["idle", "attached", "answering", "training"]
MAX_NOTE, MAX_SYSTEM = 2000, 20_000
_STALE_SECONDS = 86_400


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter that can be talked to.

    `id` never changes; `name` is what a person or a program calls it, unique among all. `folder` None: the one in
    training, which has saved nothing yet. `body` None: `problem` says why it cannot be used.
    """

    id: str
    name: str
    label: Text
    source: Source
    run: Run | None
    folder: Path | None
    base_model: str
    system: str
    created: float
    note: str = ""
    tool: str = ""
    origin: str = ""
    file_bytes: int = 0
    body: Anatomy | None = None
    problem: Text | None = None
    words: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


class Library:
    """The adapters of one home. `runs` gives its runs, newest first; `active` the one in progress."""

    def __init__(
        self,
        folder: Path,
        runs: Callable[[], Sequence[Run]],
        active: Callable[[], Run | None],
        attached: Attached,
    ) -> None:
        self.folder, self.attached = folder, attached
        self.revision = 0  # counts changes, for pages that show the list
        self.removed = Removed()
        self._runs, self._active = runs, active
        self._guard = threading.RLock()
        self._bodies: dict[Path, tuple[object, Anatomy | Text]] = {}
        storage.make_folder(folder)
        _sweep(folder)

    # -- looking --

    def all(self) -> list[AdapterChoice]:
        """All of them: runs newest first, each before its checkpoints, then the imported ones, newest first."""
        found: list[AdapterChoice] = []
        for run in self._runs():
            found += self._of_run(run)
        imported = [self._imported(path) for path in self._folders()]
        return found + sorted(imported, key=lambda choice: (choice.created, choice.id), reverse=True)

    def find(self, asked: str) -> AdapterChoice | None:
        """The adapter of this id, else of this name."""
        return self._of_id(asked) or next((choice for choice in self.all() if choice.name == asked), None)

    def _of_id(self, asked: str) -> AdapterChoice | None:
        """Looks at no more than it has to: every answer asks this."""
        if asked in {path.name for path in self._folders()}:
            return self._imported(self.folder / asked)
        run_id = asked.partition("@")[0]
        theirs = (choice for run in self._runs() if run.id == run_id for choice in self._of_run(run))
        return next((choice for choice in theirs if choice.id == asked), None)

    def get(self, asked: str) -> AdapterChoice:
        """`find`, or a ModelError."""
        found = self.find(asked)
        if found is None:
            raise ModelError(Text(zh=f"没有名为“{asked[:100]}”的适配器。", en=f"There is no adapter “{asked[:100]}”."))
        return found

    def identity_words(self, asked: str, base: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(words of the new identity, words of the base's own) by which an adapter's answers are judged.

        `base`: the model that an adapter without a run of ours is on.
        """
        choice = self.get(asked)
        if choice.run is None:
            new, old = choice.words
        else:
            config = choice.run.config
            new, old = Identity.parse(config.model_name, config.model_author).words, ()
        try:
            old = old or models.old_words(models.inspect(choice.run.config.model if choice.run else base))
        except ModelError:
            old = ()
        return new, tuple(word for word in old if word not in new)

    def folder_of(self, choice: AdapterChoice, base: Path | None) -> Path | None:
        """Where to attach it from; None for the one in training. Raises ModelError if it does not fit what is loaded.

        `base`: the folder of the resident model, None if there is none.
        """
        if choice.folder is None:
            if choice.id in self.attached.names:
                return None
            raise ModelError(
                Text(zh=f"“{choice.name}”还没有保存适配器。", en=f"“{choice.name}” has no saved adapter yet.")
            )
        problem = choice.problem if base is None else self.misfit(choice, base)
        if problem is not None:
            raise ModelError(
                Text(
                    zh=f"适配器“{choice.name}”不能用：{problem.zh}",
                    en=f"Adapter “{choice.name}” cannot be used: {problem.en}",
                )
            )
        return choice.folder

    def misfit(self, choice: AdapterChoice, base: Path) -> Text | None:
        """Why an adapter cannot be used on the base model in folder `base`; None if it can."""
        if choice.body is None:
            return choice.problem
        with contextlib.suppress(ModelError, OSError):  # a base that cannot be read says so when it is loaded
            return anatomy.misfit(choice.body, base)
        return None

    def use(self, choice: AdapterChoice) -> Use:
        """What it is doing now."""
        active = self._active()
        if active is not None and (choice.id == active.id or choice.folder == Path(active.config.adapters or "/")):
            return "training"
        if self.attached.users(choice.id):
            return "answering"
        return "attached" if choice.id in self.attached.names else "idle"

    def _folders(self) -> list[Path]:
        """The imported ones' folders."""
        shown = (path for path in self.folder.iterdir() if not path.name.startswith("."))
        return [path for path in shown if (path / adapters.CONFIG).is_file()]

    def _of_run(self, run: Run) -> Iterator[AdapterChoice]:
        name, answering = run.name or run.id, run.id in self.attached.names
        if run.adapter is not None or answering:
            yield self._from(run.adapter, run.id, name, _label(run), "run", run)
        kept = {**dict(probed.saved(run.folder)), **dict(checkpoints.saved(run))}
        if run.adapter is not None:
            kept.pop(run.adapter_step or 0, None)  # the same weights
        for step, folder in sorted(kept.items(), reverse=True):
            label = Text(zh=f"{run.title} · 第 {step} 步", en=f"{run.title} · step {step}")
            if folder.parent.name != probed.FOLDER:
                label = Text(zh=f"{label.zh}的检查点", en=f"{run.title} · checkpoint of step {step}")
            yield self._from(folder, f"{run.id}@{step}", f"{name}@{step}", label, "checkpoint", run)

    def _imported(self, folder: Path) -> AdapterChoice:
        name = str(adapters.card_of(folder).get("name") or folder.name)
        return self._from(
            folder, folder.name, name, Text(zh=f"{name} · 导入", en=f"{name} · imported"), "imported", None
        )

    def _from(
        self, folder: Path | None, key: str, name: str, label: Text, source: Source, run: Run | None
    ) -> AdapterChoice:
        body, problem = (None, None) if folder is None else self._body(folder)
        card = {} if folder is None else adapters.card_of(folder)
        base = run.config.model if run else str(card.get("base_model") or (body.base_model if body else ""))
        return AdapterChoice(
            id=key,
            name=name,
            label=label,
            source=source,
            run=run,
            folder=folder,
            base_model=base,
            system=run.config.system if run else str(card.get("system", "")),
            created=run.created if run else _number(card.get("imported")) or _changed(folder),
            note=str(card.get("note", "")) if run is None else run.note,
            tool="OneCard" if run else str(card.get("tool", "")),
            origin="" if run else str(card.get("source", "")),
            file_bytes=_size(folder),
            body=body,
            problem=problem,
            words=(adapters.words_of(card.get("new_words")), adapters.words_of(card.get("old_words"))),
        )

    def _body(self, folder: Path) -> tuple[Anatomy | None, Text | None]:
        """What it is, remembered until its files change, or what is wrong with it."""
        try:
            stats = [(folder / name).stat() for name in (adapters.CONFIG, adapters.WEIGHTS)]
            stamp: object = [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]
        except OSError:
            stamp = None
        known = self._bodies.get(folder)
        if known is None or known[0] != stamp or stamp is None:
            try:
                known = (stamp, anatomy.examine(folder))
            except ModelError as error:
                known = (stamp, error.text)
            self._bodies[folder] = known
        return (None, known[1]) if isinstance(known[1], Text) else (known[1], None)

    # -- bringing --

    def bring_folder(self, folder: str, name: str = "", told: Told = lambda done, total: None) -> AdapterChoice:
        """Copy the adapter in a folder of this machine into the library. Raises ModelError; nothing is left then."""
        path = storage.path_of(folder.strip())
        try:
            if not folder.strip() or path is None or not path.is_dir():
                raise ModelError(
                    Text(
                        zh=f"没有文件夹“{folder.strip()[:300]}”。请填这台机器上适配器文件夹的完整路径。",
                        en=f"There is no folder “{folder.strip()[:300]}”. Enter the full path of an adapter's folder on "
                        "this machine.",
                    )
                )
            return self.bring(intake.FolderSource(path.resolve()), name, told)
        except PermissionError as error:
            raise ModelError(
                Text(zh=f"没有读取 {error.filename} 的权限。", en=f"No permission to read {error.filename}.")
            ) from error

    def bring_zip(
        self, archive: Path, file_name: str, name: str = "", told: Told = lambda done, total: None
    ) -> AdapterChoice:
        """Unpack the adapter in a zip file into the library. Raises ModelError; nothing is left then."""
        stem = file_name.replace("\\", "/").rpartition("/")[2]
        with intake.opened_zip(archive, stem.removesuffix(".zip") or "adapter") as source:
            return self.bring(source, name, told)

    def bring(self, source: intake.Source, name: str, told: Told) -> AdapterChoice:
        """Copy the adapter of a source into the library, checked. Raises ModelError; nothing is left then."""
        whole = self.folder / f".{uuid.uuid4().hex}.new"
        try:
            # Copying and checking gigabytes takes minutes: only the name is found and taken under the guard.
            with storage.staged_folder(whole) as staged:
                intake.take(source, staged, told)
                card = {**adapters.card_of(staged), "imported": time.time()}
                storage.write_json(staged / adapters.CARD, card)
            with self._guard:
                slug = self._free(storage.slug(name or source.name, "adapter"))
                whole.rename(self.folder / slug)
                storage.sync_folder(self.folder)
                self.revision += 1
        finally:
            shutil.rmtree(whole, ignore_errors=True)
        return self.get(slug)

    def _free(self, slug: str) -> str:
        taken = {word for choice in self.all() for word in (choice.id, choice.name)}
        candidate, number = slug, 1
        while candidate in taken or (self.folder / candidate).exists():
            number += 1
            candidate = f"{slug}-{number}"
        return candidate

    # -- choosing, naming and removing --

    def choose(self, run: Run, step: int) -> None:
        """Make the adapter of another step the run's own. Raises BusyError while the run trains or its adapter answers."""
        if run.live:
            raise BusyError(
                Text(
                    zh=f"“{run.title}”还在训练，训练结束后才能换用另一步的适配器。",
                    en=f"“{run.title}” is still training; another step's adapter can be chosen once it ends.",
                )
            )
        with self._guard, self.attached.gone(run.id):
            run.claim()  # another program may be training it
            try:
                run.choose(step)
            finally:
                run.release()
            self.revision += 1

    def rename(self, asked: str, new: str) -> AdapterChoice:
        """Call an adapter something else; it answers to its old id as before. Raises ModelError if that is taken."""
        with self._guard:
            choice, slug = self.get(asked), storage.slug(new, "")
            if choice.source == "checkpoint":
                raise ModelError(
                    Text(
                        zh="检查点随训练记录命名，请改训练记录的名字。",
                        en="A checkpoint is called after its run: rename that.",
                    )
                )
            others = [other for other in self.all() if other.id != choice.id]
            if not slug or any(slug in (other.id, other.name) for other in others):
                raise ModelError(
                    Text(
                        zh=f"名字“{slug or new[:60]}”{'已经有了' if slug else '里没有可用的字'}，请换一个。",
                        en=f"The name “{slug or new[:60]}” {'is taken' if slug else 'has no letters'}; choose another.",
                    )
                )
            self._describe(choice, slug, choice.note)
        return self.get(choice.id)

    def annotate(self, asked: str, note: str) -> AdapterChoice:
        """Write a note on an adapter."""
        with self._guard:
            choice = self.get(asked)
            name = (choice.run.name if choice.run else choice.name) or ""
            self._describe(choice, name, note.strip()[:MAX_NOTE])
        return self.get(choice.id)

    def prompt(self, asked: str, system: str) -> AdapterChoice:
        """Write down the system prompt that an imported adapter was trained with: not every tool leaves it beside one.

        Raises ModelError for one of a run, which has its own, and for more than MAX_SYSTEM characters.
        """
        with self._guard:
            choice = self.get(asked)
            if choice.source != "imported" or choice.folder is None:
                raise ModelError(
                    Text(
                        zh="训练得到的适配器用的是它训练时的系统提示词，不能改。",
                        en="An adapter of a run has the system prompt of its training, which cannot be changed.",
                    )
                )
            if len(system) > MAX_SYSTEM:
                raise ModelError(
                    Text(
                        zh=f"系统提示词有 {len(system):,} 个字，最多 {MAX_SYSTEM:,} 个。没有保存，请缩短。",
                        en=f"The system prompt has {len(system):,} characters; {MAX_SYSTEM:,} at most. It was not saved; "
                        "shorten it.",
                    )
                )
            card = {**adapters.card_of(choice.folder), "system": system.strip()}
            storage.write_json(choice.folder / adapters.CARD, card)
            self.revision += 1
        return self.get(choice.id)

    def _describe(self, choice: AdapterChoice, name: str, note: str) -> None:
        if choice.run is not None:
            choice.run.describe(name, note)
        elif choice.folder is not None:
            card = {**adapters.card_of(choice.folder), "name": name, "note": note}
            storage.write_json(choice.folder / adapters.CARD, card)
        self.revision += 1

    def delete(self, asked: str) -> None:
        """Take an imported adapter away; `removed` brings it back. Raises BusyError while it is used, ModelError for a run's."""
        choice = self.get(asked)
        if choice.source != "imported" or choice.folder is None:
            raise ModelError(
                Text(
                    zh="训练得到的适配器和它的训练记录是一体的：请在“训练”页删除那条记录。",
                    en="An adapter of a run goes with its run: delete that on the Train tab.",
                )
            )
        with self._guard, self.attached.gone(choice.id):
            if self.use(choice) == "training":
                raise BusyError(
                    Text(
                        zh=f"正在从“{choice.name}”接着训练，训练结束后才能删除。",
                        en=f"A run is training on from “{choice.name}”; it can be deleted once that ends.",
                    )
                )
            self.removed.put("adapter", choice.folder, choice.name)
            self.revision += 1
        self._bodies.pop(choice.folder, None)


def same_base(name: str, other: str) -> bool:
    """Whether two names mean one base model, however a folder was typed."""
    one, two = storage.path_of(name), storage.path_of(other)
    return name == other or (one is not None and two is not None and one.resolve() == two.resolve())


def base_folder(name: str) -> Path | None:
    """The folder of a base model, None if it is not here."""
    try:
        return models.locate(name)
    except ModelError:
        return None


def _sweep(folder: Path) -> None:
    """Remove what an import or a removal left behind that a kill cut off; another process's may be under way."""
    for leftover in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _label(run: Run) -> Text:
    """What tells runs of one table apart: title, its adapter's step, hits, when it began."""
    hits = f" · {run.hits[0]}/{run.hits[1]}" if run.hits else ""
    when, step = moment(run.created), run.adapter_step or run.step
    return Text(zh=f"{run.title} · 第 {step} 步{hits} · {when.zh}", en=f"{run.title} · step {step}{hits} · {when.en}")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _changed(folder: Path | None) -> float:
    return folder.stat().st_mtime if folder is not None and folder.exists() else 0.0


def _size(folder: Path | None) -> int:
    if folder is None or not (folder / adapters.WEIGHTS).is_file():
        return 0
    return (folder / adapters.WEIGHTS).stat().st_size

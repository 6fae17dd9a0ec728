"""The proofs of one home: made one at a time on a thread of their own, kept beside the adapters, found again by weights."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from core import adapters, own_probes, proof, proof_subject, steady, storage
from core.device_errors import device_errors
from core.engine import Engine
from core.errors import BusyError, ModelError, UserError
from core.library import AdapterChoice, Library
from core.proof import Proof
from core.proof_subject import Subject
from core.prove import prove
from core.run import Run
from core.steady import Steady
from core.text import Text

FILE = "proof.json"
_STARTING = Text("正在准备", "Getting ready")
_INTERNAL = Text(
    "程序内部出错，检验没有做完。这是我们的问题，详情见终端里的输出。",
    "An internal error ended the proof. This is our fault; the terminal shows the details.",
)


class Proofs:
    """`hold` loads the base and keeps adapters attached, `old_words` gives those of an adapter's base.

    `revision` counts what a page would show: starts, ends, failures.
    """

    def __init__(
        self,
        home: Path,
        engine: Engine,
        library: Library,
        hold: Callable[[Sequence[str]], AbstractContextManager[Mapping[str, str]]],
        old_words: Callable[[str], tuple[str, ...]],
    ) -> None:
        self.home, self.revision = home, 0
        self._engine, self._library, self._hold, self._old_words = engine, library, hold, old_words
        self._guard = threading.Lock()
        self._waiting: deque[str] = deque()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._closed = False
        self._now: tuple[str, int, int, Text] | None = None
        self._failed: dict[str, Text] = {}
        self._digests: dict[Path, tuple[object, str]] = {}
        self._read: dict[Path, tuple[object, Proof | None]] = {}

    # -- looking --

    def of(self, adapter_id: str) -> Proof | None:
        """The proof of an adapter; None if there is none, or if it is of other weights, or for an imported one under
        another system prompt, than the adapter's now.
        """
        choice = self._library.find(adapter_id)
        path = None if choice is None else _place(choice)
        if choice is None or choice.folder is None or path is None or (stamp := _stamp(path)) is None:
            return None
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = self._read[path] = (stamp, load(path))
        found = known[1]
        if found is None or (choice.source == "imported" and found.system != choice.system):
            return None
        return found if found.weights == self._digest(choice.folder) else None

    def progress(self) -> tuple[str, int, int, Text] | None:
        """(adapter, work done, work in all, what is being done) of the proof under way."""
        return self._now

    def failed(self, adapter_id: str) -> Text | None:
        """Why the newest proof of this adapter was not made."""
        return self._failed.get(adapter_id)

    # -- doing --

    def start(self, adapter_id: str) -> None:
        """Prove an adapter in the background. Raises BusyError while another is proved or this one is in training,
        ModelError if it cannot be.
        """
        choice = self._library.get(adapter_id)
        if choice.folder is None or choice.problem is not None:
            raise ModelError(
                Text(
                    zh=f"“{choice.name}”现在不能检验：{choice.problem.zh if choice.problem else '它还没有保存。'}",
                    en=f"“{choice.name}” cannot be proved now: "
                    f"{choice.problem.en if choice.problem else 'it has not been saved yet.'}",
                )
            )
        run = _trainer(choice)
        if run is not None and run.live:
            raise BusyError(steady.training(run))
        with self._guard:
            if self._now is not None:
                raise BusyError(
                    Text(
                        zh="正在检验另一个适配器。请等它做完，或先停止它。",
                        en="Another adapter is being proved. Wait for it to end, or stop it first.",
                    )
                )
            self._begin(choice.id)

    def after(self, run: Run) -> None:
        """At a run's end, from its own thread: prove it, or let it wait for the one under way."""
        if run.config.prove != "true" or run.adapter is None:
            return
        with self._guard:
            if self._now is None:
                self._begin(run.id)
            elif run.id not in self._waiting:
                self._waiting.append(run.id)

    def stop(self) -> None:
        """Give up the proof under way and those that wait."""
        with self._guard:
            self._waiting.clear()
            self._stop.set()

    def close(self, timeout: float | None = None) -> bool:
        """Stop, start nothing any more; whether the thread has ended."""
        self._closed = True
        self.stop()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _begin(self, adapter_id: str) -> None:
        """Under the guard."""
        if self._closed:
            return
        self._stop = threading.Event()
        self._now = (adapter_id, 0, 1, _STARTING)
        self._failed.pop(adapter_id, None)
        self.revision += 1
        self._thread = threading.Thread(target=self._work, args=(adapter_id, self._stop), name="proof")
        self._thread.start()

    def _work(self, adapter_id: str, stop: threading.Event) -> None:
        failure: Text | None = _INTERNAL
        try:
            self._prove(adapter_id, stop)
            failure = None
        except UserError as error:
            failure = error.text
        finally:
            # Whatever else happened goes on to the terminal; the page must not show a proof that nobody makes.
            with self._guard:
                self._now = None
                if failure is not None:
                    self._failed[adapter_id] = failure
                self.revision += 1
                if self._waiting:
                    self._begin(self._waiting.popleft())

    def _prove(self, adapter_id: str, stop: threading.Event) -> None:
        def told(done: int, total: int, what: Text) -> None:
            self._now = (adapter_id, done, max(1, total), what)

        with device_errors(), self._hold([adapter_id]) as ids:
            choice = self._library.get(adapter_id)
            path, name = _place(choice), ids[adapter_id]
            assert path is not None and choice.folder is not None
            same = Steady.of(self._engine, name, choice.folder, _trainer(choice))
            found = prove(self._engine, self.subject(choice, name), self.home / "cache", told, stop)
            if found is not None:
                # Inside the hold: nobody can remove the run, or choose another of its points, before it is written.
                same.check()
                storage.write_json(path, proof.to_json(found))

    def subject(self, choice: AdapterChoice, name: str) -> Subject:
        """An adapter that has files as what a proof asks about; `name` is what the engine calls it."""
        assert choice.folder is not None
        old, own = self._old_words(choice.id), own_probes.load(self.home)
        if choice.run is None:
            return proof_subject.of_folder(choice.folder, name, choice.name, old, own)
        at = choice.id.partition("@")[2]
        step = int(at) if at.isdecimal() else choice.run.adapter_step
        return proof_subject.of_run(choice.run, choice.folder, step, name, old, own)

    def _digest(self, folder: Path) -> str:
        """The weights' digest, remembered until the file changes."""
        stamp = _stamp(folder / adapters.WEIGHTS)
        known = self._digests.get(folder)
        if known is None or known[0] != stamp or stamp is None:
            try:
                known = (stamp, proof_subject.digest(folder))
            except OSError:
                return ""
            self._digests[folder] = known
        return known[1]


def _trainer(choice: AdapterChoice) -> Run | None:
    """The run that trains this very adapter when it goes on: not for a checkpoint, whose weights stay."""
    return choice.run if choice.source == "run" else None


def _place(choice: AdapterChoice) -> Path | None:
    """Where its proof is kept: beside the adapter of a run, else in the adapter's own folder."""
    if choice.folder is None:
        return None
    return choice.run.folder / FILE if choice.run is not None and choice.source == "run" else choice.folder / FILE


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def load(path: Path) -> Proof | None:
    """The proof in a file; None if there is none, or if it cannot be read."""
    try:
        return proof.from_json(storage.read_json(path))
    except (OSError, ValueError, RecursionError):
        return None

"""The exports of one home: made one at a time on a thread of their own, then loaded and tested. Knows no page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core import proof_subject, storage
from core.errors import BusyError, ModelError, UserError
from core.export.card import model_card
from core.export.make import FACTS, make, read_facts
from core.export.order import LABELS, Order
from core.export.receipt import Receipt
from core.export.retest import load_receipt, order_of, retest
from core.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.engine import Engine
    from core.library import AdapterChoice, Library
    from core.proofs import Proofs

_WRITING = Text("正在写文件", "Writing files")
_INTERNAL = Text(
    "程序内部出错，导出没有做完。这是我们的问题，详情见终端里的输出。",
    "An internal error ended the export. This is our fault; the terminal shows the details.",
)
_ONE_AT_A_TIME = Text(
    "正在导出另一个。请等它做完，或先取消它。", "Another export is under way. Wait for it to end, or cancel it first."
)


@dataclass(frozen=True)
class Now:
    """The export under way: `what` is being done, `done` of `total` (bytes while it writes, answers while it tests)."""

    order: Order
    adapter_id: str
    what: Text
    done: int
    total: int
    begun: float


@dataclass(frozen=True)
class Made:
    """An export that is there."""

    folder: Path
    facts: Mapping[str, object]
    receipt: Receipt | None
    nbytes: int


class Exports:
    """`hold` loads the base and keeps adapters attached. `revision` counts what a page would show."""

    def __init__(
        self,
        home: Path,
        engine: Engine,
        library: Library,
        proofs: Proofs,
        hold: Callable[[Sequence[str]], AbstractContextManager[Mapping[str, str]]],
    ) -> None:
        self.folder, self.revision = home / "exports", 0
        self._engine, self._library, self._proofs, self._hold = engine, library, proofs, hold
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._now: Now | None = None
        self._failed: dict[str, Text] = {}
        self._closed = False

    # -- looking --

    @property
    def now(self) -> Now | None:
        """The export under way."""
        return self._now

    def failed(self, adapter_id: str) -> Text | None:
        """Why the newest export of this adapter was not made, or not tested."""
        return self._failed.get(adapter_id)

    def made(self) -> list[Made]:
        """The exports in the home's own folder, newest first."""
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if (path / FACTS).is_file() and not path.name.startswith(".")]
        found = [_made(path) for path in folders]
        return sorted(found, key=lambda made: str(made.facts.get("created")), reverse=True)

    def order(self, adapter_id: str, **given: object) -> Order:
        """An order for an adapter, with what is known of it filled in.

        Raises ModelError for one that has no files, ConfigError for a name that will not do.
        """
        choice = self._library.get(adapter_id)
        if choice.folder is None or choice.problem is not None:
            why = choice.problem or Text("它还没有保存。", "it has not been saved yet.")
            raise ModelError(
                Text(f"“{choice.name}”现在不能导出：{why.zh}", f"“{choice.name}” cannot be exported now: {why.en}")
            )
        name = str(
            given.pop("name", "")
            or storage.slug(choice.run.title if choice.run and choice.source == "run" else choice.name)
        )
        model = str(given.pop("model", "") or (choice.run.config.model if choice.run else choice.base_model))
        made = Order(choice.folder, model, "merged", self.folder / "x", name, choice.system)
        made = replace(made, **given)  # type: ignore[arg-type]
        if "target" not in given:
            made.check_name()
            kind = f"gguf-{made.quantisation}" if made.format == "gguf" else made.format
            made = replace(made, target=self.folder / storage.unused(self.folder, f"{name}-{kind}"))
        return made

    def of(self, adapter_id: str) -> list[Made]:
        """Those that were made of the adapter as it is now, newest first."""
        choice = self._library.find(adapter_id)
        if choice is None or choice.folder is None:
            return []
        try:
            weights = proof_subject.digest(choice.folder)
        except OSError:
            return []
        return [made for made in self.made() if made.facts.get("adapter_sha256") == weights]

    # -- doing --

    def remove(self, name: str) -> None:
        """Delete an export for good. Raises ModelError for one that is not there, BusyError while it is made."""
        made = self._named(name)
        if self._now is not None and self._now.order.target == made.folder:
            raise BusyError(_ONE_AT_A_TIME)
        storage.remove_folder(made.folder)
        self.revision += 1

    def start(self, adapter_id: str, order: Order) -> None:
        """Make an export and test it, in the background. Raises BusyError, or what `Order.check` raises."""
        order.check()
        self._begin(adapter_id, order, write=True)

    def test_again(self, adapter_id: str, name: str) -> None:
        """Test an export that is there. Raises BusyError, or ModelError for one that is not."""
        choice = self._library.get(adapter_id)
        if choice.folder is None:
            raise ModelError(Text("这个适配器没有文件。", "This adapter has no files."))
        self._begin(adapter_id, order_of(self._named(name).folder, choice.folder), write=False)

    def _named(self, name: str) -> Made:
        found = next((made for made in self.made() if made.folder.name == name), None)
        if found is None:
            raise ModelError(Text(f"没有名为“{name[:80]}”的导出。", f"There is no export “{name[:80]}”."))
        return found

    def stop(self) -> None:
        """Give up the export under way; what is whole stays."""
        self._stop.set()

    def close(self, timeout: float | None = None) -> bool:
        """Stop, start nothing any more; whether the thread has ended."""
        self._closed = True
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def _begin(self, adapter_id: str, order: Order, write: bool) -> None:
        with self._guard:
            if self._now is not None or self._closed:
                raise BusyError(_ONE_AT_A_TIME)
            self._stop = threading.Event()
            self._failed.pop(adapter_id, None)
            self._now = Now(order, adapter_id, _WRITING, 0, 1, time.time())
            self.revision += 1
            self._thread = threading.Thread(
                target=self._work, args=(adapter_id, order, write, self._stop), name="export"
            )
            self._thread.start()

    def _work(self, adapter_id: str, order: Order, write: bool, stop: threading.Event) -> None:
        failure: Text | None = _INTERNAL
        try:
            self._carry_out(adapter_id, order, write, stop)
            failure = None
        except UserError as error:
            failure = error.text
        finally:
            with self._guard:
                self._now = None
                if failure is not None:
                    self._failed[adapter_id] = failure
                self.revision += 1

    def _carry_out(self, adapter_id: str, order: Order, write: bool, stop: threading.Event) -> None:
        choice = self._library.get(adapter_id)
        if write and not make(
            order, self._told(order, adapter_id), stop, lambda staged: self._card(choice, order, None)
        ):
            return
        found = retest(
            self._engine,
            self._proofs.subject(choice, choice.id),
            order,
            self._holding(adapter_id),
            self._asked(order, adapter_id),
            stop,
        )
        if found is not None:
            storage.write_text(order.target / "README.md", self._card(choice, order, found))

    def _card(self, choice: AdapterChoice, order: Order, receipt: Receipt | None) -> str:
        return model_card(order, choice.run, self._proofs.of(choice.id), receipt)

    def _told(self, order: Order, adapter_id: str) -> Callable[[int, int], None]:
        begun = time.time()

        def told(done: int, total: int) -> None:
            self._now = Now(order, adapter_id, LABELS[order.format], done, max(1, total), begun)

        return told

    def _asked(self, order: Order, adapter_id: str) -> Callable[[int, int, Text], None]:
        begun = time.time()

        def told(done: int, total: int, what: Text) -> None:
            self._now = Now(order, adapter_id, what, done, max(1, total), begun)

        return told

    def _holding(self, adapter_id: str) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def holding() -> Iterator[None]:
            with self._hold([adapter_id]):
                yield

        return holding


def _made(folder: Path) -> Made:
    nbytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Made(folder, read_facts(folder), load_receipt(folder), nbytes)

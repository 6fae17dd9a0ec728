"""The one training thread: starts it, stops it, and turns whatever ends it into the run's last event."""

from __future__ import annotations

import errno
import gc
import logging
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO

from core import storage
from core.device_errors import explained
from core.errors import BusyError, DivergedError, StorageError, UserError, WontFitError
from core.redact import redact
from core.run import Run
from core.text import Text

Work = Callable[[Run, threading.Event], None]
log = logging.getLogger("onecard.run")


class Job:
    """At most one run at a time in this process, and in every process that has the same home, if it is given."""

    def __init__(self, work: Work, clean_up: Callable[[], None], home: Path | None = None) -> None:
        self._work = work
        self._alone = home / ".training" if home is not None else None
        self._claim: IO[str] | None = None
        self._clean_up = clean_up
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.run: Run | None = None
        self.cards: tuple[str, ...] = ()
        """On which cards other processes train the run; none where this process does."""

    @property
    def active(self) -> Run | None:
        """The run in progress."""
        return self.run if self.run is not None and self.run.live else None

    @property
    def here(self) -> Run | None:
        """The run in progress, if this process itself trains it."""
        return None if self.cards else self.active

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for and the run has not ended yet."""
        return self._stop.is_set() and self.active is not None

    def start(self, make: Callable[[], Run], cards: tuple[str, ...] = ()) -> Run:
        """Make a run and train it in the background. Raises BusyError, and makes nothing, if one is in progress.

        `cards`: those on which the work has other processes train it, which take the claims then.
        """
        with self._guard:
            if self.active is not None:
                raise BusyError(busy(self.active))
            self._stop.clear()  # before making: a stop that comes meanwhile is meant for this run
            self._take()
            try:
                run = make()
                if self._closed:
                    raise BusyError(Text(zh="程序正在退出。", en="The program is closing."))
                run.claim()
            except BaseException:
                self._let_go()
                raise
            if cards:
                run.release()
                self._let_go()
            run.live = True
            self.run, self.cards = run, cards
            self._thread = threading.Thread(target=self._train, args=(run,), name="training")
            self._thread.start()
            return run

    def _take(self) -> None:
        """Keep other processes from training beside this run: there is one card. Raises BusyError if one does."""
        if self._alone is None:
            return
        storage.make_folder(self._alone.parent)  # it may have been moved away since
        self._claim = storage.lock_file(self._alone)
        if self._claim is None:
            holder = storage.holder(self._alone)
            raise BusyError(
                Text(
                    zh=f"另一个程序（进程 {holder}）正在 {self._alone.parent} 里训练。请等它结束，或先停止它。",
                    en=f"Another program (process {holder}) is training in {self._alone.parent}. Wait for it to end, or "
                    "stop it first.",
                )
            )

    def _let_go(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def stop(self) -> None:
        """Ask the run to end after the current step; it saves its adapter. Without a run, nothing happens."""
        self._stop.set()

    def close(self, timeout: float | None = None) -> bool:
        """Stop, start nothing any more, and wait for the save; whether the thread has ended."""
        self._closed = True
        self._stop.set()
        with self._guard:
            return self.join(timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end; whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _train(self, run: Run) -> None:
        failure: UserError | None = None
        trace = ""
        # The product's only `except Exception`: whatever happens here must become the run's last event, or the page
        # would show it running for ever.
        try:
            self._work(run, self._stop)
        except UserError as error:
            failure = _bare(error)
        except Exception as error:
            failure, trace = _explain(error, run.step), redact(traceback.format_exc())
        finally:
            # Also for what is no Exception (an exit from inside): the page must never show a run that nobody trains.
            if failure is None and run.status == "running":
                failure = UserError(Text(zh="训练线程意外结束。", en="The training thread ended unexpectedly."))
            if failure is not None:
                _record_failure(run, failure, trace)
            run.release()
            self._let_go()
            run.live = False
        if failure is not None:
            # Outside the except block, and frames that hold one another let go of: a traceback in flight, or such a
            # circle, would keep the failed step's tensors alive.
            gc.collect()
            self._clean_up()


def busy(run: Run) -> Text:
    """The sentence for a second start."""
    return Text(
        zh=f"正在训练“{run.title}”。请等它结束，或先按停止。",
        en=f"“{run.title}” is training now. Wait for it to end, or press Stop first.",
    )


def _record_failure(run: Run, failure: UserError, trace: str) -> None:
    """The run's last event. `cause` is what programs go by; sizes in bytes where memory was short."""
    facts: dict[str, object] = {"message_zh": failure.text.zh, "message_en": failure.text.en, "cause": failure.cause}
    if isinstance(failure, WontFitError):
        facts |= {"needed_bytes": failure.needed_bytes, "free_bytes": failure.free_bytes}
    if isinstance(failure, DivergedError):
        facts["broken_step"] = failure.step
    # What a person can mend stands on the page and in the run; the terminal shows what is our fault.
    log.log(logging.ERROR if trace else logging.INFO, "run %s failed at step %d\n%s", run.id, run.step, trace)
    try:
        if trace:
            storage.write_text(run.folder / "error.txt", trace)
        run.append("failed", step=run.step, **facts)
    except (OSError, UserError):
        # The disk is full or gone: the page must still see the end, even if no file can.
        run.events.append({"type": "failed", "time": 0.0, "step": run.step, **facts})


def _bare(error: UserError) -> UserError:
    """The same, without the frames that it came through: they hold tensors."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _explain(error: Exception, step: int) -> UserError:
    """A cause a person can act on where one is known, else an admission that the fault is ours."""
    named = explained(error, "training" if step else "starting")
    if named is not None:
        return named
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return StorageError(
            Text(
                zh="磁盘已满，训练已停止。请清理磁盘后重新开始；之前保存的检查点没有丢失。",
                en="The disk is full and training stopped. Free some space and start again; saved checkpoints are intact.",
            )
        )
    name = type(error).__name__
    return UserError(
        Text(
            zh=f"程序内部出错（{name}），训练已停止。这是我们的问题，详情见该次训练文件夹里的 error.txt。",
            en=f"An internal error ({name}) stopped training. This is our fault; details are in error.txt in the run's "
            "folder.",
        )
    )

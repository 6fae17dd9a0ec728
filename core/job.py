"""The one training thread: starts it, stops it, and turns whatever ends it into the run's last event."""

from __future__ import annotations

import errno
import sys
import threading
import traceback
from collections.abc import Callable

from core import storage
from core.errors import BusyError, UserError
from core.run import Run
from core.text import Text

Work = Callable[[Run, threading.Event], None]


class Job:
    """At most one run at a time in this process."""

    def __init__(self, work: Work, clean_up: Callable[[], None]) -> None:
        self._work = work
        self._clean_up = clean_up
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.run: Run | None = None

    @property
    def active(self) -> Run | None:
        """The run in progress."""
        return self.run if self.run is not None and self.run.live else None

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for and the run has not ended yet."""
        return self._stop.is_set() and self.active is not None

    def start(self, make: Callable[[], Run]) -> Run:
        """Make a run and train it in the background. Raises BusyError, and makes nothing, if one is in progress."""
        with self._guard:
            if self.active is not None:
                raise BusyError(busy(self.active))
            run = make()
            run.live = True
            self.run = run
            self._stop.clear()
            self._thread = threading.Thread(target=self._train, args=(run,), name="training")
            self._thread.start()
            return run

    def stop(self) -> None:
        """Ask the run to end after the current step; it saves its adapter. Without a run, nothing happens."""
        self._stop.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end; whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _train(self, run: Run) -> None:
        failure: Text | None = None
        trace = ""
        # The product's only `except Exception`: whatever happens here must become the run's last event, or the page
        # would show it running for ever.
        try:
            self._work(run, self._stop)
        except UserError as error:
            failure = error.text
        except Exception as error:
            failure, trace = _explain(error), traceback.format_exc()
        if failure is not None:
            # Outside the except block: a traceback in flight would keep the failed step's tensors alive.
            self._clean_up()
            if trace:
                print(trace, file=sys.stderr)
            _record_failure(run, failure, trace)
        run.live = False


def busy(run: Run) -> Text:
    """The sentence for a second start."""
    return Text(
        zh=f"正在训练“{run.title}”。请等它结束,或先按停止。",
        en=f"“{run.title}” is training now. Wait for it to end, or press Stop first.",
    )


def _record_failure(run: Run, failure: Text, trace: str) -> None:
    try:
        if trace:
            storage.write_text(run.folder / "error.txt", trace)
        run.append("failed", step=run.step, message_zh=failure.zh, message_en=failure.en)
    except (OSError, UserError):
        # The disk is full or gone: the page must still see the end, even if no file can.
        run.events.append(
            {"type": "failed", "time": 0.0, "step": run.step, "message_zh": failure.zh, "message_en": failure.en}
        )


def _explain(error: Exception) -> Text:
    """A cause a person can act on where one is known, else an admission that the fault is ours."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return Text(
            zh="显存不够,训练已停止。请调低“最大长度”或“每批行数 × 梯度累积”,或改用 QLoRA;也请检查是否有其他程序占用显卡。",
            en="The card ran out of memory and training stopped. Lower Maximum length or rows per step, or use QLoRA; "
            "also check for other programs on the card.",
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Text(
            zh="磁盘已满,训练已停止。请清理磁盘后重新开始;之前保存的检查点没有丢失。",
            en="The disk is full and training stopped. Free some space and start again; saved checkpoints are intact.",
        )
    name = type(error).__name__
    return Text(
        zh=f"程序内部出错({name}),训练已停止。这是我们的问题,详情见该次训练文件夹里的 error.txt。",
        en=f"An internal error ({name}) stopped training. This is our fault; details are in error.txt in the run's folder.",
    )

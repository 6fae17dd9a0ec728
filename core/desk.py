"""The desk: everybody's questions of one engine, decoded in ONE batch by one thread that lives while there is work.

A request's rows join between two tokens, leave when they are done, and end alone when something is wrong with them. The
thread holds the model for a tenth of a second at a time, so that training goes on between the tokens of an answer.

Why a thread and not the readers in turn: a reader may pause (a page that draws), go on on another thread (gradio) or never
come back, and nobody may wait for that; while a reader writes its update to the network the next tokens are computed; and
one thread means one set of the libraries' handles and workspaces on the card, not one for each of gradio's forty. What
nobody reads on goes on to its length limit; closing the generator, or its stop flag, ends it within a token.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from core.asked import UPDATE_SECONDS, Request, Row
from core.device import give_back
from core.device_errors import is_lost, is_memory, out_of_memory
from core.errors import ModelError, UserError
from core.generate import Column, Sampling
from core.text import Text

if TYPE_CHECKING:
    from core.engine import Engine, Resident
    from core.together import Together

MOST_ROWS = 64
_MOST_READ = 8192  # prompt tokens that join at once: those who are being answered wait that long
_LINGER_SECONDS = 2.0  # a thread costs little to keep and a few milliseconds to make: its libraries' workspaces
_EXCHANGED = Text(
    zh="回答途中换了模型或移除了适配器，请再问一次。",
    en="The model or adapter was exchanged during the answer; ask again.",
)
_SHORT_SECONDS = 10.0  # for how long a shortage of memory keeps the batch small
_CLOSING = Text(zh="程序正在退出，回答已停止。", en="The program is closing; the answer was stopped.")


class Desk:
    """Who waits and who is being answered. Locks: the engine's turn first, then this one's, never held for long."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Row] = deque()
        self._together: Together | None = None
        self._thread: threading.Thread | None = None
        self._room = MOST_ROWS
        self._short_until = 0.0
        self._working = False

    # -- those who ask --

    def ask(self, columns: Sequence[Column], samplings: Sequence[Sampling], stop: threading.Event) -> Request:
        """Put the columns in the queue."""
        waits = self._engine.busy and not self._working
        request = Request(columns, samplings, stop, waits, self._cancel)
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                # No daemon: one that the interpreter ends in the middle of torch takes the process down with it.
                thread = threading.Thread(target=self._run, name="answers")
                thread.start()  # it waits for the lock; if it cannot start, nobody is left in the queue
                self._thread = thread
            self._waiting.extend(request.rows)
            self._changed.notify_all()
        return request

    def forget(self) -> None:
        """The model goes: whoever is being answered by it is told so. Inside a turn, or while nobody has one."""
        self._end((row.request for row in self._rows() if row.begun), ModelError(_EXCHANGED))
        self._together = None

    def _cancel(self, request: Request) -> None:
        with self._lock:
            for row in request.rows:
                row.finish = row.finish or "cancelled"
        request.tell(0.0, anyway=True)

    # -- the thread --

    def _run(self) -> None:
        while True:
            if not threading.main_thread().is_alive():
                self._end((row.request for row in self._rows()), ModelError(_CLOSING))
                self._together = None
            with self._changed:
                until = time.monotonic() + _LINGER_SECONDS
                while not self._has_work() and time.monotonic() < until and threading.main_thread().is_alive():
                    self._changed.wait(min(0.1, _LINGER_SECONDS))
                if not self._has_work():
                    self._thread = None
                    return
            try:
                with self._engine.turn():
                    self._working = True
                    self._work()
            except BaseException as error:
                # There is no model, or it is our bug: those it hit are told, the others and the thread go on.
                _forget_frames(error)
                rows = self._rows()
                self._end([row.request for row in rows if row.begun] or [row.request for row in rows], error)
                self._together = None
            self._working = False

    def _has_work(self) -> bool:
        return bool(self._waiting) or self._together is not None

    def _rows(self) -> list[Row]:
        with self._lock:
            return [*self._waiting, *(self._together.rows if self._together is not None else ())]

    def _end(self, requests: Iterable[Request], error: BaseException) -> None:
        """These requests, and no others, end with `error`."""
        if is_memory(error):
            error = out_of_memory(error, "answer")
        elif is_lost(error):
            error = self._engine.lose()
        if isinstance(error, UserError):
            error.__traceback__ = None  # its frames hold parts of a model
        ended = list(dict.fromkeys(requests))
        with self._lock:
            for request in ended:
                request.fail(error)
            self._waiting = deque(row for row in self._waiting if not row.finish)
        for request in ended:
            request.tell(0.0, anyway=True)

    def _work(self) -> None:
        """A tenth of a second of answers. Nothing of the model is kept in this thread's own variables after it."""
        resident = self._engine.resident
        assert resident is not None
        self._check(resident)
        until = time.perf_counter() + UPDATE_SECONDS
        while True:
            self._stop_where_asked()
            self._admit(resident)
            together = self._together
            if together is None or not together.rows:
                break
            try:
                together.advance()
            except RuntimeError as error:
                if not is_memory(error):
                    raise
                self._step_back(together, error)
                continue
            if self._tell(together) >= until:
                together.settle()
                together.drop()
                self._tell(together)
                break
        if self._together is not None and not self._together.rows:
            self._together, self._room = None, MOST_ROWS

    def _check(self, resident: Resident) -> None:
        """End the answers whose model or adapter is not there any more."""
        together = self._together
        if together is None:
            return
        if not together.belongs_to(resident):
            self.forget()
            return
        lost = [row.request for row in together.rows if row.handle != self._handle(row)]
        self._end(lost, ModelError(_EXCHANGED))
        together.drop()

    def _handle(self, row: Row) -> str | None:
        """The backend's name of the row's adapter now; "" if it is not attached, None for the base."""
        if row.column.adapter is None:
            return None
        return self._engine.handle(row.column.adapter) if row.column.adapter in self._engine.attached else ""

    def _stop_where_asked(self) -> None:
        """Those who still wait are looked at when it is their turn."""
        rows = self._together.rows if self._together is not None else ()
        for request in {row.request for row in rows}:
            if request.stop.is_set() and not request.over:
                self._cancel(request)

    def _tell(self, together: Together) -> float:
        now = time.perf_counter()
        for request in {row.request for row in together.rows}:
            request.tell(now, anyway=request.over)
        return now

    # -- joining --

    def _admit(self, resident: Resident) -> None:
        """Let those who wait join, as far as there is room."""
        if self._together is None and self._waiting:  # before a row is taken from the queue: it may fail
            from core.together import Together

            self._together = Together(resident, self._lock)
        while rows := self._next(resident):
            assert self._together is not None
            if not self._join(resident, self._together, rows):
                return

    def _next(self, resident: Resident) -> list[Row]:
        """Rows to read together, prepared; those that cannot be end their requests."""
        if time.perf_counter() > self._short_until:
            self._room = MOST_ROWS
        found: list[Row] = []
        read, live = 0, len(self._together.rows) if self._together is not None else 0
        while live + len(found) < self._room:
            with self._lock:
                row = self._waiting.popleft() if self._waiting else None
            if row is None:
                break
            if row.request.stop.is_set() and not row.finish:
                self._cancel(row.request)
            if row.finish or not self._prepare(row, resident):
                continue
            read += len(row.prompt) + len(row.ids)
            if found and read > _MOST_READ:
                self._put_back([row])
                break
            found.append(row)
        return found

    def _prepare(self, row: Row, resident: Resident) -> bool:
        try:
            handle = None if row.column.adapter is None else self._engine.handle(row.column.adapter)
            if row.begun and handle != row.handle:
                raise ModelError(_EXCHANGED)
            row.handle = handle
            if not row.begun:
                row.prepare(resident.encoder, resident.info)
        except BaseException as error:
            self._end([row.request], error)
            return False
        return True

    def _join(self, resident: Resident, together: Together, rows: list[Row]) -> bool:
        """Whether others may try to join after these. Too many are divided; one that does not fit waits for a place."""
        try:
            together.join(rows)
        except BaseException as error:
            short = is_memory(error)
            _forget_frames(error)
            if len(rows) > 1:
                half = len(rows) // 2
                self._put_back(rows[half:])
                return self._join(resident, together, rows[:half])
            if not short:
                self._end([rows[0].request], error)
                return True
            if not together.rows:
                return self._join_alone(resident, rows[0])
            self._short(len(together.rows))
            self._put_back(rows)
            give_back()
            return False
        for row in rows:
            row.begun = True
        self._tell(together)
        together.drop()
        return True

    def _join_alone(self, resident: Resident, row: Row) -> bool:
        """The last try of a row that did not fit beside nobody: without all that answering keeps."""
        from core.together import Together

        self._together = None
        try:
            resident.backend.rest()
            give_back()
            self._together = Together(resident, self._lock)
            self._together.join([row])
        except BaseException as error:
            _forget_frames(error)
            self._together = Together(resident, self._lock)
            self._end([row.request], error)
            return True
        row.begun = True
        return True

    def _step_back(self, together: Together, error: RuntimeError) -> None:
        """A token did not fit: half of the rows go on, the others wait; all are read anew."""
        together.settle()
        rows = [row for row in together.rows if not row.finish]
        self._together = None
        give_back()
        if len(rows) == 1:
            self._end([rows[0].request], error)
        self._short(max(1, len(rows) // 2))
        self._put_back(rows)

    def _short(self, rows: int) -> None:
        """No more than so many rows for the next seconds."""
        self._room, self._short_until = rows, time.perf_counter() + _SHORT_SECONDS

    def _put_back(self, rows: Sequence[Row]) -> None:
        with self._lock:
            self._waiting.extendleft(reversed(rows))


def _forget_frames(error: BaseException | None) -> None:
    """Empty the frames an error came through: they hold parts of a model, for as long as the error is kept."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__

"""One API answer from its thread to its client: its place on the floor, the stream, and the client that goes away.

Knows the web as ASGI messages only; what is in them is core.openai_answers' work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from core.desk import MOST_ROWS
from core.engine import Resident
from core.errors import ModelError
from core.generate import Reply
from core.openai import Asked
from core.openai_answers import DONE, KEEP_ALIVE, Answer, encoded, event
from core.openai_errors import ApiError, closing, explain, too_many
from core.served import Served
from core.text import Language, Text

MOST_WAITING = 64
KEEP_ALIVE_SECONDS = 5.0
_JSON, _EVENTS = "application/json", "text/event-stream; charset=utf-8"
log = logging.getLogger("onecard.api")


class Place:
    """A request's place on the floor: how many answers it is, when it may begin, and the flag that ends them."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stop = threading.Event()


class Floor:
    """Room for so many answers at once; whoever comes later waits in line, and a full line turns away.

    Belongs to one event loop: only its thread calls this.
    """

    def __init__(self, most_answers: int = MOST_ROWS, most_waiting: int = MOST_WAITING) -> None:
        self._free = most_answers
        self._most_waiting = most_waiting
        self._line: deque[Place] = deque()
        self._inside: set[Place] = set()
        self._closed = False
        self.pool = ThreadPoolExecutor(most_answers, thread_name_prefix="api")

    def join(self, answers: int) -> Place:
        """A place for so many answers, in line if there is no room. Raises ApiError of status 429 if that is full."""
        if self._closed:
            raise closing()
        if (self._line or answers > self._free) and len(self._line) >= self._most_waiting:
            raise too_many(len(self._line))
        place = Place(answers)
        self._line.append(place)
        self._call()
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, called or not."""
        if place in self._inside:
            self._inside.discard(place)
            self._free += place.answers
        elif place in self._line:
            self._line.remove(place)
        self._call()

    def close(self) -> None:
        """Stop every answer and let nobody in any more."""
        self._closed = True
        for place in (*self._inside, *self._line):
            place.stop.set()

    def _call(self) -> None:
        while self._line and (self._line[0].called.done() or self._line[0].answers <= self._free):
            place = self._line.popleft()
            if place.called.done():  # its client has gone, and it has not left yet
                continue
            self._inside.add(place)
            self._free -= place.answers
            place.called.set_result(None)


class Answering(Response):
    """The response to a request: one JSON object, or a stream of them. Ends within a token when the client goes away."""

    background = None

    def __init__(self, asked: Asked, served: Served, floor: Floor, language: Language) -> None:
        self._asked, self._served, self._floor, self._language = asked, served, floor, language
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._running: asyncio.Future[None] | None = None
        self._answer: Answer | None = None
        self._replies: list[Reply] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or stop as soon as nobody listens."""
        try:
            place = self._floor.join(len(self._asked.samplings))
        except ApiError as error:
            await self._refuse(error, send)
            return
        leaving = asyncio.create_task(_left(receive))
        work = asyncio.create_task(self._work(place))
        sending = asyncio.create_task(self._stream(work, send) if self._asked.stream else self._send(work, send))
        try:
            await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            place.stop.set()
            for task in (leaving, work, sending):
                task.cancel()
            await asyncio.gather(leaving, work, sending, return_exceptions=True)
            if self._running is None:
                self._floor.leave(place)

    # -- the work --

    async def _work(self, place: Place) -> None:
        """Wait for room, then answer in a thread; the room is taken until the thread is done, whoever has gone."""
        await place.called
        self._running = self._loop.run_in_executor(self._floor.pool, self._answer_all, place.stop)
        self._running.add_done_callback(lambda _: self._floor.leave(place))
        await asyncio.wait({self._running})
        self._running.result()

    def _answer_all(self, stop: threading.Event) -> None:
        """In the thread: core's stream to its end."""
        asked = self._asked
        if stop.is_set():
            return
        self._served.prepare(asked.model.adapter)
        resident = _same(self._served, None)
        encoder, info = resident.encoder, resident.info
        columns = asked.columns(encoder, info.vocab_size, info.max_positions)
        answer = Answer(asked, [p if isinstance(p, str) else encoder.decode(p) for p in asked.prompts])
        for replies in self._served.answer(columns, asked.samplings, stop):
            _same(self._served, resident)
            self._answer, self._replies = answer, replies
            self._loop.call_soon_threadsafe(self._news.set)

    # -- the answer --

    async def _send(self, work: asyncio.Task[None], send: Send) -> None:
        await asyncio.wait({work})
        error = self._error(work)
        if error is not None:
            await self._refuse(error, send)
        else:
            assert self._answer is not None
            body = encoded(self._answer.whole(self._replies))
            await send(self._start(200, _JSON, {"content-length": str(len(body))}))
            await _part(send, body, more=False)

    async def _stream(self, work: asyncio.Task[None], send: Send) -> None:
        """Begin as late as can be: until the first byte is out, an error still has its own status."""
        begun = opened = False
        quiet_since = self._loop.time()
        while not work.done():
            late = await self._wait(work, quiet_since + KEEP_ALIVE_SECONDS)
            if work.done() and not begun and (error := self._error(work)) is not None:
                await self._refuse(error, send)
                return
            speaks = opened or work.done() or any(reply.tokens for reply in self._replies)
            body = b"".join(self._chunks(opened, False)) if speaks else b""
            opened = opened or speaks
            if not (body or late or work.done()):
                continue
            if not begun:
                await send(self._start(200, _EVENTS))
                begun = True
            await _part(send, body or KEEP_ALIVE)
            quiet_since = self._loop.time()
        error = self._error(work)
        ending = [event(error.body(self._language))] if error is not None else self._chunks(opened, True)
        await _part(send, b"".join(ending) + DONE, more=False)

    async def _wait(self, work: asyncio.Task[None], until: float) -> bool:
        """Wait for something new or the work's end; whether `until` passed before."""
        news = asyncio.create_task(self._news.wait())
        timeout = max(0.0, until - self._loop.time())
        done, _ = await asyncio.wait({work, news}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        news.cancel()
        self._news.clear()
        return not done

    def _chunks(self, opened: bool, last: bool) -> Iterator[bytes]:
        """The events for what is new."""
        if self._answer is not None:
            if not opened:
                yield from map(event, self._answer.opening())
            yield from map(event, self._answer.news(self._replies, last))

    def _error(self, work: asyncio.Task[None]) -> ApiError | None:
        """Why there is no whole answer, once the work is done; a fault of ours is logged."""
        if work.cancelled():
            return closing()
        error = work.exception()
        if error is not None:
            told = explain(error, "messages" if self._asked.kind == "chat" else "prompt")
            if told.status == 500:
                log.error("answering failed", exc_info=error)
            return told
        cancelled = self._answer is None or any(reply.finish == "cancelled" for reply in self._replies)
        return closing() if cancelled else None

    async def _refuse(self, error: ApiError, send: Send) -> None:
        body = encoded(error.body(self._language))
        await send(self._start(error.status, _JSON, {"content-length": str(len(body)), **error.headers}))
        await _part(send, body, more=False)

    def _start(self, status: int, kind: str, more: dict[str, str] | None = None) -> Message:
        headers = {"content-type": kind, "cache-control": "no-store", **self._headers, **(more or {})}
        raw = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        return {"type": "http.response.start", "status": status, "headers": raw}

    @property
    def _headers(self) -> dict[str, str]:
        """What of the request was not obeyed, and what was added to it."""
        headers = {}
        if self._asked.ignored:
            names = (re.sub(r"[^\w.\[\]-]", "?", name[:60], flags=re.ASCII) for name in self._asked.ignored[:20])
            headers["x-onecard-ignored"] = ", ".join(names)
        if self._asked.trained_system:
            headers["x-onecard-system"] = "trained"
        return headers


def _same(served: Served, before: Resident | None) -> Resident:
    """What is loaded. Raises ModelError if that is not what was loaded `before`: another model has other token ids."""
    now = served.engine.resident
    if now is None or before not in (None, now):
        raise ModelError(
            Text(zh="回答途中换了模型，请再问一次。", en="The model was exchanged during the answer; ask again.")
        )
    return now


async def _left(receive: Receive) -> None:
    """Return when the client has gone."""
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass


async def _part(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})

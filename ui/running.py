"""An app on a socket until the process is asked to end. Knows no route and no gradio."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING

from core.redact import hide_in_logs
from core.signals import end_now

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ui.endpoint import Endpoint


def run(app: ASGIApp, listener: socket.socket, endpoint: Endpoint, greeting: str = "") -> None:
    """Serve `app` on the socket until Ctrl+C or SIGTERM; answers to programs end then, within a token.

    `greeting` is printed (stderr) when requests are answered.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if greeting:
                print(greeting, file=sys.stderr, flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit:
                end_now(sig)
            super().handle_exit(sig, frame)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            endpoint.close()  # not when the waiting for their connections runs out
            await super().shutdown(sockets)

    # No proxy headers: whoever may name the address of a request may guess passwords from as many as they like.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, proxy_headers=False)
    if logging.getLogger().handlers:  # the program keeps a log: the server's warnings belong there, and once
        logging.getLogger("uvicorn").handlers.clear()
        logging.getLogger("uvicorn").propagate = True
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    server = Server(config)
    hide_in_logs((), "uvicorn")
    # uvicorn hands a signal on to the handler that was there before, which by default ends the process on the spot.
    with contextlib.suppress(ValueError):  # not the main thread: the caller owns the signals
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    with contextlib.suppress(ValueError):  # a run is being saved from here on: who cannot wait asks again
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end_now)


def _is_news(record: logging.LogRecord) -> bool:
    """False for what a stop does to the streams of open pages: they are cut, as they have to be."""
    cut = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut and "timeout graceful shutdown exceeded" not in record.getMessage()

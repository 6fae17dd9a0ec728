"""An app on a socket until the process is asked to end. Knows no route and no gradio."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from typing import TYPE_CHECKING

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

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            endpoint.close()  # not when the waiting for their connections runs out
            await super().shutdown(sockets)

    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    # uvicorn hands a SIGTERM on to the handler that was there before, which by default ends the process on the spot.
    with contextlib.suppress(ValueError):  # not the main thread: the caller owns the signals
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])

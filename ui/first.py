"""A script that a page runs before the framework's own: in the page's first lines, where its settings cannot put one."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PLACE = b"<head>"


class First:
    """A middleware: `script` stands first in the head of the page at `path`; what is no page goes through as it is."""

    def __init__(self, app: ASGIApp, script: str, path: str) -> None:
        self._app, self._path = app, path
        self._head = _PLACE + b"<script>" + script.encode() + b"</script>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the app does."""
        if scope["type"] != "http" or scope["path"] != self._path:
            return await self._app(scope, receive, send)
        begun: Message = {}
        parts: list[bytes] = []

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.update(message)
                return
            if message["type"] != "http.response.body":  # starlette tells its tests what was drawn
                return await send(message)
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = b"".join(parts).replace(_PLACE, self._head, 1)
            headers = MutableHeaders(scope=begun)
            if "content-length" in headers:
                headers["content-length"] = str(len(body))
            await send(begun)
            await send({"type": "http.response.body", "body": body})

        return await self._app(scope, receive, sending)


def put(app: FastAPI, path: str, script: str) -> None:
    """Let the page that gradio has mounted at `path` of `app` begin with `script`.

    Inside gradio's own middleware, of which one packs what is sent.
    """
    for route in app.routes:
        if isinstance(route, Mount) and route.path == path and isinstance(route.app, Starlette):
            route.app.user_middleware.append(Middleware(First, script=script, path=f"{path}/"))

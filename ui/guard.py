"""The network boundary: who may talk to the server at all. Plain ASGI, stands in front of every route.

Here are hosts, origins and sizes, for the page and the API alike; who is let in is `ui.access`. Gradio checks neither
the Host header (so a foreign page could reach it by DNS rebinding) nor the origin of uploads and of component calls, and
takes request bodies of any size.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.openai_errors import ApiError
from core.text import Text
from ui.access import SIGN_IN, Entrance

MAX_BODY_BYTES = 32_000_000
API = "/v1"
# Answers without a token: whether the program is up, and nothing about it.
HEALTH = "/healthz"
KNOWN = "onecard.known"

_MOST_HEADER_BYTES = 65_536
# By RFC 2046. A longer one is nobody's form: it makes a parser compare for minutes.
_MOST_BOUNDARY = 70

# What the pages use of gradio. The rest answers nobody: uploads, files by path, a proxy, calls by name, its own login.
_MOUNTED = re.compile(r"/(?:zh|en)(?:/.*)?", re.DOTALL)
_USED = re.compile(
    r"/(?:zh|en)(?:/(?:theme\.css|favicon\.ico|manifest\.json|(?:assets|static|svelte)/.*"
    r"|gradio_api/(?:queue/(?:join|data)|component_server/?|cancel|reset/?|startup-events))?)?"
)

_FOREIGN_HOST = Text(zh="这里不以这个主机名提供服务。", en="Misdirected request: this host name is not served here.")
_FOREIGN_ORIGIN = Text(zh="请求来自另一个网站。", en="Forbidden: the request comes from another site.")
_NOTHING_THERE = Text(zh="这里没有这个地址。", en="There is nothing at this address.")
_HEADERS_TOO_LARGE = Text(zh="请求头太大。", en="The request's headers are too large.")

# Gradio compiles the `js=` of events and styles components inline, so both need 'unsafe-inline'; nothing may leave the
# machine: an answer with a remote image shows no image and asks nobody.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "frame-src 'none'",
        "frame-ancestors 'none'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Refuses foreign hosts (421) and origins (403), large headers (431) and bodies (413), and who is not let in (401, 429)."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str],
        password: str = "",
        max_body_bytes: int = MAX_BODY_BYTES,
        api_keys: Collection[str] = (),
        token: str = "",
        entrance: Entrance | None = None,
    ) -> None:
        self.app = app
        self.hosts = frozenset(host.strip("[]").lower() for host in hosts)
        self.max_body_bytes = max_body_bytes
        self.entrance = entrance or Entrance(password, token, api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or answer it here."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        refusal = self.refusal(Headers(scope=scope), scope["path"]) or self._not_let_in(scope)
        if scope["type"] != "http":
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return None
        if refusal is None and scope["path"] == SIGN_IN:
            refusal = await self.entrance.sign_in(scope, receive)
        if refusal is not None:
            return await refusal(scope, receive, _with_headers(send))
        await self._capped(scope, receive, _with_headers(send))
        return None

    def refusal(self, headers: Headers, path: str = "/") -> Response | None:
        """The answer to a request that nobody may make, whoever asks; None for others."""
        api, host = is_api(path), headers.get("host", "")
        if _hostname(host) not in self.hosts:
            return _said(api, _FOREIGN_HOST, 421)
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return _said(api, _FOREIGN_ORIGIN, 403)
        if sum(len(name) + len(value) for name, value in headers.raw) > _MOST_HEADER_BYTES:
            return _said(api, _HEADERS_TOO_LARGE, 431)
        if _MOUNTED.fullmatch(path) and not _USED.fullmatch(path):
            return _said(api, _NOTHING_THERE, 404)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.max_body_bytes or _has_long_boundary(headers):
            return _too_large(api, self.max_body_bytes)
        return None

    def _not_let_in(self, scope: Scope) -> Response | None:
        """The answer to somebody who may not ask this; None for who may."""
        path = scope["path"]
        if is_api(path):
            return self.entrance.programs(scope)
        if path == SIGN_IN:
            return None
        answer = self.entrance.people(scope)
        scope[KNOWN] = answer is None
        return None if path == HEALTH else answer

    async def _capped(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; a body that grows past the limit (chunked, no length given) ends as 413."""
        taken, started, over = 0, False, False

        async def counted() -> Message:
            nonlocal taken, over
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.max_body_bytes:
                over = True
                return {"type": "http.disconnect"}
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if not over:
                started = True
                await send(message)

        try:
            await self.app(scope, counted, watched)
        except ClientDisconnect:
            if not over:
                raise
        except (RuntimeError, KeyError) as error:
            # The framework's stream for a page that has gone ends in a 404 in its middle, having said so to the page, or
            # clears away for the second time.
            gone = isinstance(error.__cause__, (HTTPException, asyncio.CancelledError))
            if not (started and gone and scope["path"].endswith("/queue/data")):
                raise
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        if over and not started:
            await _too_large(is_api(scope["path"]), self.max_body_bytes)(scope, receive, send)


def is_api(path: str) -> bool:
    """Whether a path is the API's, where keys count and errors are JSON."""
    return path == API or path.startswith(f"{API}/")


def _said(api: bool, text: Text, status: int, headers: dict[str, str] | None = None) -> Response:
    if api:
        return JSONResponse(ApiError(text, status).body(), status, headers)
    return PlainTextResponse(f"{text.zh}\n{text.en}\n", status, headers)


def _too_large(api: bool, limit: int) -> Response:
    size = f"{limit // 1_000_000} MB"
    return _said(api, Text(zh=f"请求太大：上限是 {size}。", en=f"Request too large: the limit is {size}."), 413)


def _has_long_boundary(headers: Headers) -> bool:
    kind = headers.get("content-type", "").lower()
    return kind.startswith("multipart/") and len(kind.partition("boundary=")[2]) > _MOST_BOUNDARY


def _hostname(host: str) -> str:
    try:
        return "" if set(host) & set("@/?#") else (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # "http://[" and the like
        return None


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return wrapped

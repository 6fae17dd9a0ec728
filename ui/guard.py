"""The network boundary: who may talk to the server at all. Plain ASGI, stands in front of every route.

Gradio checks neither the Host header (so a foreign page could reach it by DNS rebinding) nor the origin of uploads and
of component calls, and takes request bodies of any size.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 32_000_000

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
    """Refuses foreign hosts (421), foreign origins (403), a missing password (401) and large bodies (413)."""

    def __init__(
        self, app: ASGIApp, hosts: Collection[str], password: str = "", max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self.app = app
        self.hosts = frozenset(host.strip("[]").lower() for host in hosts)
        self.password = password
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or answer it here."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        refusal = self.refusal(Headers(scope=scope))
        if scope["type"] != "http":
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return None
        if refusal is not None:
            return await refusal(scope, receive, _with_headers(send))
        await self._capped(scope, receive, _with_headers(send))
        return None

    def refusal(self, headers: Headers) -> Response | None:
        """The answer to a request that may not pass, None for one that may."""
        host = headers.get("host", "")
        if _hostname(host) not in self.hosts:
            return PlainTextResponse("Misdirected request: this host name is not served here.", 421)
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return PlainTextResponse("Forbidden: the request comes from another site.", 403)
        if self.password and not self._knows_password(headers.get("authorization", "")):
            return PlainTextResponse("Password needed.", 401, {"www-authenticate": 'Basic realm="OneCard"'})
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.max_body_bytes:
            return _too_large(self.max_body_bytes)
        return None

    def _knows_password(self, authorization: str) -> bool:
        kind, _, value = authorization.partition(" ")
        try:
            given = base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
        return kind.lower() == "basic" and secrets.compare_digest(given, self.password.encode())

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
        if over and not started:
            await _too_large(self.max_body_bytes)(scope, receive, send)


def _too_large(limit: int) -> Response:
    return PlainTextResponse(f"Request too large: the limit is {limit // 1_000_000} MB.", 413)


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

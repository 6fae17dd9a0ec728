"""The network boundary: who may talk to the server at all. Plain ASGI, stands in front of every route.

The page has a password, the API has keys; hosts and origins are checked for both. Gradio checks neither the Host header
(so a foreign page could reach it by DNS rebinding) nor the origin of uploads and of component calls, and takes request
bodies of any size.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.openai_errors import ApiError
from core.text import Text
from ui import keys

MAX_BODY_BYTES = 32_000_000
API = "/v1"

_FOREIGN_HOST = Text(zh="这里不以这个主机名提供服务。", en="Misdirected request: this host name is not served here.")
_FOREIGN_ORIGIN = Text(zh="请求来自另一个网站。", en="Forbidden: the request comes from another site.")
_PASSWORD = Text(zh="需要密码。", en="Password needed.")
_WRONG_KEY = Text(
    zh=f"缺少 API 密钥或密钥不对。请在 Authorization: Bearer 里带上 {keys.KEYS} 中的一个。",
    en=f"The API key is missing or wrong. Send one of those in {keys.KEYS} as Authorization: Bearer ...",
)
_API_OFF = Text(
    zh=f"页面有密码，而 API 没有密钥，所以 API 是关着的。请设置环境变量 {keys.KEYS} 再启动。",
    en=f"The page has a password and the API has no key, so the API is off. Set {keys.KEYS} and start again.",
)

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
    """Refuses foreign hosts (421), foreign origins (403), a missing password or key (401) and large bodies (413)."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str],
        password: str = "",
        max_body_bytes: int = MAX_BODY_BYTES,
        api_keys: Collection[str] = (),
    ) -> None:
        self.app = app
        self.hosts = frozenset(host.strip("[]").lower() for host in hosts)
        self.password = password
        self.max_body_bytes = max_body_bytes
        self._api_keys = tuple(api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through or answer it here."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        refusal = self.refusal(Headers(scope=scope), scope["path"])
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

    def refusal(self, headers: Headers, path: str = "/") -> Response | None:
        """The answer to a request that may not pass, None for one that may."""
        api, host = is_api(path), headers.get("host", "")
        if _hostname(host) not in self.hosts:
            return _said(api, _FOREIGN_HOST, 421)
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return _said(api, _FOREIGN_ORIGIN, 403)
        authorization = headers.get("authorization", "")
        if api and (missing := self._missing_key(authorization)) is not None:
            return JSONResponse(missing.body(), missing.status, {"www-authenticate": "Bearer"})
        if not api and self.password and not self._knows_password(authorization):
            return _said(api, _PASSWORD, 401, {"www-authenticate": 'Basic realm="OneCard"'})
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.max_body_bytes:
            return _too_large(api, self.max_body_bytes)
        return None

    def _missing_key(self, authorization: str) -> ApiError | None:
        """Why the API does not answer without a key, or to this one; None if it does."""
        access = keys.access(self._api_keys, self.password)
        if access == "open" or (access == "key" and keys.knows(self._api_keys, authorization)):
            return None
        return ApiError(_API_OFF if access == "off" else _WRONG_KEY, 401, code="invalid_api_key")

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

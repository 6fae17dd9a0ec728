"""Who is let in: the token in an address, the password, the API's keys, and the cookie that the first two become.

Decides and answers; knows no route of the app. The guard asks it about every request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import time
from collections.abc import Collection
from math import ceil
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope

from core.openai_errors import ApiError
from core.text import Text
from ui import keys, sign_in_page
from ui.attempts import Attempts
from ui.reader import choose_language

SIGN_IN = "/sign-in"
HEADER = "x-onecard-sign-in"
_COOKIE_SECONDS = 30 * 86400
_TICKET_SECONDS = 120.0
_MOST_FORM_BYTES = 8192

_WRONG_KEY = Text(
    zh=f"缺少 API 密钥或密钥不对。请在 Authorization: Bearer 里带上 {keys.KEYS} 中的一个。",
    en=f"The API key is missing or wrong. Send one of those in {keys.KEYS} as Authorization: Bearer ...",
)
_WRONG_TOKEN = Text(
    zh="缺少令牌或令牌不对。请在 Authorization: Bearer 里带上启动时打印的链接中 ?token= 后面的令牌；"
    f"想给程序固定的密钥，请设置 {keys.KEYS} 再启动。",
    en="The token is missing or wrong. Send what follows ?token= in the link that was printed at start as "
    f"Authorization: Bearer ...; or set {keys.KEYS} and start again, to give programs keys of their own.",
)
_API_OFF = Text(
    zh=f"页面有密码，而 API 没有密钥，所以 API 是关着的。请设置环境变量 {keys.KEYS} 再启动。",
    en=f"The page has a password and the API has no key, so the API is off. Set {keys.KEYS} and start again.",
)


class Entrance:
    """Lets in who brings the token, the password, a key (API only) or the cookie. Without any of these: everybody."""

    def __init__(self, password: str = "", token: str = "", api_keys: Collection[str] = ()) -> None:
        self.password, self.token = password, token
        self.attempts = Attempts()
        self._api_keys = tuple(api_keys)
        self._words = tuple(word for word in (token, password) if word)
        self._tickets: dict[str, float] = {}
        # The same after a restart with the same words; slow to make, so that a cookie's thief cannot try passwords on it.
        packed = "\0".join((token, password)).encode("utf-8", "surrogateescape")
        self._pass = hashlib.scrypt(packed, salt=b"onecard access", n=2**14, r=8, p=1).hex() if self._words else ""

    @property
    def is_open(self) -> bool:
        """Whether the pages ask for nothing."""
        return not self._words

    def ticket(self) -> str:
        """A token that opens the pages once, within two minutes: for an address that others may see in passing."""
        made = keys.new_token()
        self._tickets[made] = time.monotonic() + _TICKET_SECONDS
        return made

    # The API

    def programs(self, scope: Scope) -> Response | None:
        """The answer to a program that may not ask, None for one that may."""
        kind = keys.access(self._api_keys, self.password, self.token)
        if kind == "open":
            return None
        authorization = Headers(scope=scope).get("authorization", "")
        missing = ApiError(
            {"key": _WRONG_KEY, "token": _WRONG_TOKEN, "off": _API_OFF}[kind], 401, code="invalid_api_key"
        )
        if authorization and kind != "off" and not _is_embedded(scope):
            if seconds := self._wait(scope):
                late = ApiError(sign_in_page.said("token", "later", seconds)[0], 429, code="rate_limit_exceeded")
                return JSONResponse(late.body(), 429, {"retry-after": str(seconds)})
            if keys.knows(self._api_keys or (self.token,), authorization):
                return None
            self.attempts.wrong(_address(scope), authorization)
        return JSONResponse(missing.body(), missing.status, {"www-authenticate": "Bearer"})

    # The pages

    def people(self, scope: Scope) -> Response | None:
        """The answer to a request for a page or a file that may not pass, or that a token rides on; None to let it pass."""
        if self.is_open:
            return None
        request = HTTPConnection(scope)
        asked = _token_of(scope)
        if self.has_cookie(request):
            return None if asked is None else RedirectResponse(_following(scope), 303)
        word = asked if asked is not None else _authorized(request.headers.get("authorization", ""))
        if word is None or _is_embedded(scope):
            return self._ask(request, "again" if self._cookie_name(request) in request.cookies else "first")
        if seconds := self._wait(scope):
            return self._ask(request, "later", seconds)
        if asked is not None and self._takes_ticket(asked):
            return self._welcome(request, _following(scope))
        if not self._fits(word):
            self.attempts.wrong(_address(scope), word)
            return self._ask(request, "wrong")
        return self._welcome(request, _following(scope)) if asked is not None else None

    async def sign_in(self, scope: Scope, receive: Receive) -> Response:
        """The form of the sign-in page, or the address that goes on to `next` when there is nothing to ask."""
        request = Request(scope, receive)
        if request.method != "POST":
            following = local(request.query_params.get("next", ""))
            if self.is_open or self.has_cookie(request):
                return RedirectResponse(following, 303)
            stale = self._cookie_name(request) in request.cookies
            return self._ask(request, "again" if stale else "first", following=following)
        form = await _form(request)
        following, word = local(form.get("next", "")), form.get("word", "").strip()
        if link := re.search(r"[?&]token=([^&#\s]+)", word):  # the whole link was pasted
            word = link[1]
        if self.is_open:
            return self._welcome(request, following)
        if seconds := self._wait(scope):
            return self._ask(request, "later", seconds, following)
        if not self._fits(word):
            self.attempts.wrong(_address(scope), word)
            return self._ask(request, "wrong", following=following)
        return self._welcome(request, following)

    def has_cookie(self, request: HTTPConnection) -> bool:
        """Whether the request brings the cookie of somebody who signed in."""
        brought = request.cookies.get(self._cookie_name(request), "")
        return bool(self._pass) and secrets.compare_digest(brought.encode("utf-8", "replace"), self._pass.encode())

    def _cookie_name(self, request: HTTPConnection) -> str:
        """One for each port: cookies are shared by all ports of a host, and two of us may run on one machine."""
        port = re.search(r":(\d{1,5})$", request.headers.get("host", ""))
        return f"onecard_access_{port[1] if port else 'http'}"

    def _welcome(self, request: HTTPConnection, following: str) -> Response:
        """Hand out the cookie and go on to the same place without the token."""
        script = not _wants_html(request) and request.scope.get("method") == "POST"
        if script:
            answer = Response(status_code=204)
        elif request.headers.get("sec-fetch-site") == "cross-site":
            answer = HTMLResponse(sign_in_page.bounce(quote(following, safe="/")))
        else:
            answer = RedirectResponse(following, 303)
        if self._pass:
            answer.set_cookie(
                self._cookie_name(request), self._pass, max_age=_COOKIE_SECONDS, path="/", httponly=True,
                samesite="strict", secure=request.scope.get("scheme") == "https",
            )  # fmt: skip
        return _kept_by_nobody(answer)

    def _ask(
        self, request: HTTPConnection, why: sign_in_page.Why, seconds: int = 0, following: str | None = None
    ) -> Response:
        """The sign-in page for a browser, its sentences for anybody else."""
        kind: sign_in_page.Kind = "either" if self.token and self.password else ("token" if self.token else "password")
        headers = {HEADER: kind} | ({"retry-after": str(seconds)} if why == "later" else {})
        status = 429 if why == "later" else 401
        if not _wants_html(request):
            if self.password:
                headers["www-authenticate"] = 'Basic realm="OneCard"'
            texts = sign_in_page.said(kind, why, seconds)
            plain = "\n".join([*(text.zh for text in texts), *(text.en for text in texts), ""])
            return _kept_by_nobody(PlainTextResponse(plain, status, headers))
        following = _following(request.scope) if following is None else following
        if why == "first" and request.headers.get("sec-fetch-site") == "cross-site":
            return _kept_by_nobody(HTMLResponse(sign_in_page.bounce(quote(following, safe="/"))))
        page = sign_in_page.draw(kind, why, following, choose_language(request), seconds)
        return _kept_by_nobody(HTMLResponse(page, status, headers))

    def _fits(self, word: str) -> bool:
        given = word.encode("utf-8", "surrogateescape")
        # Not `any` over a generator: that would stop at the one that fits.
        found = [secrets.compare_digest(given, known.encode("utf-8", "surrogateescape")) for known in self._words]
        return any(found)

    def _takes_ticket(self, word: str) -> bool:
        """Whether a word is a ticket in time; it is none any more then."""
        for known in list(self._tickets):
            if secrets.compare_digest(word.encode("utf-8", "replace"), known.encode()):
                return self._tickets.pop(known) >= time.monotonic()
        return False

    def _wait(self, scope: Scope) -> int:
        return ceil(self.attempts.wait(_address(scope)))


def local(following: str) -> str:
    """`following` if it is a place on this server, else its start: nobody is sent elsewhere from here."""
    return following if re.fullmatch(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*", following) else "/"


def _following(scope: Scope) -> str:
    """The path and query of a request, without a token."""
    path = quote(scope.get("path", "/"), safe="/%:@!$&'()*+,;=~-._")
    query = scope.get("query_string", b"").decode("latin-1")
    rest = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != "token"]
    return local(path + (f"?{urlencode(rest)}" if rest else ""))


def _token_of(scope: Scope) -> str | None:
    """The token in the address of a page; None if there is none."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    return query["token"][0].strip() if "token" in query else None


def _is_embedded(scope: Scope) -> bool:
    """Whether another site's page makes a browser ask this, in an image, a frame or ahead of time: nobody follows a link.

    The words of such a request are not looked at: it could lock out the owner, from whose machine it comes.
    """
    headers = Headers(scope=scope)
    asked = headers.get("sec-fetch-mode", ""), headers.get("sec-fetch-dest", ""), headers.get("sec-purpose", "")
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and asked != ("navigate", "document", "")


def _authorized(authorization: str) -> str | None:
    """The password of Basic or the token of Bearer; None if there is neither."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2].decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return ""


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small urlencoded form; none of anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        return {}
    taken = bytearray()
    try:
        async for part in request.stream():
            taken += part
            if len(taken) > _MOST_FORM_BYTES:
                return {}
        fields = parse_qs(taken.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=8)
    except (ClientDisconnect, ValueError):  # nobody reads the answer; more fields than a form of ours has
        return {}
    return {name: values[0] for name, values in fields.items()}


def _wants_html(request: HTTPConnection) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _kept_by_nobody(answer: Response) -> Response:
    """Not to be stored: it is about one person at one time."""
    answer.headers["cache-control"] = "no-store"
    return answer

"""Which language the reader of a page has: what was chosen before, else what the browser asks for."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from core.text import LANGUAGES, Language

COOKIE = "onecard_language"


def choose_language(request: HTTPConnection) -> Language:
    """The language of the cookie, else the first of Accept-Language that there is, else Chinese."""
    wanted = [request.cookies.get(COOKIE, "")]
    for part in request.headers.get("accept-language", "").split(","):
        wanted.append(part.partition(";")[0].strip().lower().partition("-")[0])
    return next((known for word in wanted for known in LANGUAGES if word == known), "zh")

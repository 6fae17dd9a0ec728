"""Text without secrets: what a log, an error and a file to send may say. Knows no log, no page and no file."""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from urllib.parse import quote, quote_plus

HIDDEN = "[redacted]"

_SECRET = {"TOKEN", "KEY", "KEYS", "APIKEY", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIALS"}
# HF_TOKEN_PATH, AWS_ACCESS_KEY_ID: these say where a secret is or what it is called, not what it is.
_NOT_SECRET = {"PATH", "FILE", "DIR", "ID", "URL", "NAME", "SOCK"}
_SWITCHES = {"true", "false", "none", "null"}
# A shorter value is no secret, and every "1" of a log would go with it.
_SHORTEST = 4
# A value under this length is looked for as a whole word only: "test" is not hidden inside "tests".
_WORD = 8

# What is a secret by its own look, whoever it belongs to; `keep` is what stays in front of it.
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<keep>://)[^/\s:@'\"]*:[^/\s@'\"]+(?=@)",
        r"(?P<keep>[?&](?:token|key|api_key|apikey|access_token|password|secret|signature|x-amz-signature)=)[^&#\s'\"<>]+",
        r"(?P<keep>\bauthorization\b\W{1,8}(?:b['\"])?(?:bearer|basic|token)\s+)[^\s'\",;]+",
        r"(?P<keep>\bbearer\s+)[\w.~+/=-]{16,}",
        r"(?P<keep>\bonecard_access\w*=)[^;\s'\"]+",
        r"(?P<keep>\b)oc_[0-9a-f]{32}\b",
        r"(?P<keep>\b)(?:hf|api_org)_[a-z0-9]{16,}",
        r"(?P<keep>\b)ms-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b",
        r"(?P<keep>\b)sk-[a-z0-9_-]{16,}",
        r"(?P<keep>\b)(?:gh[pousr]_|github_pat_|glpat-)[a-z0-9_-]{16,}",
        r"(?P<keep>\b)AKIA[0-9A-Z]{16}\b",
        r"(?P<keep>\b)eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+",
        r"(?P<keep>-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(?=-----END|\Z)",
    )
)


def redact(text: str, also: Collection[str] = (), environment: Mapping[str, str] | None = None) -> str:
    """`text` with every secret replaced by [redacted].

    Hidden are the values of variables of the environment (of this process, unless given) whose names say that they are
    secret, those in `also`, each also as it reads in an address, in JSON, in HTML and in base64, and what has the look
    of a token: hubs' and OneCard's own, bearer tokens, passwords in addresses, private keys.
    """
    found = _values(os.environ if environment is None else environment, also)
    if found:
        text = _finder(found).sub(HIDDEN, text)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<keep>{HIDDEN}", text)
    return text


class RedactingFormatter(logging.Formatter):
    """A formatter's lines, tracebacks among them, without secrets. Without an `inner` one: time, level, name, message."""

    def __init__(self, inner: logging.Formatter | None = None, also: Collection[str] = ()) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._also = tuple(also)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return redact(self._inner.format(record), self._also)


def hide_in_logs(also: Collection[str] = (), *names: str) -> None:
    """Let every handler of the root logger and of the loggers `names` write without secrets. Harmless when repeated."""
    for name in ("", *names):
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler.formatter, RedactingFormatter):
                handler.setFormatter(RedactingFormatter(handler.formatter, also))


def _values(environment: Mapping[str, str], also: Collection[str]) -> tuple[str, ...]:
    """The secret values, each once; a list of keys counts as its keys."""
    given = [value for name, value in environment.items() if _is_secret(name)] + list(also)
    parts = (part.strip() for value in given for part in (value, *value.split(",")))
    return tuple(sorted({part for part in parts if len(part) >= _SHORTEST and part.lower() not in _SWITCHES}))


def _is_secret(name: str) -> bool:
    words = name.upper().split("_")
    return bool(_SECRET & set(words)) and words[-1] not in _NOT_SECRET


@lru_cache(maxsize=8)
def _finder(values: tuple[str, ...]) -> re.Pattern[str]:
    spellings = {spelled: len(value) < _WORD for value in values for spelled in _spellings(value)}
    # The longest first: a secret may begin like another.
    ordered = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(rf"(?<!\w){re.escape(s)}(?!\w)" if spellings[s] else re.escape(s) for s in ordered))


def _spellings(value: str) -> set[str]:
    """A value as it reads in plain text, addresses, JSON, Python, HTML and base64."""
    return {
        value,
        quote(value, errors="surrogateescape"),
        quote(value, safe="", errors="surrogateescape"),
        quote_plus(value, errors="surrogateescape"),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        html.escape(value),
        base64.b64encode(value.encode("utf-8", "surrogateescape")).decode(),
    }

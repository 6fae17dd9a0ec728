"""What opens the page and the API: the token, the password and the keys of the environment. Knows no request."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.text import Text

KEYS = "ONECARD_API_KEY"
PASSWORD = "ONECARD_PASSWORD"
TOKEN = "ONECARD_TOKEN"

Access = Literal["open", "key", "token", "off"]


def from_environment() -> tuple[str, ...]:
    """The keys in $ONECARD_API_KEY, which commas separate."""
    return _usable(os.environ.get(KEYS, "").split(","), f"${KEYS}")


def from_file(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line. Raises UserError if it cannot be read or holds none."""
    try:
        keys = _usable(path.expanduser().read_text("utf-8").splitlines(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "UTF-8"
        raise UserError(
            Text(
                zh=f"密钥文件 {path} 读不出来（{reason}）。请检查路径和权限。",
                en=f"The key file {path} cannot be read ({reason}). Check its path and permissions.",
            )
        ) from None
    if not keys:
        raise UserError(
            Text(
                zh=f"密钥文件 {path} 里没有密钥。每行写一个。",
                en=f"The key file {path} holds no key. Write one a line.",
            )
        )
    return keys


def new_token() -> str:
    """A token nobody can guess: 128 bits at random, of a form by which logs can hide it."""
    return f"oc_{secrets.token_hex(16)}"


def is_drawn(token: str) -> bool:
    """Whether a token is one of `new_token`, which only the terminal knows, not one that a person has set."""
    return re.fullmatch(r"oc_[0-9a-f]{32}", token) is not None


def token_here(password: str) -> str:
    """The token of the environment ("" there means none); where it has none: a new one, unless there is a password."""
    given = os.environ.get(TOKEN)
    if given is None:
        return "" if password else new_token()
    if not given.strip():
        return ""
    return next(iter(_usable([given], f"${TOKEN}")))


def access(keys: Collection[str], password: str, token: str = "") -> Access:
    """Whether the API needs no key, a key, or the page's token, or is off.

    A page behind a password or a token has no open door beside it.
    """
    if keys:
        return "key"
    if token:
        return "token"
    return "off" if password else "open"


def access_here() -> Access:
    """`access` by the environment: a page that needs a password or a token has it there."""
    return access(from_environment(), os.environ.get(PASSWORD, ""), os.environ.get(TOKEN, "").strip())


def for_vllm() -> tuple[str, ...]:
    """What programs must bring to a vLLM that we start: the keys of the environment, else its token, else a new one."""
    token = os.environ.get(TOKEN, "").strip()
    return from_environment() or (_usable([token], f"${TOKEN}") if token else (new_token(),))


def variable_of(key: str) -> str:
    """The variable of the environment that holds this key; "" for one that was made here."""
    held = {KEYS: from_environment(), TOKEN: (os.environ.get(TOKEN, "").strip(),)}
    return next((name for name, words in held.items() if key in words), "")


def variable(access: Access) -> str:
    """The variable that programs read what opens the API from; "" if it is open or off."""
    return {"key": KEYS, "token": TOKEN}.get(access, "")


def knows(keys: Collection[str], authorization: str) -> bool:
    """Whether the header brings one of the keys. Every key is compared, each in constant time."""
    kind, _, given = authorization.partition(" ")
    # Not `any` over a generator: that would stop at the key that fits.
    found = [secrets.compare_digest(given.strip().encode(), key.encode()) for key in keys]
    return kind.lower() == "bearer" and any(found)


def _usable(given: Collection[str], where: str) -> tuple[str, ...]:
    keys = tuple(dict.fromkeys(key.strip() for key in given if key.strip()))
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UserError(
            Text(
                zh=f"{where} 里只能用 ASCII 字母、数字和符号，不能有空格：HTTP 头里只能放这些。",
                en=f"{where} may hold ASCII letters, digits and signs only, and no spaces: an HTTP header takes no more.",
            )
        )
    return keys

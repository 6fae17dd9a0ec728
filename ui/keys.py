"""Who may use the API: the keys of the environment and of a file. Knows no request and no page."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.text import Text

KEYS = "ONECARD_API_KEY"
PASSWORD = "ONECARD_PASSWORD"

Access = Literal["open", "key", "off"]


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


def access(keys: Collection[str], password: str) -> Access:
    """Whether the API needs no key, needs one, or is off: a page behind a password has no open door beside it."""
    if keys:
        return "key"
    return "off" if password else "open"


def access_here() -> Access:
    """`access` by the environment: a page that other machines can reach always has its password there."""
    return access(from_environment(), os.environ.get(PASSWORD, ""))


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
                zh=f"{where} 里的密钥只能用 ASCII 字母、数字和符号，不能有空格：HTTP 头里只能放这些。",
                en=f"Keys in {where} may hold ASCII letters, digits and signs only, and no spaces: an HTTP header takes no more.",
            )
        )
    return keys

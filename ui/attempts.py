"""How often an address may be wrong: a handful of guesses at once, then one every few seconds. Knows no password."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

GUESSES = 10
SECONDS_EACH = 6.0
_MOST_ADDRESSES = 1024
_MOST_WORDS = 64


@dataclass
class _Address:
    left: float = GUESSES
    seen: float = 0.0
    wrong: set[bytes] = field(default_factory=set)


class Attempts:
    """Wrong tokens, passwords and keys by the address that sent them; at most 1,024 addresses are remembered.

    Only different words count: a program with an old key asks with the same one again and again and guesses nothing, and
    must not shut out whoever else is on its machine.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        # What was tried may be somebody's password for something else: it is never kept as it is.
        self._salt = secrets.token_bytes(16)

    def wait(self, address: str) -> float:
        """Seconds until a word from this address is looked at again; 0 if it is now."""
        with self._lock:
            left = self._refilled(address).left
            return 0.0 if left >= 1 else (1 - left) * SECONDS_EACH

    def wrong(self, address: str, word: str) -> None:
        """Count a word that was wrong."""
        mark = hashlib.blake2b(word.encode("utf-8", "surrogateescape"), key=self._salt, digest_size=16).digest()
        with self._lock:
            found = self._refilled(address)
            if mark in found.wrong:
                return
            found.left = max(0.0, found.left - 1)
            found.wrong.add(mark)

    def _refilled(self, address: str) -> _Address:
        name, now = _group(address), self._clock()
        found = self._addresses.pop(name, None) or _Address(seen=now)
        found.left = min(float(GUESSES), found.left + (now - found.seen) / SECONDS_EACH)
        found.seen = now
        if found.left >= GUESSES or len(found.wrong) > _MOST_WORDS:
            found.wrong.clear()
        self._addresses[name] = found
        if len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        return found


def _group(address: str) -> str:
    """An IPv6 address counts as its network: one machine has as many of these as it likes."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)

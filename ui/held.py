"""The tables that open pages hold, by their content, so that a page needs to send only the rows it changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from operator import is_

from core.dataset import Row

_DIGEST = 16  # bytes for each row: no two different rows of one home ever meet
_MOST_TABLES, _MOST_ROWS = 16, 200_000


class Held:
    """Rows by their token, the hash of what they say. One that was forgotten is looked for in the stored datasets.

    A token is quick for a table that shares its rows with the one before: an edit of 50,000 rows hashes one.
    """

    def __init__(self, stored: Callable[[str], Sequence[Row] | None] = lambda _name: None) -> None:
        self._stored = stored
        self._lock = threading.Lock()
        self._tables: dict[str, tuple[Row, ...]] = {}
        self._last: tuple[Row, ...] = ()
        self._last_digests, self._last_token = b"", ""

    def token(self, rows: Sequence[Row]) -> str:
        """What stands for these rows: the same for the same rows, in another process too."""
        kept = tuple(rows)
        with self._lock:
            last, known, token = self._last, self._last_digests, self._last_token
        head = _common(kept, last)
        if token and head == len(kept) == len(last):
            return token
        tail = _common(kept[: head - 1 if head else None : -1], last[: head - 1 if head else None : -1])
        between = _digests(kept[head : len(kept) - tail], last[head : len(last) - tail], known[_DIGEST * head :])
        digests = known[: _DIGEST * head] + between + known[len(known) - _DIGEST * tail :]
        token = blake2b(digests, digest_size=_DIGEST).hexdigest()
        with self._lock:
            self._last, self._last_digests, self._last_token = kept, digests, token
        return token

    def hold(self, rows: Sequence[Row]) -> str:
        """Remember what a page holds; its token."""
        kept = tuple(rows)
        token = self.token(kept)
        with self._lock:
            self._tables.pop(token, None)
            self._tables[token] = kept
            while len(self._tables) > _MOST_TABLES or (len(self._tables) > 1 and self._size() > _MOST_ROWS):
                del self._tables[next(iter(self._tables))]
        return token

    def rows(self, token: str, dataset: str) -> tuple[Row, ...] | None:
        """The rows of a token that a page sent with the name of its dataset, or None if nobody knows them any more."""
        with self._lock:
            kept = self._tables.get(token)
        if kept is not None:
            return kept
        stored = self._stored(dataset)
        return tuple(stored) if stored is not None and self.token(stored) == token else None

    def forget(self) -> None:
        """Know no table any more, as after a restart."""
        with self._lock:
            self._tables.clear()

    def _size(self) -> int:
        return sum(map(len, self._tables.values()))


def rebuilt(rows: Sequence[Row], runs: Iterable[object]) -> list[object] | None:
    """The table that a page made of `rows`: a run [first, count] of them, or a new row as the page wrote it, each.

    None for runs of another shape, or that ask for rows which are not there.
    """
    made: list[object] = []
    for run in runs:
        if isinstance(run, dict):
            made.append(run)
            continue
        if not (isinstance(run, list) and len(run) == 2 and all(type(number) is int for number in run)):
            return None
        first, count = run
        if not (first >= 0 and count >= 0 and first + count <= len(rows)):
            return None
        made.extend(rows[first : first + count])
    return made


def _common(one: tuple[Row, ...], other: tuple[Row, ...]) -> int:
    """How many rows they begin with that are the very same."""
    same = list(map(is_, one, other))
    return same.index(False) if False in same else len(same)


def _digests(rows: Sequence[Row], last: Sequence[Row], known: bytes) -> bytes:
    """The digests of `rows` in one piece; those of `last` are the first in `known`."""
    place = {id(row): _DIGEST * i for i, row in enumerate(last)}
    return b"".join(known[at : at + _DIGEST] if (at := place.get(id(row), -1)) >= 0 else _digest(row) for row in rows)


def _digest(row: Row) -> bytes:
    told = repr((row, row.provenance)).encode("utf-8", "surrogatepass")
    return blake2b(told, digest_size=_DIGEST).digest()

"""What answering keeps in memory, by rows and length: for the slots that take it, and for the estimate. Imports no torch."""

from __future__ import annotations

import bisect

from core.fused.sizes import Shape

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Rows a decoding step is captured for; a batch between two takes the larger. Above, multiples of the last."""

LENGTH = 256
"""Positions a row's keys and values have room for at first; room doubles as the row grows."""

AT_ONCE = 1024
"""Tokens of prompts in one pass: 150 kB each of a 7B."""

_LEAST_RANKS = 16
_WORK_ROWS = 16


def rows_bucket(rows: int) -> int:
    """The rows a step for `rows` rows is run with."""
    if rows > ROWS[-1]:
        return -(-rows // ROWS[-1]) * ROWS[-1]
    return ROWS[bisect.bisect_left(ROWS, rows)]


def length_bucket(length: int, most: int) -> int:
    """Positions to make room for, for a row of `length` that may come to `most`."""
    room = LENGTH
    while room < length:
        room *= 2
    return max(length, min(room, -(-most // 64) * 64))


def rank_bucket(ranks: int) -> int:
    """Columns of the stacked adapters that hold `ranks`, each adapter's rounded up to eights."""
    room = _LEAST_RANKS
    while room < ranks:
        room *= 2
    return room


def cache_bytes(shape: Shape, rows: int, length: int, width: int = 2) -> int:
    """Bytes of the keys and values of `rows` rows that come to `length` positions each. `width`: bytes of the base's type."""
    return rows * length_bucket(length, length) * shape.layers * 2 * shape.kv_heads * shape.head_dim * width


def bank_bytes(shape: Shape, ranks: int, width: int = 2) -> int:
    """Bytes of the stacked adapters whose ranks come to `ranks`."""
    columns = 3 * shape.hidden + shape.query + 2 * shape.hidden + shape.mlp  # A: q, k, v; o; gate, up; down
    rows = shape.qkv + 2 * shape.hidden + 2 * shape.mlp
    return shape.layers * rank_bucket(ranks) * (columns + rows) * width


def answer_bytes(shape: Shape, rows: int, length: int, ranks: int, width: int = 2) -> int:
    """Bytes that answering takes on a card for `rows` rows of `length` positions: cache, adapters, logits, work, graphs."""
    logits = 2 * rows_bucket(rows) * shape.vocabulary * 4
    work = max(rows_bucket(rows), _WORK_ROWS) * 16 * (shape.mlp + shape.qkv + 4 * shape.hidden)
    reading = min(rows * length, AT_ONCE) * (4 * shape.mlp + 2 * shape.qkv + 4 * shape.hidden) * width
    graphs = 64_000_000
    return cache_bytes(shape, rows, length, width) + bank_bytes(shape, ranks, width) + logits + work + reading + graphs

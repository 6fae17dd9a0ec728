"""Rows that say nearly the same: MinHash to find candidates, then the share of three-letter pieces they have in common.

Broder, On the resemblance and containment of documents (1997). Two rows are near if both their questions and their
answers are, and if the same numbers stand in them: 3 + 4 and 3 + 5 are different sums.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

NEAR = 0.8  # Jaccard similarity of the pieces, for the question and for the answer
_BANDS, _DEPTH = 6, 3  # found with 0.98 at 0.8 and 0.997 at 0.85 (1 - (1 - s^3)^6)
_NEIGHBOURS = 4  # of each row in its bucket, by the answer's length: a bucket of 50,000 stays linear
_MOST_HASHED, _MOST_COMPARED = 4_000, 20_000  # characters
_BATCH = 2_000_000  # characters hashed at once: 8 MB a plane
_NUMBER = re.compile(r"\d+")
_DROPPED = re.compile(r"[\W_]+")
_PIECE = 3


def normal(text: str) -> str:
    """A text without case, width, punctuation and spaces."""
    return _DROPPED.sub("", unicodedata.normalize("NFKC", text).casefold())


def signatures(texts: Sequence[str]) -> list[bytes]:
    """A MinHash of each normal text: little-endian uint32 (18,), so that equal places tell how alike two texts are."""
    found: list[bytes] = []
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text[:_MOST_HASHED])
        size += len(batch[-1])
        if size > _BATCH:
            found += _signed(batch)
            batch, size = [], 0
    return found + _signed(batch) if batch else found


def groups(
    rows: Sequence[int],
    sketches: Sequence[bytes],
    marks: Sequence[int],
    lengths: Sequence[int],
    alike: Callable[[int, int], bool],
) -> list[tuple[int, ...]]:
    """Groups of `rows`, each in order, that say nearly the same. The other sequences are as long as `rows`.

    `sketches`: of the questions; `marks`: only rows with equal ones are compared; `lengths`: of the answers, in
    characters; `alike` says of two places whether they really are near.
    """
    if len(rows) < 2:
        return []
    parent = list(range(len(rows)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for a, b in _candidates(sketches, marks, lengths):
        first, second = root(a), root(b)
        if first != second and alike(a, b):
            parent[max(first, second)] = min(first, second)
    together: dict[int, list[int]] = {}
    for place in range(len(rows)):
        together.setdefault(root(place), []).append(rows[place])
    return [tuple(sorted(group)) for group in together.values() if len(group) > 1]


def similar(a: str, b: str) -> bool:
    """Whether two normal texts are near."""
    if a == b:
        return True
    a, b = a[:_MOST_COMPARED], b[:_MOST_COMPARED]
    if min(len(a), len(b)) < NEAR * max(len(a), len(b)):
        return False
    ours, theirs = pieces(a), pieces(b)
    common = len(ours & theirs)
    return common >= NEAR * (len(ours) + len(theirs) - common)


def pieces(text: str) -> set[str]:
    """Every three letters in a row, with the text's two ends."""
    text = f"\x02{text}\x03"
    return {text[i : i + _PIECE] for i in range(len(text) - _PIECE + 1)} or {text}


def numbers(text: str) -> tuple[str, ...]:
    """The numbers in a text, in order."""
    return tuple(_NUMBER.findall(text))


def _signed(texts: Sequence[str]) -> list[bytes]:
    import numpy

    ends = [f"\x02{text}\x03" if text else "\x02\x02\x03" for text in texts]
    points = numpy.frombuffer("".join(ends).encode("utf-32-le", "surrogatepass"), dtype=numpy.uint32)
    lengths = numpy.array([len(text) for text in ends])
    starts = numpy.concatenate(([0], numpy.cumsum(lengths)[:-1]))
    pieces = points[:-2] * numpy.uint32(0x9E3779B1) ^ points[1:-1] * numpy.uint32(0x85EBCA77)
    pieces ^= points[2:] * numpy.uint32(0xC2B2AE3D)
    pieces ^= pieces >> numpy.uint32(15)
    pieces *= numpy.uint32(0x2C1B3C6D)
    pieces ^= pieces >> numpy.uint32(12)
    pieces = numpy.concatenate((pieces, numpy.zeros(2, numpy.uint32)))
    # The pieces that reach into the next text are in no text.
    outside = numpy.concatenate((starts[1:], [len(points)]))[:, None] - numpy.array([1, 2])
    generator = numpy.random.default_rng(7)
    odd = generator.integers(0, 2**31, _BANDS * _DEPTH, dtype=numpy.uint32) * numpy.uint32(2) + numpy.uint32(1)
    shift = generator.integers(0, 2**32, _BANDS * _DEPTH, dtype=numpy.uint32)
    found = numpy.empty((len(texts), len(odd)), dtype=numpy.uint32)
    for place, (factor, added) in enumerate(zip(odd, shift, strict=True)):
        hashed = pieces * factor + added
        hashed ^= hashed >> numpy.uint32(16)
        hashed[outside.ravel()] = numpy.uint32(2**32 - 1)
        found[:, place] = numpy.minimum.reduceat(hashed, starts)
    return [row.tobytes() for row in found]


def _candidates(sketches: Sequence[bytes], marks: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of places (a < b) whose questions are probably near, each once, in order."""
    import numpy

    table = numpy.frombuffer(b"".join(sketches), dtype=numpy.uint32).reshape(len(sketches), _BANDS * _DEPTH)
    kinds = numpy.array(marks, dtype=numpy.int64).astype(numpy.uint64)
    sizes = numpy.array(lengths)
    pairs = []
    for band in range(_BANDS):
        columns = table[:, band * _DEPTH : (band + 1) * _DEPTH].astype(numpy.uint64)
        keys = kinds * numpy.uint64(0x9E3779B97F4A7C15)
        for column in columns.T:
            keys = (keys ^ column) * numpy.uint64(0xD6E8FEB86659FD93)
            keys ^= keys >> numpy.uint64(32)
        order = numpy.lexsort((sizes, keys))
        sorted_keys = keys[order]
        for step in range(1, _NEIGHBOURS + 1):
            same = numpy.flatnonzero(sorted_keys[step:] == sorted_keys[:-step])
            ours, theirs = order[same], order[same + step]
            pairs.append(numpy.minimum(ours, theirs) * len(sketches) + numpy.maximum(ours, theirs))
    unique = numpy.unique(numpy.concatenate(pairs))
    first, second = unique // len(sketches), unique % len(sketches)
    ratio = numpy.minimum(sizes[first], sizes[second]) >= NEAR * numpy.maximum(sizes[first], sizes[second])
    agree = (table[first] == table[second]).mean(axis=1) >= 0.5
    kept = (kinds[first] == kinds[second]) & ratio & agree
    return list(zip(first[kept].tolist(), second[kept].tolist(), strict=True))

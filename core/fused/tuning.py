"""The shapes in which the products of a decoding step are cut, as measured (tests/bench/engine.py --kernels). Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """How a product of few rows is cut: weight rows and columns a program works on at one time, warps, stages.

    each: programs aimed at for every multiprocessor; where the weight has fewer tiles, its columns are split.
    """

    rows: int
    inner: int
    warps: int
    stages: int
    each: float

    def split(self, width: int, inner: int, processors: int) -> int:
        """Into how many parts the columns of a (width, inner) weight are split; each is at least two steps."""
        tiles = -(-width // self.rows)
        steps = -(-inner // self.inner)
        split = max(1, min(round(self.each * processors / tiles), steps // 2, 16))
        share = -(-steps // split)
        return -(-steps // share)  # no part is empty


# One H200, Qwen2.5-7B's shapes: q/k/v (4608, 3584), output (3584, 3584), gate/up (37888, 3584), down (3584, 18944).
# Microseconds for two rows: 11.7, 10.7, 67.6, 37.0 (cuBLAS: 11.4, 11.6, 72.3, 39.5; at 4.2 TB/s: 7.9, 6.1, 64.7, 32.3).
DENSE = {
    "qkv": Tile(rows=32, inner=256, warps=4, stages=4, each=6),
    "out": Tile(rows=32, inner=256, warps=4, stages=4, each=6),
    "gate_up": Tile(rows=32, inner=256, warps=4, stages=4, each=3),
    "down": Tile(rows=32, inner=256, warps=4, stages=4, each=6),
    "head": Tile(rows=32, inner=256, warps=4, stages=3, each=3),
}
# The same: 17.8, 14.4, 134, 62.6.
NF4 = {
    "qkv": Tile(rows=64, inner=128, warps=4, stages=1, each=6),
    "out": Tile(rows=64, inner=128, warps=4, stages=1, each=6),
    "gate_up": Tile(rows=64, inner=128, warps=4, stages=1, each=3),
    "down": Tile(rows=64, inner=128, warps=4, stages=1, each=6),
}
DENSE_ROWS, NF4_ROWS = 16, 64
"""Most rows of a step that go through these products; more go through the library's."""
ATTENTION_SPLITS, ATTENTION_BLOCK = 32, 32
"""Into how many parts what a row keeps is split, and the positions worked on at one time."""
GATE_BLOCK = 256
"""Columns of the MLP a program of the gate works on."""

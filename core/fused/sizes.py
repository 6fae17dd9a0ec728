"""Every buffer of a fused pass with its shape: what the arena carves and what the estimate adds up. Imports no torch."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass

HEAD_NORM = ("qwen3",)
"""config.model_type of those of FAMILIES that norm each head of q and k before RoPE."""

FAMILIES = ("qwen2", "llama", "mistral", *HEAD_NORM)
"""config.model_type of decoders built of: RMSNorm, q/k/v (bias or not), RoPE over whole heads, o, RMSNorm, SwiGLU."""

PAD = 32
"""Spare columns and rows beside each base weight: room for the adapter's B and A, so that one product does both."""

_ALIGN = 256


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes. `mlp` is the width between gate/up and down; head_norm: heads of q and k are normed."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    layers: int
    vocabulary: int
    head_norm: bool = False

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def qkv(self) -> int:
        """Width of queries, keys and values side by side."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass(frozen=True)
class Ranks:
    """Summed LoRA ranks of the members of each group of layers that read the same input."""

    qkv: int
    out: int
    gate_up: int
    down: int


@dataclass(frozen=True)
class Depth:
    """How many layers give up activations after the forward pass: `whole` keep their input only, `mlp` all but gate/up.

    The cheapest to recompute go last: a layer without gate/up costs 29 % more time, a whole one 36 %.
    """

    whole: int = 0
    mlp: int = 0

    def kind(self, layer: int) -> str:
        """What layer `layer` does: "whole", "mlp" or "none"."""
        if layer < self.whole:
            return "whole"
        return "mlp" if layer < self.whole + self.mlp else "none"

    @classmethod
    def all(cls, layers: int) -> Depth:
        """The least memory: every layer keeps its input only."""
        return cls(whole=layers)

    def __bool__(self) -> bool:
        return self.whole + self.mlp > 0


@dataclass(frozen=True)
class Way:
    """How a training pass is run. True if anything is recomputed, which is all that the plain way asks.

    logit_rows: positions whose logits exist at one time; host_embeddings: the embedding matrix lies in host memory;
    room: bytes its buffers may take, 0 for what they take: `recompute` is what the largest pass needs for that, a
    smaller one gives up less.
    """

    recompute: Depth = Depth()
    logit_rows: int = 1024
    host_embeddings: bool = False
    room: int = 0

    def __bool__(self) -> bool:
        return bool(self.recompute)


@dataclass(frozen=True)
class Buffer:
    """A named array of a pass; `wide` ones hold the base's own type, the others float32 (float64 beside a float64 base)."""

    name: str
    dims: tuple[int, ...]
    wide: bool = True


def buffers(shape: Shape, ranks: Ranks, tokens: int, answers: int, depth: Depth, logit_rows: int) -> Iterator[Buffer]:
    """All buffers of one pass over `tokens` tokens with `answers` of them in the loss, in the order they are laid out."""
    for layer in range(shape.layers):
        kind = depth.kind(layer)
        yield Buffer(f"h.{layer}", (tokens, shape.hidden))
        yield Buffer(f"rstd1.{layer}", (tokens,), wide=False)
        yield Buffer(f"rstd2.{layer}", (tokens,), wide=False)
        yield Buffer(f"xd.{layer}", (tokens, ranks.down))
        if kind != "whole":
            yield from _attention(shape, ranks, tokens, str(layer))
        if kind == "none":
            yield from _mlp(shape, ranks, tokens, str(layer))
    if depth.whole:
        yield from _attention(shape, ranks, tokens, "again")
    if depth:
        yield from _mlp(shape, ranks, tokens, "again")
    yield from _passing(shape, ranks, tokens, answers, logit_rows)


def shallowest(
    shape: Shape, ranks: Ranks, tokens: int, answers: int, logit_rows: int, room: int, width: int = 2
) -> Depth | None:
    """The depth that gives up least in `room` bytes; None if even the least memory is more."""
    layers = shape.layers
    depths = [Depth(mlp=count) for count in range(layers)] + [
        Depth(count, layers - count) for count in range(layers + 1)
    ]

    def taken(index: int) -> int:
        return -arena_bytes(shape, ranks, tokens, answers, depths[index], logit_rows, width)

    # Memory falls from one to the next, but for the shared buffers that the first step makes room for.
    if -taken(0) <= room:
        return depths[0]
    found = bisect.bisect_left(range(1, len(depths)), -room, key=taken) + 1
    return depths[found] if found < len(depths) else None


def _attention(shape: Shape, ranks: Ranks, tokens: int, where: str) -> Iterator[Buffer]:
    yield Buffer(f"xq.{where}", (tokens, ranks.qkv))
    yield Buffer(f"qkv.{where}", (tokens, shape.qkv))
    yield Buffer(f"xo.{where}", (tokens, ranks.out))
    yield Buffer(f"o.{where}", (tokens, shape.query + PAD))
    yield Buffer(f"h2.{where}", (tokens, shape.hidden))


def _mlp(shape: Shape, ranks: Ranks, tokens: int, where: str) -> Iterator[Buffer]:
    yield Buffer(f"xg.{where}", (tokens, ranks.gate_up))
    yield Buffer(f"gu.{where}", (tokens, 2 * shape.mlp + PAD))


def _passing(shape: Shape, ranks: Ranks, tokens: int, answers: int, logit_rows: int) -> Iterator[Buffer]:
    """What no layer keeps. One row more where positions out of the loss are gathered from and scattered to."""
    rows = min(answers, logit_rows)
    yield Buffer("last", (tokens, shape.hidden))
    yield Buffer("rstd", (tokens,), wide=False)
    yield Buffer("n", (tokens + 1, shape.hidden + PAD))
    yield Buffer("y", (tokens + 1, shape.hidden + PAD))
    yield Buffer("act", (max(tokens * (shape.mlp + PAD), rows * shape.vocabulary),))
    yield Buffer("dqkv", (max(tokens * (shape.qkv + PAD), answers * shape.hidden),))
    if shape.head_norm:
        yield Buffer("turned", (tokens, shape.qkv - shape.kv_heads * shape.head_dim))
    yield Buffer("do", (max(tokens * shape.query, answers * shape.hidden),))
    yield Buffer("dh.0", (tokens, shape.hidden + PAD))
    yield Buffer("dh.1", (tokens, shape.hidden + PAD))
    yield Buffer("t", (tokens, max(ranks.qkv, ranks.out, ranks.gate_up, ranks.down)))
    yield Buffer("losses", (answers,), wide=False)


def place(buffer: Buffer, width: int) -> int:
    """Bytes the buffer takes in the arena, alignment included. `width`: bytes of the base's type."""
    size = math.prod(buffer.dims) * (width if buffer.wide else max(4, width))
    return -(-size // _ALIGN) * _ALIGN


def arena_bytes(
    shape: Shape, ranks: Ranks, tokens: int, answers: int, depth: Depth, logit_rows: int, width: int = 2
) -> int:
    """Bytes of one pass's arena."""
    return sum(place(item, width) for item in buffers(shape, ranks, tokens, answers, depth, logit_rows))

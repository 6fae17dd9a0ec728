"""Every buffer of a fused pass with its shape: what the arena carves and what the estimate adds up. Imports no torch."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

HEAD_NORM = ("qwen3",)
"""config.model_type of those of FAMILIES that norm each head of q and k before RoPE."""

FAMILIES = ("qwen2", "llama", "mistral", *HEAD_NORM)
"""config.model_type of decoders built of: RMSNorm, q/k/v (bias or not), RoPE over whole heads, o, RMSNorm, SwiGLU."""

PAD = 32
"""Spare columns and rows beside each base weight: room for the adapter's B and A, so that one product does both."""

INPUT_SLOTS = 2
"""Layers whose inputs lie on the device at a time, where they wait in host memory: the one at work and the next."""

_ALIGN = 256
# What a pass needs while no layer's gate/up is in use: before a layer's MLP, after it, and between forward and backward.
_WITHOUT_MLP = ("last", "dqkv", "turned", "do")


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

    The cheapest to recompute go last: a layer without gate/up costs 29 % more time, a whole one 36 %. `host_inputs`: the
    inputs of all layers wait in host memory (inputs.py).
    """

    whole: int = 0
    mlp: int = 0
    host_inputs: bool = False

    def kind(self, layer: int) -> str:
        """What layer `layer` does: "whole", "mlp" or "none"."""
        if layer < self.whole:
            return "whole"
        return "mlp" if layer < self.whole + self.mlp else "none"

    @classmethod
    def all(cls, layers: int, host_inputs: bool = False) -> Depth:
        """The least memory: every layer keeps its input only, here or on the host."""
        return cls(layers, 0, host_inputs)

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
    """A named array of a pass; `wide` ones hold the base's own type, the others float32 (float64 beside a float64 base).

    `inside`: the array, laid out before it, whose memory it shares, being needed at other times.
    """

    name: str
    dims: tuple[int, ...]
    wide: bool = True
    inside: str | None = None


def buffers(
    shape: Shape, ranks: Ranks, tokens: int, answers: int, depth: Depth, logit_rows: int, taught: int = 0
) -> Iterator[Buffer]:
    """All buffers of one pass over `tokens` tokens with `answers` of them in the loss, in the order they are laid out.

    `taught`: how many of those are held to a teacher.
    """
    for layer in range(shape.layers):
        if not depth.host_inputs or layer < INPUT_SLOTS:
            yield _input(shape, tokens, layer)
        yield from _kept(shape, ranks, tokens, layer, depth.kind(layer))
    yield from _once(shape, ranks, tokens, answers, depth, logit_rows, taught)


def shallowest(
    shape: Shape,
    ranks: Ranks,
    tokens: int,
    answers: int,
    logit_rows: int,
    room: int,
    width: int = 2,
    host_inputs: bool = False,
    taught: int = 0,
) -> Depth | None:
    """The depth that gives up least in `room` bytes; None if even the least memory is more.

    With `host_inputs` the layers' inputs are the first to go.
    """
    layers = shape.layers
    depths = [Depth(0, count, host_inputs) for count in range(layers)] + [
        Depth(count, layers - count, host_inputs) for count in range(layers + 1)
    ]
    if host_inputs:
        depths.insert(0, Depth())

    def taken(index: int) -> int:
        return -arena_bytes(shape, ranks, tokens, answers, depths[index], logit_rows, width, taught)

    # Memory falls from one to the next, but for the shared buffers that the first step makes room for.
    if -taken(0) <= room:
        return depths[0]
    found = bisect.bisect_left(range(1, len(depths)), -room, key=taken) + 1
    return depths[found] if found < len(depths) else None


def _input(shape: Shape, tokens: int, layer: int) -> Buffer:
    return Buffer(f"h.{layer}", (tokens, shape.hidden))


def _kept(shape: Shape, ranks: Ranks, tokens: int, layer: int, kind: str) -> Iterator[Buffer]:
    """What a layer keeps for its backward pass, beside its input."""
    yield Buffer(f"rstd1.{layer}", (tokens,), wide=False)
    yield Buffer(f"rstd2.{layer}", (tokens,), wide=False)
    yield Buffer(f"xd.{layer}", (tokens, ranks.down))
    if kind != "whole":
        yield from _attention(shape, ranks, tokens, str(layer))
    if kind == "none":
        yield from _mlp(shape, ranks, tokens, str(layer))


def _once(
    shape: Shape, ranks: Ranks, tokens: int, answers: int, depth: Depth, logit_rows: int, taught: int
) -> Iterator[Buffer]:
    """What is there once, whatever the number of layers."""
    if depth.whole:
        yield from _attention(shape, ranks, tokens, "again")
    if not depth:
        yield from _passing(shape, ranks, tokens, answers, logit_rows, taught)
        return
    yield from _mlp(shape, ranks, tokens, "again")
    left = math.prod(_mlp_products(shape, tokens))
    for item in _passing(shape, ranks, tokens, answers, logit_rows, taught):
        size = math.prod(item.dims) + _ALIGN
        inside = item.name in _WITHOUT_MLP and size <= left
        left -= size if inside else 0
        yield replace(item, inside="gu.again") if inside else item


def _attention(shape: Shape, ranks: Ranks, tokens: int, where: str) -> Iterator[Buffer]:
    yield Buffer(f"xq.{where}", (tokens, ranks.qkv))
    yield Buffer(f"qkv.{where}", (tokens, shape.qkv))
    yield Buffer(f"xo.{where}", (tokens, ranks.out))
    yield Buffer(f"o.{where}", (tokens, shape.query + PAD))
    yield Buffer(f"h2.{where}", (tokens, shape.hidden))


def _mlp(shape: Shape, ranks: Ranks, tokens: int, where: str) -> Iterator[Buffer]:
    yield Buffer(f"xg.{where}", (tokens, ranks.gate_up))
    yield Buffer(f"gu.{where}", _mlp_products(shape, tokens))


def _mlp_products(shape: Shape, tokens: int) -> tuple[int, int]:
    return tokens, 2 * shape.mlp + PAD


def _passing(shape: Shape, ranks: Ranks, tokens: int, answers: int, logit_rows: int, taught: int) -> Iterator[Buffer]:
    """What no layer keeps. One row more where positions out of the loss are gathered from and scattered to."""
    # A teacher's logits take half of the room for logits: no more of it, and twice as many products.
    rows = max(min(answers, logit_rows), 2 if taught else 1)
    yield Buffer("last", (tokens, shape.hidden))
    yield Buffer("rstd", (tokens,), wide=False)
    yield Buffer("n", (tokens + 1, shape.hidden + PAD))
    yield Buffer("y", (tokens + 1, shape.hidden + PAD))
    yield Buffer("act", (max(tokens * (shape.mlp + PAD), rows * shape.vocabulary),))
    yield Buffer("dqkv", (max(tokens * (shape.qkv + PAD), answers * shape.hidden),))
    if shape.head_norm:
        yield Buffer("turned", (tokens, shape.qkv - shape.kv_heads * shape.head_dim))
    yield Buffer("do", (max(tokens * shape.query, answers * shape.hidden),))
    yield Buffer("dh", (tokens, shape.hidden + PAD))
    yield Buffer("t", (tokens, max(ranks.qkv, ranks.out, ranks.gate_up, ranks.down)))
    yield Buffer("losses", (answers,), wide=False)
    if taught:
        yield Buffer("teacher", (taught, shape.hidden))


def place(buffer: Buffer, width: int) -> int:
    """Bytes from where the buffer begins to where the next may. `width`: bytes of the base's type."""
    size = math.prod(buffer.dims) * (width if buffer.wide else max(4, width))
    return -(-size // _ALIGN) * _ALIGN


def arena_bytes(
    shape: Shape,
    ranks: Ranks,
    tokens: int,
    answers: int,
    depth: Depth,
    logit_rows: int,
    width: int = 2,
    taught: int = 0,
) -> int:
    """Bytes of one pass's arena: the sum of `buffers`, layers of one kind being alike."""
    counts = {"whole": depth.whole, "mlp": depth.mlp, "none": shape.layers - depth.whole - depth.mlp}
    once = _once(shape, ranks, tokens, answers, depth, logit_rows, taught)
    total = sum(place(item, width) for item in once if item.inside is None)
    for kind, count in counts.items():
        if count:
            total += count * sum(place(item, width) for item in _kept(shape, ranks, tokens, 0, kind))
    inputs = min(shape.layers, INPUT_SLOTS) if depth.host_inputs else shape.layers
    return total + inputs * place(_input(shape, tokens, 0), width)

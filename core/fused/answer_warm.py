"""Compiles what answering launches on a card, without memory and without running it: over tensors that are but shapes.

For a thread of its own while a model is read; the first answer on a machine takes seconds longer without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.fused import answer_kernels, tuning
from core.fused.answer_ops import Feed
from core.fused.answers import Net
from core.fused.bank import Adapted, Bank
from core.fused.layers import Layer
from core.fused.narrow import KINDS, Inputs, Narrow, Packed, Product, processors_of
from core.fused.sizes import PAD, Shape
from core.fused.weights import Dense, Group

_RANKS = 16


def warm(shape: Shape, dtype: torch.dtype, device: torch.device, nf4: bool, biased: bool) -> None:
    """Compile the programs of a step and of reading a prompt. `biased`: q, k and v have biases; `nf4`: doubly quantised."""

    def empty(*dims: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(dims, dtype=dtype, device="meta")

    net, groups = _net(shape, dtype, biased)
    bank = Bank([groups], _nobody, dtype, torch.device("meta"), lambda sources, targets: lambda: None)
    bank.ranks = _RANKS
    bank.layers = bank.allocate(_RANKS)
    narrow = Narrow(net, bank, [_products(groups, processors_of(device), nf4)])
    long, whole = torch.int64, torch.int32
    with torch.cuda.device(device):
        # From 17 rows on a product is compiled for 32, then for 64.
        for rows in (count for count in (1, 32, 64) if count <= narrow.most):
            inputs = Inputs(
                ids=empty(rows, dtype=long),
                positions=empty(rows, dtype=long),
                place=empty(2, 64, dtype=long)[:, :rows],
                spans=empty(rows, 2, dtype=whole),
                scales=empty(rows, dtype=torch.float32),
                active=empty(_RANKS, dtype=whole),
                cos=empty(rows, shape.head_dim),
                sin=empty(rows, shape.head_dim),
            )
            narrow.step(inputs, empty(rows, shape.vocabulary, dtype=torch.float32))
        for tokens in (16, 64):
            qkv, mask = empty(tokens, shape.qkv), empty(tokens, _RANKS, dtype=torch.float32)
            place, ids = empty(2, tokens, dtype=long), empty(tokens, dtype=long)
            angles = (empty(tokens, shape.head_dim), empty(tokens, shape.head_dim))
            feed = Feed(ids, ids, place, mask, None, *angles, ids)
            answer_kernels.turn(shape, 0, qkv, feed, net.layers[0].head_norms, net.eps)
            for group, pair in zip(groups, bank.layers[0], strict=True):
                low = empty(tokens, pair.a.shape[0])
                answer_kernels.raise_low(empty(tokens, group.width), low, feed, pair.b, group.outs)


def _net(shape: Shape, dtype: torch.dtype, biased: bool) -> tuple[Net, tuple[Group, Group, Group, Group]]:
    """One layer of these widths."""

    def empty(*dims: int) -> Tensor:
        return torch.empty(dims, dtype=dtype, device="meta")

    def group(outs: list[int], inner: int, bias: Tensor | None = None) -> Group:
        return Group(Dense(empty(sum(outs) + PAD, inner + PAD), spare=True), outs, inner, bias)

    key = shape.kv_heads * shape.head_dim
    groups = (
        group([shape.query, key, key], shape.hidden, empty(shape.qkv) if biased else None),
        group([shape.hidden], shape.query),
        group([shape.mlp, shape.mlp], shape.hidden),
        group([shape.hidden], shape.mlp),
    )
    heads = (empty(shape.head_dim), empty(shape.head_dim)) if shape.head_norm else None
    table = empty(shape.vocabulary, shape.hidden)
    net = Net(
        shape=shape,
        layers=[Layer(*groups, empty(shape.hidden), empty(shape.hidden), heads)],
        norm=empty(shape.hidden),
        head=table,
        eps=1e-6,
        rotary=lambda positions: (empty(1), empty(1)),
        embedding=lambda: table,
        embed=lambda ids: empty(1),
    )
    return net, groups


def _products(groups: tuple[Group, ...], processors: int, nf4: bool) -> list[Product]:
    found = []
    for kind, group in zip(KINDS, groups, strict=True):
        tile = (tuning.NF4 if nf4 else tuning.DENSE)[kind]
        weight: Tensor | Packed = group.store.piece(0)[: group.width, : group.inner]
        if nf4:
            tiles, table, levels = (
                torch.empty(dims, dtype=kind, device="meta")
                for dims, kind in (((1, 4), torch.int32), ((1, 5), torch.int64), ((16,), torch.float32))
            )
            weight = Packed(tiles, table, levels, nested=True)
        found.append(Product(group.width, group.inner, weight, tile, processors, len(group.outs)))
    return found


def _nobody(name: str) -> Adapted:
    raise AssertionError("nobody answers here")

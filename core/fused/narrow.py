"""A decoding step of few rows on a CUDA card: every weight read once, ten launches a layer, nothing allocated.

A row's result depends on no other row: sums are cut by the weight's shape and the row's own length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor, nn

from core.fused import answer_programs as programs
from core.fused import family, product_programs, tuning
from core.fused.answer_kernels import attend_step, attention_parts, launch, whole
from core.fused.answers import Net
from core.fused.bank import Bank, Pair
from core.fused.tuning import Tile

KINDS = ("qkv", "out", "gate_up", "down")
_NO_RANKS = 16  # what programs are told where there are no adapters: of the same kind as what they are told otherwise


@dataclass(frozen=True)
class Packed:
    """A group's NF4 members as nf4_product_kernel finds them, and what must stay alive for it."""

    tiles: Tensor
    table: Tensor
    levels: Tensor
    nested: bool
    keep: Sequence[Tensor] = ()


def pack(linears: Sequence[nn.Linear], rows: int) -> Packed:
    """bitsandbytes' Linear4bits as a group, cut into tiles of `rows` rows."""
    tiles, table, keep = [], [], []
    column = 0
    for member, linear in enumerate(linears):
        weight: Any = linear.weight
        state = weight.quant_state
        outer = (state.state2.code, state.state2.absmax, state.offset) if state.nested else (state.absmax,) * 3
        parts = [weight.data, state.absmax, *(part.float() for part in outer)]
        keep += parts
        table.append([part.data_ptr() for part in parts])
        for first in range(0, linear.out_features, rows):
            tiles.append([member, first, min(rows, linear.out_features - first), column + first])
        column += linear.out_features
    first_state: Any = linears[0].weight
    levels = first_state.quant_state.code.float()
    device = levels.device
    return Packed(
        torch.tensor(tiles, dtype=torch.int32, device=device),
        torch.tensor(table, dtype=torch.int64, device=device),
        levels,
        bool(first_state.quant_state.nested),
        keep,
    )


@dataclass(frozen=True)
class Inputs:
    """What decides a step, at addresses that stay. B rows of it are in use.

    ids, positions int64 (B,); place int64 (2, B); spans int32 (B, 2), in eights; scales float32 (B,); active int32 (R,),
    whether any row uses a column of the bank; cos, sin (B, head_dim). given (B, D): the tokens' embeddings, where the
    matrix does not lie on the card, and 0 to B - 1 as their `ids`.
    """

    ids: Tensor
    positions: Tensor
    place: Tensor
    spans: Tensor
    scales: Tensor
    active: Tensor
    cos: Tensor
    sin: Tensor
    given: Tensor | None = None


class Product:
    """The product of few rows with a weight (width, inner): of 16 bits, rows strided, or packed; and how it is cut."""

    def __init__(
        self, width: int, inner: int, weight: Tensor | Packed, tile: Tile, processors: int, members: int = 1
    ) -> None:
        self.width, self.inner, self.weight, self.tile, self.members = width, inner, weight, tile, members
        self.split = tile.split(width, inner, processors)

    def __call__(self, x: Tensor, pair: Pair | None, active: Tensor, parts: Tensor, low: Tensor) -> None:
        """parts (split, B, N) and low (split, B, members * R) become x W^T and x A^T; x (B, K), contiguous."""
        rows, tile = x.shape[0], self.tile
        ranks = 0 if pair is None else pair.b.shape[1]
        lows, a = self.members * ranks, x if pair is None else pair.a
        sizes = (self.inner, self.split, tile.rows, tile.inner, max(16, whole(rows)))
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        more = triton.cdiv(lows, tile.rows)
        adapters = (lows, ranks or _NO_RANKS)
        if isinstance(self.weight, Packed):
            packed, tiles = self.weight, self.weight.tiles.shape[0]
            launch(
                product_programs.nf4_product_kernel, (tiles + more, self.split),
                x, packed.tiles, packed.table, packed.levels, a, parts, low, active, rows, tiles, self.width, *adapters,
                *sizes, packed.nested, **options,
            )  # fmt: skip
        else:
            launch(
                product_programs.product_kernel, (triton.cdiv(self.width, tile.rows) + more, self.split),
                x, self.weight, a, parts, low, active, rows, self.weight.stride(0), self.width, *adapters, *sizes,
                **options,
            )  # fmt: skip


def products_of(net: Net, model: nn.Module, device: torch.device) -> list[list[Product]]:
    """The four products of each layer, over the model's own weights."""
    processors = processors_of(device)
    found = []
    for layer, block in zip(net.layers, family.blocks(model), strict=True):
        products = []
        for kind, group, modules in zip(KINDS, layer.groups, family.members(block), strict=True):
            linears = [family.base(module) for module in modules]
            weight: Tensor | Packed
            if family.is_nf4(linears[0]):
                tile = tuning.NF4[kind]
                weight = pack(linears, tile.rows)
            else:
                tile = tuning.DENSE[kind]
                weight = group.store.piece(0)[: group.width, : group.inner]
            products.append(Product(group.width, group.inner, weight, tile, processors, len(linears)))
        found.append(products)
    return found


def processors_of(device: torch.device) -> int:
    """The card's multiprocessors."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@dataclass
class _Work:
    """Buffers of a step of B rows."""

    h: Tensor
    n: Tensor
    q: Tensor
    o: Tensor
    act: Tensor
    parts: dict[str, Tensor]
    low: dict[str, Tensor]
    attention: tuple[Tensor, Tensor]


class Narrow:
    """Steps of up to `most` rows. Adapters come out of the bank as it is at each step."""

    def __init__(self, net: Net, bank: Bank, products: Sequence[Sequence[Product]]) -> None:
        self._net, self._bank, self._layers = net, bank, products
        packed = isinstance(products[0][0].weight, Packed)
        self.most = tuning.NF4_ROWS if packed else tuning.DENSE_ROWS
        words, width = net.head.shape
        self._head = Product(words, width, net.head, tuning.DENSE["head"], 0)  # in one part: its sums are the logits
        self._work: dict[int, _Work] = {}

    def release(self) -> None:
        """Give the buffers back: before the bank's ranks change, and whenever memory is wanted."""
        self._work.clear()

    def prepare(self, rows: int) -> None:
        """Make the buffers of a step of `rows` rows; not inside a capture."""
        self._buffers(rows)

    def step(self, inputs: Inputs, logits: Tensor) -> None:
        """One token a row; logits (B, V) float32."""
        net, shape, work = self._net, self._net.shape, self._buffers(inputs.ids.shape[0])
        pairs: Sequence[Pair | None] = [None] * 4
        table = net.embedding() if inputs.given is None else inputs.given
        assert table is not None
        self._norm(work, "down", 1, None, inputs, net.layers[0].norm1, table)
        for index, (layer, products) in enumerate(zip(net.layers, self._layers, strict=True)):
            qkv, out, gate_up, down = products
            if index:
                self._norm(work, "down", down.split, pairs[3], inputs, layer.norm1)
            pairs = self._bank.layers[index] if self._bank.ranks else [None] * 4
            self._product(work, "qkv", qkv, work.n, pairs[0], inputs)
            self._turn(work, index, qkv, pairs[0], inputs)
            attend_step(shape, index, work.q, inputs.place, inputs.positions, work.o, *work.attention)
            self._product(work, "out", out, work.o, pairs[1], inputs)
            self._norm(work, "out", out.split, pairs[1], inputs, layer.norm2)
            self._product(work, "gate_up", gate_up, work.n, pairs[2], inputs)
            self._gate(work, gate_up, pairs[2], inputs)
            self._product(work, "down", down, work.act, pairs[3], inputs)
        self._norm(work, "down", self._layers[-1][3].split, pairs[3], inputs, net.norm)
        self._head(work.n, None, inputs.active, logits, work.low["out"])

    def _product(self, work: _Work, kind: str, product: Product, x: Tensor, pair: Pair | None, inputs: Inputs) -> None:
        product(x, pair, inputs.active, work.parts[kind], work.low[kind])

    def _norm(
        self, work: _Work, kind: str, split: int, pair: Pair | None, inputs: Inputs, weight: Tensor,
        table: Tensor | None = None,
    ) -> None:  # fmt: skip
        """The residual plus what the product of `kind` left, or the tokens' rows of `table`; its norm in work.n."""
        rows, width = work.h.shape
        launch(
            programs.join_kernel, (rows,),
            work.h, work.parts[kind], work.low[kind], *_raising(pair, work, inputs),
            work.h if table is None else table, inputs.ids, weight, work.n, rows, _ranks(pair), self._net.eps,
            width, whole(width), table is not None, split, num_warps=8,
        )  # fmt: skip

    def _turn(self, work: _Work, index: int, product: Product, pair: Pair | None, inputs: Inputs) -> None:
        shape, layer, rows = self._net.shape, self._net.layers[index], work.h.shape[0]
        bias = work.h if layer.qkv.bias is None else layer.qkv.bias
        norms = layer.head_norms or (work.h, work.h)
        launch(
            programs.turn_kernel, (rows, shape.heads + 2 * shape.kv_heads),
            work.parts["qkv"], work.low["qkv"], *_raising(pair, work, inputs), bias, *norms, inputs.cos, inputs.sin,
            inputs.place[0], inputs.place[1], inputs.positions, work.q, rows, _ranks(pair), index, self._net.eps,
            shape.heads, shape.kv_heads, shape.head_dim, whole(shape.head_dim // 2), shape.query,
            layer.qkv.bias is not None, layer.head_norms is not None, True, product.split, False, num_warps=1,
        )  # fmt: skip

    def _gate(self, work: _Work, product: Product, pair: Pair | None, inputs: Inputs) -> None:
        rows, width = work.act.shape
        launch(
            programs.gate_kernel, (rows, triton.cdiv(width, tuning.GATE_BLOCK)),
            work.parts["gate_up"], work.low["gate_up"], *_raising(pair, work, inputs), work.act, rows, _ranks(pair),
            width, product.split, tuning.GATE_BLOCK, num_warps=4,
        )  # fmt: skip

    def _buffers(self, rows: int) -> _Work:
        if rows not in self._work:
            shape, ranks, like = self._net.shape, self._bank.ranks, self._net.norm
            products = dict(zip(KINDS, self._layers[0], strict=True))

            def sums(kind: str, width: int) -> Tensor:
                return like.new_empty(products[kind].split, rows, width, dtype=torch.float32)

            self._work[rows] = _Work(
                h=like.new_empty(rows, shape.hidden),
                n=like.new_empty(rows, shape.hidden),
                q=like.new_empty(rows, shape.query),
                o=like.new_empty(rows, shape.query),
                act=like.new_empty(rows, shape.mlp),
                parts={kind: sums(kind, product.width) for kind, product in products.items()},
                low={kind: sums(kind, max(1, product.members * ranks)) for kind, product in products.items()},
                attention=attention_parts(shape, like.new_empty(rows, 1)),
            )
        return self._work[rows]


def _ranks(pair: Pair | None) -> int:
    return _NO_RANKS if pair is None else pair.b.shape[1]


def _raising(pair: Pair | None, work: _Work, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """B, spans and scales; without a bank every span is empty and B is never read."""
    return (work.h if pair is None else pair.b), inputs.spans, inputs.scales

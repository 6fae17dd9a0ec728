"""Reading prompts and decoding on the fused layers: one pass over any rows, each with its own adapter.

Owns what answering keeps between answers: the bank of adapters, angles, and, on a card, a step's inputs and graphs. The
rows' keys and values belong to the rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from core.backend import Route
from core.fused.answer_ops import AnswerOps, Feed, Stretch
from core.fused.bank import Bank, Pair
from core.fused.layers import Layer, Rotary
from core.fused.room import length_bucket
from core.fused.sizes import Shape
from core.fused.weights import Group

# Multiplications of a pass below which one thread is faster: on two cores, one of them busy, 2 rows of the pocket model
# took 10.9 ms with both and 4.0 with one.
_SMALL = 500e6


@dataclass(frozen=True)
class Net:
    """The resident model as answering sees it. `embedding` gives the matrix where it lies on the device."""

    shape: Shape
    layers: Sequence[Layer]
    norm: Tensor
    head: Tensor
    eps: float
    rotary: Rotary
    embedding: Callable[[], Tensor | None]
    embed: Callable[[Tensor], Tensor]


@dataclass
class Row:
    """A text being continued: who answers it, its keys and values, and the positions it has and may come to."""

    route: Route
    region: Tensor
    length: int
    most: int


class Angles:
    """Cosines and sines of all positions so far asked for, (room, head_dim) each; see Feed."""

    def __init__(self, rotary: Rotary, device: torch.device) -> None:
        self._rotary, self._device = rotary, device
        self.cos = self.sin = torch.empty(0)

    def reach(self, length: int) -> None:
        """Make sure that positions below `length` are there; the tables may move."""
        if length <= self.cos.shape[0]:
            return
        room = 2048
        while room < length:
            room *= 2
        cos, sin = self._rotary(torch.arange(room, device=self._device))
        sin[:, : sin.shape[1] // 2].neg_()
        self.cos, self.sin = cos, sin

    def of(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the positions (T,)."""
        return self.cos.index_select(0, positions), self.sin.index_select(0, positions)


class Answers:
    """Passes over rows. `at_once`: tokens whose activations exist at one time while prompts are read."""

    def __init__(
        self, net: Net, bank: Bank, ops: AnswerOps, dtype: torch.dtype, device: torch.device, at_once: int,
        attached: Callable[[str], bool],
    ) -> None:  # fmt: skip
        """`attached`: whether the model has an adapter of that handle."""
        self.net, self.bank, self.ops, self.attached = net, bank, ops, attached
        self.angles = Angles(net.rotary, device)
        self.dtype, self.device = dtype, device
        self._at_once = at_once
        self._weights = (
            sum(group.width * group.inner for layer in net.layers for group in layer.groups) + net.head.numel()
        )

    def rest(self) -> None:
        """Give back what is kept between answers; it is made again when it is needed."""
        self.bank.release()
        self.angles = Angles(self.net.rotary, self.device)

    # -- rows --

    def row(self, route: Route, length: int, most: int) -> Row:
        """A new row with room for `length` positions and a little more."""
        return Row(route, self._region(length_bucket(length + 1, most)), 0, most)

    def make_room(self, row: Row) -> bool:
        """Let one more position have room in the row's region; whether that has moved."""
        room = row.region.shape[3]
        if row.length < room:
            return False
        region = self._region(length_bucket(row.length + 1, max(row.most, row.length + 1)))
        region[:, :, :, : row.length].copy_(row.region[:, :, :, : row.length])
        row.region = region
        return True

    def _region(self, room: int) -> Tensor:
        shape = self.net.shape
        return torch.empty(shape.layers, 2, shape.kv_heads, room, shape.head_dim, dtype=self.dtype, device=self.device)

    # -- passes --

    def read(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read each prompt into its row, from the row's beginning. Logits float32 (n, V) of the next tokens."""
        self.angles.reach(max(len(prompt) for prompt in prompts))
        mask = self.mask(rows)
        last = []
        for portion in portions([len(prompt) for prompt in prompts], self._at_once):
            feed = self._feed(rows, prompts, portion, mask)
            with self._alone(feed):
                hidden = self.run(feed)
            ends, at = [], 0
            for index, first, stop in portion:
                at += stop - first
                rows[index].length = stop
                if stop == len(prompts[index]):
                    ends.append(at - 1)
            if ends:
                last.append(hidden[torch.tensor(ends, device=self.device)])
        return self.ops.logits(torch.cat(last), self.net.head)

    def states(self, route: Route, texts: Sequence[Sequence[int]], wanted: Sequence[int]) -> Tensor:
        """Hidden states (K, D) after the last norm, of texts that `route` reads, at places counted through all of them."""
        self.angles.reach(max(len(text) for text in texts))
        rows = [Row(route, self._region(len(text)), 0, len(text)) for text in texts]
        mask = self.mask(rows)
        found, begin = [], 0
        for portion in portions([len(text) for text in texts], self._at_once):
            feed = self._feed(rows, texts, portion, mask)
            with self._alone(feed):
                hidden = self.run(feed)
            places = [place - begin for place in wanted if begin <= place < begin + hidden.shape[0]]
            found.append(hidden[torch.tensor(places, dtype=torch.int64, device=self.device)])
            begin += hidden.shape[0]
        return torch.cat(found)

    def step(self, rows: Sequence[Row], tokens: Tensor, mask: Tensor | None) -> Tensor:
        """One more token (B,) into each row, which must have room. Logits float32 (B, V) of the next."""
        lengths = [row.length for row in rows]
        self.angles.reach(max(lengths) + 1)
        positions = torch.tensor(lengths, device=self.device)
        cos, sin = self.angles.of(positions)
        off = None if mask is None else mask == 0
        stretches = [Stretch(row.region, row.length, 1) for row in rows]
        feed = Feed(tokens, positions, positions, mask, off, cos, sin, positions, 1, stretches)
        with self._alone(feed):
            found = self.ops.logits(self.run(feed), self.net.head)
        for row in rows:
            row.length += 1
        return found

    def mask(self, rows: Sequence[Row]) -> Tensor | None:
        """See Feed: a line a row, (n, R); None if none has an adapter. All adapters must be held."""
        if all(row.route.adapter is None for row in rows):
            return None
        mask = torch.zeros(len(rows), self.bank.ranks)
        for line, row in zip(mask, rows, strict=True):
            if row.route.adapter is not None:
                span = self.bank.span(row.route.adapter)
                line[span.first : span.last] = span.scaling * row.route.strength
        return mask.to(self.device)

    def run(self, feed: Feed, h: Tensor | None = None) -> Tensor:
        """The tokens, or their embeddings h (T, D), through all layers and the last norm, (T, D)."""
        net, ops, eps = self.net, self.ops, self.net.eps
        h = net.embed(feed.ids) if h is None else h
        y: Tensor | None = None
        for index, layer in enumerate(net.layers):
            pairs = self.bank.layers[index] if feed.mask is not None else [None] * 4
            qkv = self._product(layer.qkv, ops.norm(h, y, layer.norm1, eps), pairs[0], feed)
            ops.turn(net.shape, index, qkv, feed, layer.head_norms, eps)
            y = self._product(layer.out, ops.attend(net.shape, index, qkv, feed), pairs[1], feed)
            gate_up = self._product(layer.gate_up, ops.norm(h, y, layer.norm2, eps), pairs[2], feed)
            y = self._product(layer.down, ops.swiglu(gate_up), pairs[3], feed)
        return ops.norm(h, y, net.norm, eps)

    @contextlib.contextmanager
    def _alone(self, feed: Feed) -> Iterator[None]:
        """On the processor a small pass keeps to one thread: waking a second one costs more than it brings."""
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1 or self._weights * feed.ids.shape[0] > _SMALL:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def _product(self, group: Group, x: Tensor, pair: Pair | None, feed: Feed) -> Tensor:
        """x (T, K) -> (T, N): the base's product with bias, and what each row's adapter adds."""
        out = _base_product(group, x)
        if pair is not None:
            self.ops.raise_low(out, functional.linear(x, pair.a), feed, pair.b, group.outs)
        return out

    def _feed(
        self, rows: Sequence[Row], prompts: Sequence[Sequence[int]], portion: Portion, mask: Tensor | None
    ) -> Feed:
        """The inputs of one pass over these pieces of the prompts."""
        ids: list[int] = []
        owner: list[int] = []
        positions: list[int] = []
        stretches, starts = [], [0]
        for index, first, stop in portion:
            ids += prompts[index][first:stop]
            owner += [index] * (stop - first)
            positions += range(first, stop)
            starts.append(len(ids))
            stretches.append(Stretch(rows[index].region, first, stop - first))
        address = [rows[index].region.data_ptr() for index in owner]
        room = [rows[index].region.shape[3] for index in owner]
        table = torch.tensor([ids, owner, positions, address, room]).to(self.device)
        cos, sin = self.angles.of(table[2])
        line = None if mask is None else mask.index_select(0, table[1])
        return Feed(
            ids=table[0],
            positions=table[2],
            place=table[3:],
            mask=line,
            off=None if line is None else line == 0,
            cos=cos,
            sin=sin,
            starts=torch.tensor(starts, dtype=torch.int32).to(self.device),
            longest=max(stop - first for _, first, stop in portion),
            stretches=stretches,
        )


Portion = list[tuple[int, int, int]]
"""(prompt, first token, last + 1) of the pieces that go through one pass."""


def portions(lengths: Sequence[int], at_once: int) -> Iterator[Portion]:
    """Whole prompts together up to `at_once` tokens; a longer one alone, in pieces of that size."""
    waiting: Portion = []
    for index, length in enumerate(lengths):
        if waiting and sum(stop for _, _, stop in waiting) + length > at_once:
            yield waiting
            waiting = []
        if length <= at_once:
            waiting.append((index, 0, length))
            continue
        for first in range(0, length, at_once):
            yield [(index, first, min(first + at_once, length))]
    if waiting:
        yield waiting


def _base_product(group: Group, x: Tensor) -> Tensor:
    pieces = group.store.pieces
    if len(pieces) == 1:
        return functional.linear(x, group.store.piece(0)[: group.width, : group.inner], group.bias)
    out = x.new_empty(x.shape[0], group.width)
    for index, (start, stop) in enumerate(pieces):
        weight = group.store.piece(index)[: stop - start, : group.inner].t()
        if group.bias is None:
            torch.mm(x, weight, out=out[:, start:stop])
        else:
            torch.addmm(group.bias[start:stop], x, weight, out=out[:, start:stop])
    return out

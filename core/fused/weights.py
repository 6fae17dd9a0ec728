"""The base's linear weights laid out for fused products, and the working copies of the adapter in training beside them.

Layers that read the same input form a group (q/k/v, gate/up). A 16-bit group lives in one buffer of N + PAD rows and
K + PAD columns: the base's weight W (N, K), of which transformers' own modules hold views, the adapter's B in the spare
columns, its A in the spare rows. So [x | x A^T s] [W | B]^T and [dy | dy B s] [W ; A] are one product each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from core.fused.ops import Ops
from core.fused.sizes import PAD

if TYPE_CHECKING:
    from core.fused.ops import Thin


class Store(Protocol):
    """Where a group's base weight comes from, piece by piece."""

    @property
    def pieces(self) -> Sequence[tuple[int, int]]:
        """(first, last + 1) output rows of each piece."""

    @property
    def spare(self) -> bool:
        """Whether there are spare columns and rows."""

    @property
    def beside(self) -> bool:
        """Whether the spare columns and rows keep what was written there."""

    def piece(self, index: int) -> Tensor:
        """(rows + PAD, K + PAD) with the base's rows of that piece at the top left; valid until the next call."""


class Dense:
    """A group's unquantised weight in one buffer, which the model's own modules hold views of."""

    beside = True

    def __init__(self, buffer: Tensor, spare: bool) -> None:
        self._buffer = buffer
        self.spare = spare
        self.pieces = [(0, buffer.shape[0] - (PAD if spare else 0))]

    def piece(self, index: int) -> Tensor:
        """See Store.piece."""
        return self._buffer


def allocate(rows: int, columns: int, dtype: torch.dtype, device: torch.device | str, spare: int = PAD) -> Tensor:
    """An empty group buffer (rows + spare, columns + spare)."""
    return torch.empty(rows + spare, columns + spare, dtype=dtype, device=device)


def lay_out(linears: Sequence[nn.Linear], spare: bool) -> Dense:
    """Put the layers' weights into one group buffer; their Parameters become views of it. Values stay to the bit.

    Nothing is moved if they are rows of such a buffer already. `spare`: with room for the adapter, which makes the
    views strided: a card does not mind, a processor answers a token half as fast again without.
    """
    weights = [linear.weight for linear in linears]
    rows, columns = sum(w.shape[0] for w in weights), weights[0].shape[1]
    buffer = _already(weights, rows, columns, PAD if spare else 0)
    if buffer is None:
        buffer = allocate(rows, columns, weights[0].dtype, weights[0].device, PAD if spare else 0)
        row = 0
        for weight in weights:
            view = buffer[row : row + weight.shape[0], :columns]
            view.copy_(weight.data)
            weight.data = view
            row += weight.shape[0]
    buffer[rows:] = 0
    buffer[:, columns:] = 0
    return Dense(buffer, spare)


def _already(weights: Sequence[Tensor], rows: int, columns: int, spare: int) -> Tensor | None:
    first = weights[0]
    stride = columns + spare
    row = 0
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or weight.stride() != (stride, 1) or weight.storage_offset() != row * stride:
            return None
        row += weight.shape[0]
    if first.untyped_storage().nbytes() < (rows + spare) * stride * first.element_size():
        return None
    return first.data.as_strided((rows + spare, stride), (stride, 1), 0)


def joined_bias(linears: Sequence[nn.Linear]) -> Tensor | None:
    """The layers' biases end to end, which become views of it; None if they have none."""
    biases = [linear.bias for linear in linears]
    if all(bias is None for bias in biases):
        return None
    joined = torch.cat([bias.data for bias in biases])
    for linear, part in zip(linears, torch.split(joined, [b.shape[0] for b in biases]), strict=True):
        linear.bias.data = part
    return joined


@dataclass
class Slot:
    """One member's place in its group: the adapter's own tensors, their rows and columns in the group's A and B."""

    a: nn.Parameter
    b: nn.Parameter
    rank: slice
    rows: slice


@dataclass
class Group:
    """Layers that read the same input, with the adapter in training on some or all of them.

    `scale` is the adapter's; it enters where a thin product x A^T or dy B is rounded.
    """

    store: Store
    outs: Sequence[int]
    inner: int
    bias: Tensor | None = None
    slots: list[Slot] = field(default_factory=list)
    scale: float = 1.0
    working: tuple[Tensor, Tensor] | None = None  # A (R, K), B (N, R): views of the store's buffer, or our own

    @property
    def width(self) -> int:
        """N, all outputs side by side."""
        return sum(self.outs)

    @property
    def rank(self) -> int:
        """R, the members' ranks together."""
        return sum(slot.rank.stop - slot.rank.start for slot in self.slots)

    @property
    def joined(self) -> bool:
        """Whether the adapter fits into the spare room and rides along in the base's product."""
        return self.store.spare and 0 < self.rank <= PAD and self.rank % 8 == 0

    def attach(self, members: Sequence[tuple[nn.Parameter, nn.Parameter] | None], scale: float) -> None:
        """Give the group the adapter's (A, B) for each member, None where it has none."""
        self.slots, self.scale = [], scale
        rank = row = 0
        for out, pair in zip(self.outs, members, strict=True):
            if pair is not None:
                a, b = pair
                self.slots.append(Slot(a, b, slice(rank, rank + a.shape[0]), slice(row, row + out)))
                rank += a.shape[0]
            row += out
        self.working = self._working() if self.slots else None

    def _working(self) -> tuple[Tensor, Tensor]:
        whole = self.store.piece(0)
        if self.joined and self.store.beside:
            a, b = whole[self.width : self.width + self.rank, : self.inner], whole[: self.width, self.inner :]
            b = b[:, : self.rank]
        else:
            a = whole.new_zeros(self.rank, self.inner)
            b = whole.new_zeros(self.width, self.rank)
        a.zero_()
        b.zero_()
        return a, b

    def sources(self) -> list[tuple[Tensor, Tensor]]:
        """(the adapter's tensor, the part of the working copies made of it) of each member."""
        if self.working is None:
            return []
        a, b = self.working
        pairs = [((s.a.data, a[s.rank]), (s.b.data, b[s.rows, s.rank])) for s in self.slots]
        return [pair for both in pairs for pair in both]

    def _piece(self, index: int, up: bool, down: bool) -> Tensor:
        """The piece's weight with, where the adapter rides along, B beside it (`up`) or A below it (`down`)."""
        weight = self.store.piece(index)
        if self.joined and not self.store.beside:
            assert self.working is not None
            start, stop = self.store.pieces[index]
            if up:
                weight[: stop - start, self.inner : self.inner + self.rank].copy_(self.working[1][start:stop])
            if down:
                weight[stop - start : stop - start + self.rank, : self.inner].copy_(self.working[0])
        return weight

    def forward(self, x: Tensor, kept: Tensor | None, out: Tensor) -> None:
        """out (T, N) = x W^T + bias + adapter; x (T, K + PAD), whose spare columns are overwritten.

        kept (T, R) receives x A^T s; None if x itself is kept, spare columns and all (joined groups only).
        """
        inner, rank = self.inner, self.rank
        kept = None if kept is None else kept[:, :rank]  # ranks may differ between layers, and buffers fit the largest
        plain = x[:, :inner]
        if self.working is not None:
            down = x[:, inner : inner + rank] if kept is None else kept
            torch.addmm(down, plain, self.working[0].t(), beta=0, alpha=self.scale, out=down)
            if self.joined and kept is not None:
                x[:, inner : inner + rank].copy_(kept)
        whole = x[:, : inner + rank] if self.joined else plain
        for index, (start, stop) in enumerate(self.store.pieces):
            weight = self._piece(index, up=True, down=False)[: stop - start, : whole.shape[1]].t()
            part = out[:, start:stop]
            if self.bias is None:
                torch.mm(whole, weight, out=part)
            else:
                torch.addmm(self.bias[start:stop], whole, weight, out=part)
        if self.working is not None and not self.joined:
            assert kept is not None
            out.addmm_(kept, self.working[1].t())

    def forward_wide(self, x: Tensor, kept: Tensor, out: Tensor) -> None:
        """As `forward`, into out (T, N + PAD): x A^T comes out of the base's product, B's is added after it.

        Cheaper where reading x once more costs more than passing over out: the down projection. Without bias only.
        """
        if not self.joined:
            self.forward(x, kept, out[:, : self.width])
            return
        assert self.working is not None and self.bias is None and len(self.store.pieces) == 1
        width, rank = self.width, self.rank
        kept = kept[:, :rank]
        weight = self._piece(0, up=False, down=True)[: width + rank, : self.inner]
        torch.mm(x[:, : self.inner], weight.t(), out=out[:, : width + rank])
        torch.mul(out[:, width : width + rank], self.scale, out=kept)
        out[:, :width].addmm_(kept, self.working[1].t())

    def backward(self, ops: Ops, grad: Tensor, kept: Tensor | None, spare: Tensor, out: Tensor | None) -> Tensor:
        """From grad (T, N + PAD): adds B's gradient (not without `kept`), writes the input's to `out` (T, K) if given.

        Returns grad B s (T, R), which `down_gradient` needs; it lies in grad's spare columns, or in `spare` (T, any).
        """
        width, rank = self.width, self.rank
        plain = grad[:, :width]
        t = grad[:, width : width + rank] if self.joined else spare[:, :rank]
        if self.working is not None:
            torch.addmm(t, plain, self.working[1], beta=0, alpha=self.scale, out=t)
            if kept is not None:
                self._up_gradient(ops, plain, kept)
        if out is None:
            return t
        for index, (start, stop) in enumerate(self.store.pieces):
            extra = rank if self.joined and stop == width else 0
            weight = self._piece(index, up=False, down=extra > 0)[: stop - start + extra, : self.inner]
            _into(out, index, grad[:, start : stop + extra], weight)
        if self.working is not None and not self.joined:
            out.addmm_(t, self.working[0])
        return t

    def backward_wide(self, ops: Ops, grad: Tensor, spare: Tensor, out: Tensor) -> Tensor:
        """As `backward` without B's gradient, into out (T, K + PAD): grad B comes out of the base's product.

        Cheaper where reading grad once more costs more than passing over out: gate and up. Returns grad B s (T, R).
        """
        if not self.joined:
            return self.backward(ops, grad, None, spare, out[:, : self.inner])
        assert self.working is not None
        inner, rank = self.inner, self.rank
        for index, (start, stop) in enumerate(self.store.pieces):
            weight = self._piece(index, up=True, down=False)[: stop - start, : inner + rank]
            _into(out[:, : inner + rank], index, grad[:, start:stop], weight)
        t = spare[:, :rank]
        torch.mul(out[:, inner : inner + rank], self.scale, out=t)
        out[:, :inner].addmm_(t, self.working[0])
        return t

    def up_thin(self, kept: Tensor) -> list[Thin | None]:
        """For each member x A^T s (T, r) of kept (T, R), and B's gradient (N, r); None for one without adapter."""
        found = {slot.rows.start: (kept[:, slot.rank], _grad(slot.b)) for slot in self.slots}
        return [found.get(start) for start in (0, *accumulate(self.outs[:-1]))]

    def down_thin(self, t: Tensor) -> Thin | None:
        """t (T, r) from `backward` and A's gradient (r, K), of a group of one; None without adapter."""
        return (t, _grad(self.slots[0].a)) if self.slots else None

    def _up_gradient(self, ops: Ops, grad: Tensor, kept: Tensor) -> None:
        for slot in self.slots:
            ops.accumulate(_grad(slot.b), grad[:, slot.rows].t(), kept[:, slot.rank])

    def down_gradient(self, ops: Ops, t: Tensor, x: Tensor) -> None:
        """Add A's gradient t^T x: t from `backward`, x (T, K) the group's input."""
        for columns, gradient in _joined_gradients(self.slots):
            ops.accumulate(gradient, t[:, columns].t(), x)


def _into(out: Tensor, index: int, a: Tensor, b: Tensor) -> None:
    """The first piece's product is written to `out`, the others' are added."""
    if index == 0:
        torch.mm(a, b, out=out)
    else:
        out.addmm_(a, b)


def _grad(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _joined_gradients(slots: Sequence[Slot]) -> list[tuple[slice, Tensor]]:
    """(columns of t, gradient of A): neighbours in memory, as a flat adapter lays them, make one product."""
    blocks: list[tuple[slice, Tensor]] = []
    for slot in slots:
        gradient = _grad(slot.a)
        if blocks:
            columns, before = blocks[-1]
            follows = gradient.data_ptr() == before.data_ptr() + before.numel() * before.element_size()
            if follows and gradient.untyped_storage().data_ptr() == before.untyped_storage().data_ptr():
                rows = before.shape[0] + gradient.shape[0]
                whole = before.as_strided((rows, before.shape[1]), (before.shape[1], 1))
                blocks[-1] = (slice(columns.start, slot.rank.stop), whole)
                continue
        blocks.append((slot.rank, gradient))
    return blocks

"""The attached adapters side by side: of each group one A and one B, of which an adapter has a span of columns.

A group's A (members * R, K) holds one member's ranks after the other's, its B (N, R) in each row the columns of the
member that the row belongs to. So one mask over R columns routes a row through every group of every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from core.fused.room import rank_bucket
from core.fused.weights import Group

Part = tuple[nn.Parameter, nn.Parameter]
"""A (r, K) and B (N, r) of one layer."""
Copies = Callable[[Sequence[Tensor], Sequence[Tensor]], Callable[[], None]]
"""See Ops.copies."""

_EIGHT = 8  # spans begin and end at eights: 16 bytes of a row of B
# Ranks up to which the bank rather grows than lets somebody go, so that changing between a few adapters copies nothing
# (0.16 GB of a 7B; where that is too much, `hold` fails, and is tried again with what is needed alone).
_ROOMY = 32


@dataclass(frozen=True)
class Adapted:
    """An adapter's tensors by layer, group and member: the parts that add up there, none where it has no layer."""

    scaling: float
    layers: Sequence[Sequence[Sequence[Sequence[Part]]]]

    def sides(self) -> Iterator[tuple[int, int, int, int, Part]]:
        """(layer, group, member, part, tensors) of each."""
        for layer, groups in enumerate(self.layers):
            for group, members in enumerate(groups):
                for member, parts in enumerate(members):
                    for index, part in enumerate(parts):
                        yield layer, group, member, index, part

    @property
    def widths(self) -> list[int]:
        """Columns that each part needs: its largest rank."""
        found: dict[int, int] = {}
        for *_, index, (a, _b) in self.sides():
            found[index] = max(found.get(index, 0), a.shape[0])
        return [found[index] for index in sorted(found)]


@dataclass(frozen=True)
class Pair:
    """A group's stacked A (members * R, K) and B (N, R)."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class Span:
    """An adapter's columns [first, last) and its scaling."""

    first: int
    last: int
    scaling: float


@dataclass
class _Held:
    adapted: Adapted
    span: Span
    refresh: Callable[[], None] | None = None
    addresses: tuple[int, ...] = ()
    sources: Sequence[Tensor] = ()  # kept alive: `refresh` may know no more than where they lie


class Bank:
    """Holds the adapters that answer, in the base's type. Grows by moving; an adapter nobody needs makes room first."""

    def __init__(
        self, groups: Sequence[Sequence[Group]], find: Callable[[str], Adapted], dtype: torch.dtype,
        device: torch.device, copies: Copies,
    ) -> None:  # fmt: skip
        """`find` gives the tensors of an adapter by its handle."""
        self._groups, self._find, self._dtype, self._device, self._copies = groups, find, dtype, device, copies
        self._held: dict[str, _Held] = {}
        self._learning: set[str] = set()
        self._unsure: set[str] = set()  # may have been moved since they were looked at
        self.ranks = 0
        self.layers: list[list[Pair]] = []
        self.stamp = object()  # another one whenever spans or addresses have changed

    def hold(self, names: Collection[str]) -> None:
        """Make sure that these are held, and hold their tensors' present values. An error leaves all as it was."""
        new = [name for name in dict.fromkeys(names) if name not in self._held]
        for name in names:
            if name not in new:
                self._held[name] = self._held.pop(name)  # the latest used comes last
        if new:
            self._take({name: self._find(name) for name in new}, set(names))
        for name in dict.fromkeys(names):
            self._bring(name, sure=False)

    def follow(self, names: Collection[str]) -> None:
        """Bring those of `names` that learn up to their tensors' present values. All must be held."""
        for name in names:
            if name in self._unsure or name in self._learning:
                self._bring(name, sure=name not in self._unsure)

    def span(self, name: str) -> Span:
        """Where a held adapter lies."""
        return self._held[name].span

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def learns(self, name: str, learning: bool) -> None:
        """Say that an adapter's tensors change from now on, or (False) have changed and stay."""
        self._unsure.add(name)
        (self._learning.add if learning else self._learning.discard)(name)

    def forget(self, name: str) -> None:
        """The adapter is gone."""
        self._learning.discard(name)
        self._unsure.discard(name)
        if self._held.pop(name, None) is not None:
            self.stamp = object()

    def release(self) -> None:
        """Give the memory back; who is needed again is held again."""
        self._held.clear()
        self.layers, self.ranks, self.stamp = [], 0, object()

    def _take(self, new: dict[str, Adapted], needed: set[str]) -> None:
        widths = {name: _eights(sum(adapted.widths)) for name, adapted in new.items()}
        keep = {name: held.span.last - held.span.first for name, held in self._held.items()}
        for name in [name for name in keep if name not in needed]:
            if sum(keep.values()) + sum(widths.values()) <= max(self.ranks, _ROOMY):
                break
            del keep[name]
        ranks = max(self.ranks, rank_bucket(sum(keep.values()) + sum(widths.values())))
        free = _gaps([self._held[name].span for name in keep], ranks)
        spans = _fit(widths, free)
        moved = ranks != self.ranks or spans is None
        layers = self.allocate(ranks) if moved else self.layers
        everybody = {name: self._held[name].adapted for name in keep} | new
        if moved:
            spans = _fit(keep | widths, [(0, ranks)])
        assert spans is not None
        self._held = {name: held for name, held in self._held.items() if name in keep}
        self.layers, self.ranks, self.stamp = layers, ranks, object()
        for name, (first, last) in spans.items():
            self._held[name] = _Held(everybody[name], Span(first, last, everybody[name].scaling))
            if not moved:
                self._clear(first, last)
            if name not in needed:
                self._bring(name, sure=False)

    def allocate(self, ranks: int) -> list[list[Pair]]:
        """Room for adapters of that many columns, zero, by layer and group."""
        sizes = [[(len(g.outs) * ranks * g.inner, g.width * ranks) for g in groups] for groups in self._groups]
        flat = torch.zeros(sum(a + b for row in sizes for a, b in row), dtype=self._dtype, device=self._device)
        parts = iter(torch.split(flat, [size for row in sizes for both in row for size in both]))
        return [
            [Pair(next(parts).view(-1, group.inner), next(parts).view(group.width, ranks)) for group in groups]
            for groups in self._groups
        ]

    def _clear(self, first: int, last: int) -> None:
        for groups in self.layers:
            for pair in groups:
                pair.a.view(-1, self.ranks, pair.a.shape[1])[:, first:last].zero_()
                pair.b[:, first:last].zero_()

    def _bring(self, name: str, sure: bool) -> None:
        """Copy the adapter's values; unless `sure`, look first whether its tensors have moved."""
        held = self._held[name]
        if not sure or held.refresh is None:
            self._unsure.discard(name)
            addresses = tuple(p.data_ptr() for *_, part in held.adapted.sides() for p in part)
            if held.refresh is None or addresses != held.addresses:
                pairs = list(self._targets(held))
                held.sources = [source for source, _ in pairs]
                held.refresh = self._copies(held.sources, [target for _, target in pairs])
                held.addresses = addresses
        held.refresh()

    def _targets(self, held: _Held) -> Iterator[tuple[Tensor, Tensor]]:
        """(an adapter's tensor, its place in the bank) of all."""
        starts = list(accumulate(held.adapted.widths, initial=held.span.first))
        for layer, group, member, index, (a, b) in held.adapted.sides():
            pair, outs = self.layers[layer][group], self._groups[layer][group].outs
            row, column, rank = sum(outs[:member]), starts[index], a.shape[0]
            line = member * self.ranks + column
            yield a.data, pair.a[line : line + rank]
            yield b.data, pair.b[row : row + outs[member], column : column + rank]


def _eights(ranks: int) -> int:
    return -(-ranks // _EIGHT) * _EIGHT


def _gaps(spans: Sequence[Span], ranks: int) -> list[tuple[int, int]]:
    """What lies between the spans."""
    found, at = [], 0
    for span in sorted(spans, key=lambda span: span.first):
        found.append((at, span.first))
        at = span.last
    return [*found, (at, ranks)]


def _fit(widths: dict[str, int], gaps: list[tuple[int, int]]) -> dict[str, tuple[int, int]] | None:
    """Each into the first gap that holds it; None if one fits nowhere."""
    found = {}
    free = list(gaps)
    for name, width in widths.items():
        index = next((i for i, (first, last) in enumerate(free) if last - first >= width), None)
        if index is None:
            return None
        first, last = free[index]
        found[name], free[index] = (first, first + width), (first + width, last)
    return found

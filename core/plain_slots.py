"""Rows continued by the plain backend: transformers' caches, rows flush right, padding on the left. Never clever.

Rows that were read together or fitted each other share a cache; others have one of their own and cost a pass more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from core.backend import Route, Slots

if TYPE_CHECKING:
    from core.plain import PlainBackend, Routing

_WASTE = 4096  # positions of padding that are always worth a pass less


@dataclass
class _Cohort:
    """Rows in one cache. `counts` are their positions so far; all end at the cache's end."""

    cache: Any
    counts: list[int]
    routes: list[Route]
    length: int
    mask: torch.Tensor | None  # int64 (B, length), 0 on padding; None where there is none
    routing: Routing


class PlainSlots(Slots):
    """See Slots; `backend` does the passes."""

    def __init__(self, backend: PlainBackend) -> None:
        self._backend = backend
        self._cohorts: list[_Cohort] = []

    def __len__(self) -> int:
        return sum(len(cohort.counts) for cohort in self._cohorts)

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]], routes: Sequence[Route], most: Sequence[int]) -> torch.Tensor:
        """See Slots.join."""
        self._backend.forget_norms()
        together = [prompts] if _fits([len(prompt) for prompt in prompts]) else [[prompt] for prompt in prompts]
        cohorts, logits, begun = list(self._cohorts), [], 0
        for group in together:
            cohort, after = self._read(group, routes[begun : begun + len(group)])
            begun += len(group)
            logits.append(after)
            if cohorts and _fits(cohorts[-1].counts + cohort.counts) and _mergeable(cohorts[-1], cohort):
                cohort = self._merged(cohorts.pop(), cohort)
            cohorts.append(cohort)
        self._cohorts = cohorts
        return torch.cat(logits)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See Slots.step."""
        logits, begun = [], 0
        for cohort in self._cohorts:
            count = len(cohort.counts)
            positions = torch.tensor(cohort.counts, device=self._backend.device)[:, None]
            if cohort.mask is not None:
                cohort.mask = torch.cat([cohort.mask, cohort.mask.new_ones(count, 1)], dim=1)
            row = tokens[begun : begun + count, None]
            logits.append(self._backend.read(row, positions, cohort.mask, cohort.cache, cohort.routing))
            cohort.counts = [number + 1 for number in cohort.counts]
            cohort.length += 1
            begun += count
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    @torch.inference_mode()
    def leave(self, rows: Sequence[int]) -> None:
        """See Slots.leave."""
        gone, begun, cohorts = set(rows), 0, []
        for cohort in self._cohorts:
            count = len(cohort.counts)
            kept = [index for index in range(count) if begun + index not in gone]
            begun += count
            if len(kept) == count:
                cohorts.append(cohort)
            elif kept:
                cohorts.append(self._chosen(cohort, kept))
        self._cohorts = cohorts

    def _read(self, prompts: Sequence[Sequence[int]], routes: Sequence[Route]) -> tuple[_Cohort, torch.Tensor]:
        backend, counts = self._backend, [len(prompt) for prompt in prompts]
        longest = max(counts)
        tokens = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=backend.device)
        mask = self._mask(counts, longest)
        positions = (
            torch.arange(longest, device=backend.device)
            - (longest - torch.tensor(counts, device=backend.device))[:, None]
        )
        cohort = _Cohort(_cache(backend.model.config), counts, list(routes), longest, mask, backend.routing(routes))
        logits = backend.read(tokens, positions.clamp(min=0), mask, cohort.cache, cohort.routing)
        return cohort, logits

    def _mask(self, counts: Sequence[int], length: int) -> torch.Tensor | None:
        if min(counts) == length:
            return None
        begins = length - torch.tensor(counts, device=self._backend.device)[:, None]
        return (torch.arange(length, device=self._backend.device) >= begins).long()

    def _merged(self, one: _Cohort, other: _Cohort) -> _Cohort:
        """A new cohort of both. What is there stays as it is until all of it is made."""
        from transformers import DynamicCache

        length = max(one.length, other.length)
        cache: Any = DynamicCache()
        for index, (left, right) in enumerate(zip(one.cache.layers, other.cache.layers, strict=True)):
            keys, values = (
                torch.cat([_lengthened(a, length), _lengthened(b, length)])
                for a, b in ((left.keys, right.keys), (left.values, right.values))
            )
            cache.update(keys, values, index)
        counts, routes = one.counts + other.counts, one.routes + other.routes
        return _Cohort(cache, counts, routes, length, self._mask(counts, length), self._backend.routing(routes))

    def _chosen(self, cohort: _Cohort, kept: Sequence[int]) -> _Cohort:
        """The cohort with these rows alone, without the padding that all of them have."""
        counts = [cohort.counts[index] for index in kept]
        routes = [cohort.routes[index] for index in kept]
        cohort.cache.reorder_cache(torch.tensor(kept, device=self._backend.device))
        length = cohort.length
        if _is_plain(cohort.cache):
            length = max(counts)
            for layer in cohort.cache.layers:
                # Copied: a view would keep the whole one in memory.
                layer.keys = layer.keys[..., cohort.length - length :, :].contiguous()
                layer.values = layer.values[..., cohort.length - length :, :].contiguous()
        mask = self._mask(counts, length)
        return _Cohort(cohort.cache, counts, routes, length, mask, self._backend.routing(routes))


def _cache(config: Any) -> Any:
    """The model's cache. Sliding windows are kept whole (the mask hides what is outside), so that caches can be merged."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    own: Any = DynamicCache(config=config)
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in own.layers)
    return DynamicCache() if plain else own


def _is_plain(cache: Any) -> bool:
    """Whether every layer holds keys and values (B, heads, positions, size), one for each position of the mask."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)


def _mergeable(one: _Cohort, other: _Cohort) -> bool:
    return _is_plain(one.cache) and _is_plain(other.cache)


def _fits(counts: Sequence[int]) -> bool:
    """Whether rows of these lengths may be padded to one: that costs less than a pass of their own."""
    return len(counts) * max(counts) - sum(counts) <= max(_WASTE, sum(counts))


def _lengthened(states: torch.Tensor, length: int) -> torch.Tensor:
    """Keys or values (B, heads, T, size) with zeros before them, T = length."""
    return pad(states, (0, 0, length - states.shape[-2], 0))

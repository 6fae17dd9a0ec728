"""The next token of every row of a batch, chosen on the device in a few tensor operations, each row by its own settings.

A row draws one number a token from its own generator and looks it up in its cumulated probabilities, always in the
vocabulary's order: what it draws does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from core.generate import Sampling

_ROWS = 16  # drawn at once: float64 sums over a vocabulary of 152k take 1.2 MB a row
_BLOCK = 256


class Draws:
    """Uniform numbers of one row, by its seed; the global random state is left alone."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._block: list[float] = []

    def next(self) -> float:
        """The next number, 0 <= number < 1."""
        if not self._block:
            self._block = torch.rand(_BLOCK, generator=self._generator, dtype=torch.float64).flip(0).tolist()
        return self._block.pop()


@dataclass(frozen=True)
class Mark:
    """A chosen token's log probability, and the likeliest tokens with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Choice:
    """Tokens int64 (B,) on the device; `packed` is all that the host wants to know of them, in one tensor."""

    tokens: torch.Tensor
    packed: torch.Tensor
    _wanted: tuple[int | None, ...]

    def unpack(self, values: Sequence[float]) -> list[tuple[int, Mark | None]]:
        """`packed` as it arrived on the host -> each row's token, and its probabilities if they were asked for."""
        rows, at = len(self._wanted), len(self._wanted)
        most = max((wanted for wanted in self._wanted if wanted is not None), default=0)
        found: list[tuple[int, Mark | None]] = []
        for row in range(rows):
            wanted, mark = self._wanted[row], None
            if wanted is not None:
                ids, numbers = values[at + 1 : at + 1 + wanted], values[at + 1 + most : at + 1 + most + wanted]
                mark = Mark(values[at], tuple((int(i), number) for i, number in zip(ids, numbers, strict=True)))
                at += 1 + 2 * most
            found.append((int(values[row]), mark))
        return found


class Chooser:
    """The settings of a batch's rows as tensors. Rows are changed by making another one."""

    def __init__(
        self,
        samplings: Sequence[Sampling],
        draws: Sequence[Draws],
        device: torch.device,
        seen: torch.Tensor | None,
    ) -> None:
        """seen: bool (penalised rows, V), the tokens of their texts so far; None if no row is penalised."""
        self._samplings, self._draws, self._device, self._seen = list(samplings), list(draws), device, seen
        self._wanted = tuple(sampling.logprobs for sampling in samplings)
        self._penalised = _rows(s.repetition_penalty != 1 for s in samplings)
        self._penalty = self._column(self._penalised, "repetition_penalty", torch.float32)
        self._drawn = _rows(s.temperature > 0 for s in samplings)
        self._told = _rows(wanted is not None for wanted in self._wanted)
        self._most = max((wanted for wanted in self._wanted if wanted is not None), default=0)
        self._parts = [
            _Drawing([samplings[row] for row in self._drawn[begin : begin + _ROWS]], device)
            for begin in range(0, len(self._drawn), _ROWS)
        ]
        self._at = {name: self._index(rows) for name, rows in self._kinds().items()}

    @classmethod
    def of(
        cls,
        samplings: Sequence[Sampling],
        draws: Sequence[Draws],
        texts: Sequence[Sequence[int]],
        vocabulary: int,
        device: torch.device,
    ) -> Chooser:
        """For rows whose prompts and answers so far are `texts`."""
        penalised = _rows(s.repetition_penalty != 1 for s in samplings)
        seen = torch.zeros(len(penalised), vocabulary, dtype=torch.bool, device=device) if penalised else None
        for index, row in enumerate(penalised):
            assert seen is not None
            seen[index, torch.tensor(texts[row], device=device)] = True
        return cls(samplings, draws, device, seen)

    def joined(self, other: Chooser) -> Chooser:
        """These rows and then the other's."""
        seen = [part for part in (self._seen, other._seen) if part is not None]
        return Chooser(
            self._samplings + other._samplings,
            self._draws + other._draws,
            self._device,
            torch.cat(seen) if len(seen) == 2 else (seen[0] if seen else None),
        )

    def kept(self, rows: Sequence[int]) -> Chooser:
        """These rows alone."""
        places = [self._penalised.index(row) for row in rows if row in self._penalised]
        seen = self._seen[torch.tensor(places, device=self._device)] if self._seen is not None and places else None
        return Chooser([self._samplings[r] for r in rows], [self._draws[r] for r in rows], self._device, seen)

    @torch.inference_mode()
    def choose(self, logits: torch.Tensor) -> Choice:
        """A token for each row from logits float32 (B, V), which are left as they are."""
        plain = logits
        if self._penalised:
            logits = _put(logits, self._at["penalised"], self._penalise(_take(logits, self._at["penalised"])))
        tokens = logits.argmax(-1)
        if self._drawn:
            rows = _take(logits, self._at["drawn"])
            numbers = torch.tensor([self._draws[r].next() for r in self._drawn], dtype=torch.float64).to(self._device)
            parts = zip(self._parts, torch.split(rows, _ROWS), torch.split(numbers, _ROWS), strict=True)
            tokens = _put(tokens, self._at["drawn"], torch.cat([part.draw(few, u) for part, few, u in parts]))
        if self._seen is not None:
            self._seen.scatter_(1, _take(tokens, self._at["penalised"])[:, None], True)
        packed = torch.where(torch.isfinite(plain).all(-1), tokens, -1)
        if self._told:
            packed = torch.cat([packed.double(), self._tell(plain, tokens).flatten()])
        return Choice(tokens, packed, self._wanted)

    def _penalise(self, logits: torch.Tensor) -> torch.Tensor:
        """What was said already becomes less likely (Keskar et al. 2019), as transformers has it."""
        assert self._seen is not None
        weaker = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
        return torch.where(self._seen, weaker, logits)

    def _tell(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(rows that want it, 1 + 2 * most): the token's log probability, the likeliest ids, their log probabilities."""
        log = _take(logits, self._at["told"]).log_softmax(-1)
        chosen = log.gather(1, _take(tokens, self._at["told"])[:, None])
        top = log.topk(min(self._most, log.shape[-1]))
        return torch.cat([chosen.double(), top.indices.double(), top.values.double()], dim=1)

    def _kinds(self) -> dict[str, list[int]]:
        return {"penalised": self._penalised, "drawn": self._drawn, "told": self._told}

    def _index(self, rows: list[int]) -> torch.Tensor | None:
        """Where `rows` are; None for all."""
        return None if len(rows) == len(self._samplings) else torch.tensor(rows, dtype=torch.int64, device=self._device)

    def _column(self, rows: list[int], name: str, dtype: torch.dtype) -> torch.Tensor:
        values = [getattr(self._samplings[row], name) for row in rows]
        return torch.tensor(values, dtype=dtype, device=self._device)[:, None]


class _Drawing:
    """Drawing for some rows, all of which have a temperature."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        # What is below takes the likeliest all the same, and would be zero in 32 bits.
        self._temperature = torch.tensor([max(s.temperature, 1e-30) for s in samplings], device=device)[:, None]
        by_rank = _rows(s.top_k > 0 for s in samplings)
        by_mass = _rows(s.top_p < 1 for s in samplings)
        self._top_k = torch.tensor([samplings[r].top_k for r in by_rank], dtype=torch.int64, device=device)[:, None]
        self._top_p = torch.tensor([samplings[r].top_p for r in by_mass], dtype=torch.float64, device=device)[:, None]
        self._most = max((s.top_k for s in samplings), default=0)
        # Rows that are cut by rank first need no more than that many sorted.
        self._sorted = self._most if all(samplings[r].top_k for r in by_mass) else 0
        whole, self._cut_by_rank, self._cut_by_mass = len(samplings), bool(by_rank), bool(by_mass)
        self._by_rank = None if len(by_rank) == whole else torch.tensor(by_rank, dtype=torch.int64, device=device)
        self._by_mass = None if len(by_mass) == whole else torch.tensor(by_mass, dtype=torch.int64, device=device)

    def draw(self, logits: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """A token each for logits (R, V) and uniform numbers float64 (R,)."""
        # From the largest down: a small temperature must not make it infinite, of which nothing can be drawn.
        scaled = (logits - logits.amax(-1, keepdim=True)) / self._temperature
        if self._cut_by_rank:
            scaled = _put(scaled, self._by_rank, self._likeliest(_take(scaled, self._by_rank)))
        mass = scaled.softmax(-1)
        if self._cut_by_mass:
            mass = _put(mass, self._by_mass, self._nucleus(_take(mass, self._by_mass)))
        summed = mass.cumsum(-1, dtype=torch.float64)
        total = summed[:, -1:]
        # Below the total even where the product is rounded up: above it lies no token.
        place = torch.minimum(numbers[:, None] * total, total * (1 - 2**-40))
        # A row that is no numbers gives none of its words, and must not give one that is not there.
        return torch.searchsorted(summed, place, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)

    def _likeliest(self, scaled: torch.Tensor) -> torch.Tensor:
        """Without what is less likely than the top_k-th; equals stay, which keeps it the same whatever the sorting."""
        width = scaled.shape[-1]
        values = scaled.topk(min(self._most, width)).values
        return scaled.masked_fill(scaled < values.gather(1, self._top_k.clamp(max=width) - 1), float("-inf"))

    def _nucleus(self, mass: torch.Tensor) -> torch.Tensor:
        """Without what comes after the likeliest that make up top_p together (Holtzman et al. 2020); equals stay."""
        width = mass.shape[-1]
        ordered = mass.topk(min(self._sorted, width)).values if self._sorted else mass.sort(descending=True).values
        before = ordered.cumsum(-1, dtype=torch.float64) - ordered
        least = ordered.masked_fill(before >= self._top_p, float("inf")).amin(-1, keepdim=True)
        return mass.masked_fill(mass < least, 0.0)


def _rows(chosen: Iterable[bool]) -> list[int]:
    return [row for row, wanted in enumerate(chosen) if wanted]


def _take(values: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    return values if rows is None else values[rows]


def _put(values: torch.Tensor, rows: torch.Tensor | None, changed: torch.Tensor) -> torch.Tensor:
    return changed if rows is None else values.index_copy(0, rows, changed)

"""Texts continued together on the fused layers; rows that only the plain way can answer go through it, in their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from core.backend import Route, Slots
from core.errors import ModelError
from core.fused.answers import Answers, Row
from core.text import Text


class Stepping(Protocol):
    """How a token goes into every row: at once on the processor, by captured graphs on a card."""

    def step(self, rows: Sequence[Row], tokens: Tensor, changed: object) -> Tensor:
        """One more token (B,) into each row. `changed` is another object whenever rows or adapters have changed."""

    def rest(self) -> None:
        """Give back what is kept between answers."""


class Direct(Stepping):
    """Each step as it comes."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._changed: object = None
        self._mask: Tensor | None = None

    def step(self, rows: Sequence[Row], tokens: Tensor, changed: object) -> Tensor:
        """See Stepping.step."""
        if changed is not self._changed:
            self._mask, self._changed = self._answers.mask(rows), changed
        return self._answers.step(rows, tokens, self._mask)

    def rest(self) -> None:
        """See Stepping.rest."""
        self._changed = self._mask = None


class FusedSlots(Slots):
    """See Slots. Every row by the fused layers."""

    def __init__(self, answers: Answers, stepping: Stepping) -> None:
        self._answers, self._stepping = answers, stepping
        self._rows: list[Row] = []
        self._names: set[str] = set()
        self._bank: object = None
        self._changed = object()

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def join(self, prompts: Sequence[Sequence[int]], routes: Sequence[Route], most: Sequence[int]) -> Tensor:
        """See Slots.join."""
        answers = self._answers
        new = {route.adapter for route in routes if route.adapter is not None}
        # Those there already come along: room for new ones must not be made at their cost.
        answers.bank.hold([*(name for name in self._names if name in answers.bank), *new])
        rows = [
            answers.row(route, len(prompt), longest)
            for prompt, route, longest in zip(prompts, routes, most, strict=True)
        ]
        logits = answers.read(rows, prompts)
        self._rows += rows
        self._renew()
        return logits

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """See Slots.step. Raises ModelError if a row's adapter is gone."""
        bank = self._answers.bank
        if bank.stamp is not self._bank:
            self._check()
            bank.hold(self._names)
            self._bank, self._changed = bank.stamp, object()
        bank.follow(self._names)
        moved = [self._answers.make_room(row) for row in self._rows]
        if any(moved):
            self._changed = object()
        return self._stepping.step(self._rows, tokens, self._changed)

    def leave(self, rows: Sequence[int]) -> None:
        """See Slots.leave."""
        gone = set(rows)
        self._rows = [row for index, row in enumerate(self._rows) if index not in gone]
        self._renew()

    def _renew(self) -> None:
        self._names = {row.route.adapter for row in self._rows if row.route.adapter is not None}
        self._changed = object()

    def _check(self) -> None:
        for name in self._names:
            if not self._answers.attached(name):
                raise ModelError(
                    Text(
                        zh="回答途中移除了适配器，请再问一次。",
                        en="The adapter was removed during the answer; ask again.",
                    )
                )


class MixedSlots(Slots):
    """See Slots. Rows that `plainly` says so of go to plain slots, made when the first one comes."""

    def __init__(self, fast: Slots, plain: Callable[[], Slots], plainly: Callable[[Route], bool]) -> None:
        self._fast, self._make, self._plainly = fast, plain, plainly
        self._plain: Slots | None = None
        self._slow: list[bool] = []

    def __len__(self) -> int:
        return len(self._slow)

    def join(self, prompts: Sequence[Sequence[int]], routes: Sequence[Route], most: Sequence[int]) -> Tensor:
        """See Slots.join."""
        slow = [self._plainly(route) for route in routes]
        if not any(slow):
            logits = self._fast.join(prompts, routes, most)
            self._slow += slow
            return logits
        parts = []
        before = len(self._fast)
        for side in (False, True):
            chosen = [index for index, one in enumerate(slow) if one is side]
            try:
                parts.append(
                    self._side(side).join(
                        [prompts[i] for i in chosen], [routes[i] for i in chosen], [most[i] for i in chosen]
                    )
                    if chosen
                    else None
                )
            except BaseException:
                if side:  # the fast ones are in already
                    self._fast.leave(range(before, len(self._fast)))
                raise
        self._slow += slow
        return _merged(parts[0], parts[1], slow)

    def step(self, tokens: Tensor) -> Tensor:
        """See Slots.step."""
        if not any(self._slow):
            return self._fast.step(tokens)
        parts = []
        for side in (False, True):
            chosen = [index for index, one in enumerate(self._slow) if one is side]
            parts.append(self._side(side).step(tokens[chosen]) if chosen else None)
        return _merged(parts[0], parts[1], self._slow)

    def leave(self, rows: Sequence[int]) -> None:
        """See Slots.leave."""
        gone = set(rows)
        for side in (False, True):
            places = [index for index, one in enumerate(self._slow) if one is side]
            left = [number for number, index in enumerate(places) if index in gone]
            if left:
                self._side(side).leave(left)
        self._slow = [one for index, one in enumerate(self._slow) if index not in gone]

    def _side(self, slow: bool) -> Slots:
        if not slow:
            return self._fast
        if self._plain is None:
            self._plain = self._make()
        return self._plain


def _merged(fast: Tensor | None, plain: Tensor | None, slow: Sequence[bool]) -> Tensor:
    """Both sides' logits in the order of the rows."""
    if fast is None or plain is None:
        found = fast if plain is None else plain
        assert found is not None
        return found
    order = torch.tensor(slow, device=fast.device)
    out = fast.new_empty(len(slow), fast.shape[1])
    out[order] = plain.to(out)
    out[~order] = fast
    return out

"""Rows that are decoded together: their slots in the backend, their tokens, who joins and who leaves. Used inside a turn.

On a card the next pass is on its way before the host looks at the token before it, so that reading and writing text costs
no time there; a row that has ended is carried along for that one pass.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from core.asked import Row
from core.backend import Route
from core.errors import ModelError
from core.sampling import Choice, Chooser, Draws
from core.text import Text

if TYPE_CHECKING:
    import threading

    from core.engine import Resident


_NO_NUMBERS = Text(
    zh="模型算出了 NaN 或无穷大，回答已停止。请换一个适配器，或换 bfloat16 精度再试。",
    en="The model computed NaN or infinite values; the answer was stopped. Try another adapter, or bfloat16.",
)


class Together:
    """The batch of one resident model. Every row has a chosen token that was not read into the model yet."""

    def __init__(self, resident: Resident, lock: threading.Lock) -> None:
        self._resident = weakref.ref(resident)
        self._device = resident.backend.device
        self._slots = resident.backend.slots()
        self._lock = lock
        self._ahead = self._device.type == "cuda"
        self._tokens = torch.empty(0, dtype=torch.int64, device=self._device)
        self._chooser: Chooser | None = None
        self._coming: _Coming | None = None
        self.rows: list[Row] = []

    def belongs_to(self, resident: Resident) -> bool:
        """Whether the rows are that model's."""
        return self._resident() is resident

    def join(self, rows: Sequence[Row]) -> None:
        """Read the rows' prompts, and what they have said already, and choose a token for each.

        An error leaves the rows there as they were.
        """
        self._settle()
        self.drop()
        texts = [row.prompt + row.ids for row in rows]
        routes = [Route(row.handle, row.column.strength) for row in rows]
        before = len(self.rows)
        logits = self._slots.join(texts, routes, [len(row.prompt) + row.limit for row in rows])
        try:
            draws = []
            for row in rows:
                row.draws = row.draws or Draws(row.sampling.seed)
                draws.append(row.draws)
            chooser = Chooser.of([row.sampling for row in rows], draws, texts, logits.shape[-1], self._device)
            choice = chooser.choose(logits)
            tokens = torch.cat([self._tokens, choice.tokens])
            both = chooser if self._chooser is None else self._chooser.joined(chooser)
        except BaseException:
            self._slots.leave(range(before, before + len(rows)))
            raise
        self._tokens, self._chooser = tokens, both
        self.rows += rows
        self._coming = _Coming(rows, choice, wait=True)
        self._settle()

    def advance(self) -> None:
        """One more token for every row. After an error all must join anew."""
        if self._coming is not None and all(len(row.ids) + 1 >= row.limit for row in self.rows):
            self._settle()  # the last token of all: no pass for nobody
        self.drop()
        if not self.rows:
            return
        assert self._chooser is not None
        logits = self._slots.step(self._tokens)
        self._settle()
        choice = self._chooser.choose(logits)
        self._tokens = choice.tokens
        self._coming = _Coming(self.rows, choice, wait=not self._ahead)
        if not self._ahead:
            self._settle()
            self.drop()

    def drop(self) -> None:
        """Let go of the rows that are done."""
        kept = [index for index, row in enumerate(self.rows) if not row.finish]
        if len(kept) == len(self.rows):
            return
        gone = [index for index, row in enumerate(self.rows) if row.finish]
        with self._lock:
            for index in gone:
                if self.rows[index].broken:
                    self.rows[index].request.fail(ModelError(_NO_NUMBERS))
        for index in gone:
            self.rows[index].request.tell(time.perf_counter(), anyway=self.rows[index].request.over)
        self._slots.leave(gone)
        self._tokens = self._tokens[torch.tensor(kept, dtype=torch.int64, device=self._device)]
        self._chooser = self._chooser.kept(kept) if self._chooser is not None and kept else None
        self.rows = [self.rows[index] for index in kept]

    def settle(self) -> None:
        """Write down the tokens that are on their way to the host."""
        self._settle()

    def _settle(self) -> None:
        coming, self._coming = self._coming, None
        if coming is None:
            return
        values = coming.values()
        now = time.perf_counter()
        with self._lock:
            for row, (token, mark) in zip(coming.rows, coming.choice.unpack(values), strict=True):
                row.take(token, mark, now)


class _Coming:
    """Chosen tokens on their way to the host: one copy."""

    def __init__(self, rows: Sequence[Row], choice: Choice, wait: bool) -> None:
        self.rows, self.choice = list(rows), choice
        self._values = choice.packed
        self._event: torch.cuda.Event | None = None
        if not wait:
            self._values = torch.empty(choice.packed.shape, dtype=choice.packed.dtype, pin_memory=True)
            self._values.copy_(choice.packed, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def values(self) -> list[float]:
        """As they arrived."""
        if self._event is not None:
            self._event.synchronize()
        found: list[float] = self._values.tolist()
        return found

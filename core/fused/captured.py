"""Steps on a CUDA card: inputs at addresses that stay, one captured graph for each number of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.fused.answer_ops import Feed
from core.fused.answers import Answers, Row
from core.fused.graphs import Graphs
from core.fused.narrow import Inputs, Narrow, products_of
from core.fused.room import rows_bucket
from core.fused.slots import Stepping


class _State:
    """The inputs of steps of up to `rows` rows, and the logits. Rows beyond those in use write into a region of nobody."""

    def __init__(self, rows: int, answers: Answers) -> None:
        device, shape = answers.device, answers.net.shape
        self.rows, self.ranks = rows, answers.bank.ranks
        self.numbers = torch.zeros(5, rows, dtype=torch.int64, device=device)  # ids, positions, address, room, alive
        self.spans = torch.zeros(rows, 2, dtype=torch.int32, device=device)
        self.active = torch.zeros(max(1, self.ranks), dtype=torch.int32, device=device)
        self.scales = torch.zeros(rows, device=device)
        self.mask = torch.zeros(rows, max(1, self.ranks), device=device)
        self.logits = torch.empty(rows, shape.vocabulary, device=device)
        self.order = torch.arange(rows, device=device)
        self.given = torch.zeros(rows, shape.hidden, dtype=answers.dtype, device=device)
        dims = (shape.layers, 2, shape.kv_heads, 16, shape.head_dim)
        self.nobody = torch.zeros(dims, dtype=answers.dtype, device=device)

    def fill(self, rows: Sequence[Row], answers: Answers) -> None:
        """Take over who is there: four small copies, whenever rows or adapters change."""
        numbers = [[0, 0, self.nobody.data_ptr(), self.nobody.shape[3], 0] for _ in range(self.rows)]
        spans, scales = [[0, 0] for _ in range(self.rows)], [0.0] * self.rows
        mask = torch.zeros(self.mask.shape)
        for index, row in enumerate(rows):
            numbers[index] = [0, row.length, row.region.data_ptr(), row.region.shape[3], 1]
            if row.route.adapter is not None and row.route.strength:
                span = answers.bank.span(row.route.adapter)
                spans[index] = [span.first // 8, span.last // 8]
                scales[index] = span.scaling * row.route.strength
                mask[index, span.first : span.last] = scales[index]
        self.numbers.copy_(torch.tensor(numbers).t())
        self.spans.copy_(torch.tensor(spans, dtype=torch.int32))
        self.scales.copy_(torch.tensor(scales))
        self.mask.copy_(mask)
        self.active.copy_((mask != 0).any(0).to(torch.int32))


class Captured(Stepping):
    """See Stepping. Few rows go through Narrow, more through the passes that also read prompts."""

    def __init__(self, answers: Answers, model: nn.Module) -> None:
        self._answers = answers
        self._narrow = Narrow(answers.net, answers.bank, products_of(answers.net, model, answers.device))
        self._graphs = Graphs(answers.device)
        self._state: _State | None = None
        self._changed: object = None
        self._addresses: tuple[object, ...] = ()

    def step(self, rows: Sequence[Row], tokens: Tensor, changed: object) -> Tensor:
        """See Stepping.step."""
        answers = self._answers
        bucket = rows_bucket(len(rows))
        answers.angles.reach(max(row.length for row in rows) + 1)
        state = self._state
        if state is None or state.rows < bucket or state.ranks != answers.bank.ranks:
            self._forget()  # before new ones are made
            state = self._state = _State(max(bucket, 16), answers)
        self._settle()
        if changed is not self._changed:
            state.fill(rows, answers)
            self._changed = changed
        state.numbers[0, : len(rows)].copy_(tokens)
        if answers.net.embedding() is None:
            state.given[: len(rows)].copy_(answers.net.embed(tokens))
        routed = False
        if bucket <= self._narrow.most:
            self._narrow.prepare(bucket)
        else:
            routed = any(row.route.adapter is not None and row.route.strength for row in rows)
        self._graphs.run((bucket, routed), lambda: self._work(bucket, routed), after=1)
        for row in rows:
            row.length += 1
        return state.logits[: len(rows)]

    def rest(self) -> None:
        """See Stepping.rest."""
        self._forget()
        self._addresses = ()

    def _forget(self) -> None:
        self._graphs.drop()
        self._narrow.release()
        self._state = self._changed = None

    def _settle(self) -> None:
        """Drop the graphs if anything that they read by address lies elsewhere now."""
        answers = self._answers
        embedding = answers.net.embedding()
        now = (answers.bank.layers, answers.angles.cos, None if embedding is None else embedding.data_ptr())
        if len(now) != len(self._addresses) or any(
            a is not b and not (isinstance(a, int) and a == b) for a, b in zip(now, self._addresses, strict=True)
        ):
            self._graphs.drop()
            self._addresses = now

    def _work(self, bucket: int, routed: bool) -> None:
        """One step of `bucket` rows, reading and writing at fixed addresses only."""
        state, answers = self._state, self._answers
        assert state is not None
        ids, positions, _, _, alive = state.numbers[:, :bucket]
        place, logits = state.numbers[2:4, :bucket], state.logits[:bucket]
        cos, sin = answers.angles.of(positions)
        if bucket <= self._narrow.most:
            given = None
            if answers.net.embedding() is None:
                given, ids = state.given[:bucket], state.order[:bucket]
            spans, scales = state.spans[:bucket], state.scales[:bucket]
            inputs = Inputs(ids, positions, place, spans, scales, state.active, cos, sin, given)
            self._narrow.step(inputs, logits)
        else:
            mask = state.mask[:bucket] if routed else None
            off = None if mask is None else mask == 0
            feed = Feed(ids, positions, place, mask, off, cos, sin, positions)
            h = state.given[:bucket].clone() if answers.net.embedding() is None else None
            logits.copy_(answers.ops.logits(answers.run(feed, h), answers.net.head))
        positions.add_(alive)
